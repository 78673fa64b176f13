"""Names of LoRA in files, written by hand; test_with_peft.py compares the outputs."""

import json
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxdiff.components.component import Component
from jaxdiff.components.lora_export import write_lora
from jaxdiff.components.lora_files import HEADER, Adapters, read_lora
from jaxdiff.errors import InputError
from jaxdiff.networks import CLIPTextConfig
from tests.adapters.test_lora import NETWORK, PARAMS
from tests.helpers.components import random_params
from tests.helpers.lora import random_lora

TEXT = CLIPTextConfig(
    vocabulary=20, length=9, width=8, layers=2, heads=2, hidden=12
).build()
NETWORKS = {
    "unet": Component("UNet2DConditionModel", NETWORK, PARAMS),
    "text_encoder": Component("CLIPTextModel", TEXT, random_params(TEXT)),
}
BOTH = NETWORKS | {
    "text_encoder_2": Component("CLIPTextModel", TEXT, random_params(TEXT, 1))
}
BLOCK = "mid_block.attentions.0.transformer_blocks.0"
OURS = "mid_block.attentions.0/transformer_blocks.0"
LAYERS = {
    "conv": ("down_blocks.0.resnets.0/conv_1/kernel", (4, 4, 3, 3)),
    "skip": ("down_blocks.1.resnets.0/skip/kernel", (8, 4, 1, 1)),
    "time": ("down_blocks.1.resnets.0/time/kernel", (8, 16)),
    "smaller": ("down_blocks.0.downsamplers.0/conv/kernel", (4, 4, 3, 3)),
    "larger": ("up_blocks.0.upsamplers.0/conv/kernel", (8, 8, 3, 3)),
    "key": (f"{OURS}/attn2/to_k/kernel", (8, 8)),
    "out": (f"{OURS}/attn1/to_out.0/kernel", (8, 8)),
    "gate": (f"{OURS}/ff.net.0.proj/kernel", (64, 8)),
    "first": ("mid_block.attentions.0/proj_in/kernel", (8, 8, 1, 1)),
    "query": ("text_model.encoder.layers.1.self_attn/q_proj/kernel", (8, 8)),
    "mlp": ("text_model.encoder.layers.0.mlp.fc1/kernel", (12, 8)),
}
"""Names of kernels among our parameters, and PyTorch's shapes of their weights."""
OF_TEXT = ("query", "mlp")
KOHYA = {
    "conv": "down_blocks_0_resnets_0_conv1", "first": "mid_block_attentions_0_proj_in",
    "skip": "down_blocks_1_resnets_0_conv_shortcut",
    "time": "down_blocks_1_resnets_0_time_emb_proj",
    "smaller": "down_blocks_0_downsamplers_0_conv",
    "larger": "up_blocks_0_upsamplers_0_conv",
    "key": "mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
    "out": "mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
    "gate": "mid_block_attentions_0_transformer_blocks_0_ff_net_0_proj",
}  # fmt: skip
ORIGINAL = {
    "conv": "input_blocks_1_0_in_layers_2", "first": "middle_block_1_proj_in",
    "skip": "input_blocks_3_0_skip_connection",
    "time": "input_blocks_3_0_emb_layers_1", "smaller": "input_blocks_2_0_op",
    "larger": "output_blocks_1_1_conv",
    "key": "middle_block_1_transformer_blocks_0_attn2_to_k",
    "out": "middle_block_1_transformer_blocks_0_attn1_to_out_0",
    "gate": "middle_block_1_transformer_blocks_0_ff_net_0_proj",
}  # fmt: skip
NEW = {
    "conv": "down_blocks.0.resnets.0.conv1", "first": "mid_block.attentions.0.proj_in",
    "key": f"{BLOCK}.attn2.to_k", "out": f"{BLOCK}.attn1.to_out.0",
    "gate": f"{BLOCK}.ff.net.0.proj",
}  # fmt: skip
OLD = {
    "key": f"{BLOCK}.attn2.processor.to_k_lora",
    "out": f"{BLOCK}.attn1.processor.to_out_lora",
}
SELF = "text_model.encoder.layers.1.self_attn"
FC = "text_model.encoder.layers.0.mlp.fc1"
FORMS = {
    "kohya": {
        **{layer: f"lora_unet_{name}.lora_*" for layer, name in KOHYA.items()},
        "query": "lora_te_text_model_encoder_layers_1_self_attn_q_proj.lora_*",
        "mlp": "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_*",
    },
    "kohya-xl": {
        **{layer: f"lora_unet_{name}.lora_*" for layer, name in ORIGINAL.items()},
        "query": "lora_te1_text_model_encoder_layers_1_self_attn_q_proj.lora_*",
    },
    "diffusers": {
        **{layer: f"unet.{name}.lora.*" for layer, name in NEW.items()},
        "query": f"text_encoder.{SELF}.q_proj.lora_linear_layer.*",
        "mlp": f"text_encoder.{FC}.lora_linear_layer.*",
    },
    "diffusers-peft": {
        **{layer: f"unet.{name}.lora_#" for layer, name in NEW.items()},
        "query": f"text_encoder.{SELF.removeprefix('text_model.')}.q_proj.lora_#",
    },
    "old": {
        **{layer: f"unet.{name}.*" for layer, name in OLD.items()},
        "query": f"text_encoder.{SELF}.to_q_lora.*",
    },
    "first": {layer: f"{name}.*" for layer, name in OLD.items()},
    "peft": {
        layer: f"base_model.model.{name}.lora_#.default" for layer, name in NEW.items()
    },
    "peft-text": {
        "query": f"base_model.model.{SELF}.q_proj.lora_#",
        "mlp": f"base_model.model.{FC}.lora_#",
    },
}  # fmt: skip


def tensors_of(form, seed=0, dtype=np.float32):
    """Returns tensors of a form by name, and the product of each layer's factors."""
    rng = np.random.default_rng(seed)
    tensors, products = {}, {}
    for layer, name in FORMS[form].items():
        rank = int(rng.integers(1, 4))
        kernel, (outs, ins, *sides) = LAYERS[layer]
        ones = (1, 1) if sides else ()
        down = rng.normal(size=(rank, ins, *sides)).astype(dtype)
        up = rng.normal(size=(outs, rank, *ones)).astype(dtype)
        for part, letter, tensor in (("down", "A", down), ("up", "B", up)):
            full = name.replace("*", part).replace("#", letter)
            tensors[f"{full}.weight"] = tensor
        product = np.tensordot(up.reshape(outs, rank), down, 1).astype(np.float64)
        products[kernel] = product, rank, layer
        if form.startswith("kohya"):
            tensors[name.replace("lora_*", "alpha")] = np.array(
                rng.uniform(1, 3), np.float32
            )
    return tensors, products


def delta(layer):
    """Returns the product of our factors in PyTorch's layout, without the scale."""
    product = np.asarray(layer.down, float) @ np.asarray(layer.up, float).reshape(
        layer.up.shape[-2:]
    )
    return product.transpose(3, 2, 0, 1) if product.ndim == 4 else product.T


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_names_is_read(form, tmp_path):
    tensors, products = tensors_of(form)
    save_file(tensors, tmp_path / "file.safetensors")
    found = read_lora(tmp_path / "file.safetensors", NETWORKS)
    layers = {
        kernel: (network, layer)
        for network, lora in found.loras.items()
        for kernel, layer in lora.layers.items()
    }
    assert layers.keys() == products.keys()
    for kernel, (product, rank, name) in products.items():
        network, layer = layers[kernel]
        assert network == ("text_encoder" if name in OF_TEXT else "unet")
        assert layer.rank == rank
        known = delta(layer)
        np.testing.assert_allclose(
            known, product.reshape(known.shape), rtol=0, atol=1e-5
        )
        alpha = rank
        if form.startswith("kohya"):
            alpha = tensors[FORMS[form][name].replace("lora_*", "alpha")]
        assert float(layer.scale) == pytest.approx(alpha / rank, rel=1e-6)


def test_kohya_numbers_two_text_encoders(tmp_path):
    tensors, _ = tensors_of("kohya-xl")
    two = {
        re.sub("^lora_te1_", "lora_te2_", name): np.asarray(-tensor)
        for name, tensor in tensors.items()
        if name.startswith("lora_te1_")
    }
    save_file(tensors | two, tmp_path / "file.safetensors")
    found = read_lora(tmp_path / "file.safetensors", BOTH).loras
    kernel = LAYERS["query"][0]
    first, second = (
        found[n].layers[kernel] for n in ("text_encoder", "text_encoder_2")
    )
    np.testing.assert_array_equal(first.down, -second.down)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(tmp_path, dtype):
    tensors, _ = tensors_of("diffusers", dtype=dtype)
    save_file(tensors, tmp_path / "file.safetensors")
    found = read_lora(tmp_path / "file.safetensors", NETWORKS).loras["unet"]
    layer = found.layers[LAYERS["key"][0]]
    assert layer.down.dtype == np.float32
    name = f"unet.{BLOCK}.attn2.to_k.lora.down.weight"
    np.testing.assert_array_equal(layer.down, tensors[name].astype(np.float32).T)


def test_pefts_configuration_names_alphas(tmp_path):
    tensors, products = tensors_of("peft")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = {
        "lora_alpha": 6, "alpha_pattern": {r"attn2\.to_k": 5, "conv1": 0.5},
        "rank_pattern": {}, "use_rslora": False,
    }  # fmt: skip
    alphas = {"key": 5, "conv": 0.5}
    for root in (False, True):
        text = json.dumps(config | {"use_rslora": root})
        (tmp_path / "adapter_config.json").write_text(text)
        found = read_lora(tmp_path, NETWORKS).loras["unet"].layers
        for kernel, (_, rank, layer) in products.items():
            expected = alphas.get(layer, 6) / (rank**0.5 if root else rank)
            assert float(found[kernel].scale) == pytest.approx(expected)


@pytest.mark.parametrize("order", ["old", "new"])
def test_numbered_layers_of_cloneofsimo_have_an_order(tmp_path, order):
    attention = [
        [f"{name}/{part}" for part in ("to_q", "to_k", "to_v", "to_out.0")]
        for name in ("attn1", "attn2")
    ]
    gate = ["ff.net.0.proj"]
    parts = [*attention[0], *gate, *attention[1]]
    if order == "new":
        parts = [*attention[0], *attention[1], *gate]
    blocks = ["down_blocks.0.attentions.0", "up_blocks.1.attentions.0"]
    blocks += ["up_blocks.1.attentions.1", "mid_block.attentions.0"]
    kernels = [
        f"{block}/transformer_blocks.0/{part}/kernel"
        for block in blocks
        for part in parts
    ]
    lora = random_lora(PARAMS, r"attn\d|net.0")
    assert sorted(kernels) == sorted(lora.layers)
    texts = [
        f"text_model.encoder.layers.{i}.self_attn/{name}/kernel"
        for i in range(2)
        for name in ("k_proj", "v_proj", "q_proj", "out_proj")
    ]
    of_text = random_lora(NETWORKS["text_encoder"].params, "self_attn")
    tensors = {"<s1>": np.arange(8, dtype=np.float32)}
    for network, names, layers in (
        ("unet", kernels, lora.layers), ("text_encoder", texts, of_text.layers)
    ):  # fmt: skip
        for i, kernel in enumerate(names):
            tensors[f"{network}:{i}:down"] = np.asarray(layers[kernel].down).T
            tensors[f"{network}:{i}:up"] = np.asarray(layers[kernel].up).T
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(tensors, tmp_path / "file.safetensors", {"<s1>": "<embed>"})
    found = read_lora(tmp_path / "file.safetensors", NETWORKS)
    for network, names, layers in (
        ("unet", kernels, lora.layers), ("text_encoder", texts, of_text.layers)
    ):  # fmt: skip
        assert found.loras[network].layers.keys() == set(names)
        for kernel in names:
            layer = found.loras[network].layers[kernel]
            np.testing.assert_array_equal(layer.down, layers[kernel].down)
            np.testing.assert_array_equal(layer.up, layers[kernel].up)
            assert float(layer.scale) == 1
    np.testing.assert_array_equal(
        found.embeddings["<s1>"]["text_encoder"], tensors["<s1>"][None]
    )


@pytest.mark.parametrize("format", ["diffusers", "kohya"])
def test_a_written_adapter_is_read_again(tmp_path, format):
    adapter = Adapters({n: random_lora(c.params) for n, c in BOTH.items()})
    write_lora(adapter, tmp_path / "a.safetensors", BOTH, format=format)
    found = read_lora(tmp_path / "a.safetensors", BOTH)
    assert found.loras.keys() == BOTH.keys()
    for network, lora in adapter.loras.items():
        layers = found.loras[network].layers
        assert layers.keys() == lora.layers.keys()
        for kernel, layer in lora.layers.items():
            np.testing.assert_array_equal(layers[kernel].down, layer.down)
            np.testing.assert_array_equal(layers[kernel].up, layer.up)
            if format == "diffusers":
                assert layers[kernel].scale == layer.scale
            else:  # alpha is float32
                np.testing.assert_allclose(layers[kernel].scale, layer.scale, rtol=2e-7)


NAME = f"unet.{BLOCK}.attn2.to_k.lora_"
PAIR = {
    f"{NAME}A.weight": np.ones((2, 8), np.float32),
    f"{NAME}B.weight": np.ones((8, 2), np.float32),
}
FIT = "must fit the model, got 1 that do not: "
USE = r"\. Use an adapter of this model\."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora_unet_x.dora_scale": 1}, "must hold LoRA, got DoRA"),
        ({"unet.x.lora_magnitude_vector": 1}, "must hold LoRA, got DoRA"),
        ({"lora_unet_x.hada_w1_a": 1}, "must hold LoRA, got LoHa"),
        ({"lora_unet_x.lokr_w1": 1}, "must hold LoRA, got LoKr"),
        ({"lora_unet_x.lora_mid.weight": 1}, "must hold LoRA, got LoCon with a core"),
        ({"unet.x.diff": 1}, f"{FIT}unet.x.diff, which is no part of LoRA{USE}"),
        (
            {f"{NAME}B.weight": None},
            f"{FIT}{NAME}A.weight without up{USE}",
        ),
        (
            {f"{NAME}A.weight": np.ones((2, 7), np.float32)},
            FIT + re.escape(f"{NAME}A.weight of [2, 7] and [8, 2], for [8, 8]") + USE,
        ),
        (
            {"unet.x.lora_A.weight": 1},
            f"{FIT}unet.x.lora_A.weight, whose layer the model lacks{USE}",
        ),
        (
            {
                f"unet.{BLOCK}.attn2.processor.to_k_lora.down.weight": np.ones((2, 8)),
                f"unet.{BLOCK}.attn2.processor.to_k_lora.up.weight": np.ones((8, 2)),
            },
            "which is there twice",
        ),
        (
            {f"unet.{BLOCK}.attn2.to_k.alpha": np.ones(2)},
            f"{FIT}unet.{BLOCK}.attn2.to_k.alpha, which is not one number{USE}",
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_fit_are_one_line(tmp_path, changes, message):
    tensors = {
        name: np.ones(1, np.float32) if isinstance(one, int) else one
        for name, one in (PAIR | changes).items()
        if one is not None
    }
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(InputError, match=message):
        read_lora(tmp_path / "file.safetensors", NETWORKS)


def test_other_files_are_one_line(tmp_path):
    save_file(PAIR, tmp_path / "file.safetensors", {HEADER: "{"})
    with pytest.raises(InputError, match=f"dictionary in JSON as {HEADER}"):
        read_lora(tmp_path / "file.safetensors", NETWORKS)
    for entry, value in (("lora_alpha", "2"), ("alpha_pattern", {"(": 1})):
        texts = {HEADER: json.dumps({f"unet.{entry}": value})}
        save_file(PAIR, tmp_path / "file.safetensors", texts)
        with pytest.raises(InputError, match=f"{entry} must"):
            read_lora(tmp_path / "file.safetensors", NETWORKS)
    with pytest.raises(InputError, match="must hold adapter_model"):
        read_lora(tmp_path, NETWORKS)
    (tmp_path / "file.bin").write_bytes(b"")
    with pytest.raises(InputError, match="a pickle, with --bin"):
        read_lora(tmp_path / "file.bin", NETWORKS)
    embeds = Adapters({}, {"<s1>": {"text_encoder": np.ones((1, 8))}})
    with pytest.raises(InputError, match="adapter must have no embeddings"):
        write_lora(embeds, tmp_path / "out.safetensors", NETWORKS)
    other = random_lora({"a": {"kernel": np.ones((2, 2))}})
    with pytest.raises(InputError, match="lora must fit the network"):
        write_lora(other, tmp_path / "out.safetensors", NETWORKS)
    assert not (tmp_path / "out.safetensors").exists()
