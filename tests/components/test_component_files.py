"""Files of text encoders and autoencoders: their forms, sizes, and what is refused."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from jaxdiff.components.component import (
    Component,
    network_of,
    param_shapes,
    read_component,
    write_component,
)
from jaxdiff.components.kinds import KINDS
from jaxdiff.components.places import tensors_of, wanted_tensors
from jaxdiff.components.published_names import published_places
from jaxdiff.components.taesd import read_taesd
from jaxdiff.components.weights import file_size
from jaxdiff.errors import InputError
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig
from jaxdiff.networks.autoencoder_tiny import AutoencoderTinyConfig
from jaxdiff.networks.clip import CLIPTextConfig
from tests.helpers.components import random_params
from tests.helpers.pytorch import torch

CLIP_L = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "hidden_act": "quick_gelu", "projection_dim": 768,
}  # fmt: skip
OPENCLIP_H = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16, "hidden_act": "gelu", "projection_dim": 512,
}  # fmt: skip
OPENCLIP_BIGG = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "hidden_act": "gelu", "projection_dim": 1280,
}  # fmt: skip
KL = {
    "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}  # fmt: skip
SD = {"cross_attention_dim": 768}
SD2 = {
    "cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}  # fmt: skip
SDXL = {
    "block_out_channels": [320, 640, 1280], "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
    "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
    "attention_head_dim": [5, 10, 20], "transformer_layers_per_block": [1, 2, 10],
    "use_linear_projection": True, "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
}  # fmt: skip
LONG = pytest.mark.long
FLUX = {
    **KL, "latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False
}  # fmt: skip
OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def with_old_names(tensors):
    """Returns tensors with the names of attention of diffusers before 0.17."""
    found = {}
    for name, tensor in tensors.items():
        for new, old in OLD.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        found[name] = tensor
    return found


@pytest.mark.parametrize(
    ("name", "config", "dtype", "old", "tensors", "params", "size"),
    [
        # Stable Diffusion XL; its vae and both text encoders
        ("AutoencoderKL", KL, "F32", False, 248, 83_653_863, 334_643_268),
        ("CLIPTextModel", CLIP_L, "F32", False, 196, 123_060_480, 492_265_168),
        (
            "CLIPTextModelWithProjection", OPENCLIP_BIGG, "F32", False, 517,
            694_659_840, 2_778_702_264,
        ),
        # Stable Diffusion 1.5 and 2.1
        ("AutoencoderKL", KL, "F32", True, 248, 83_653_863, 334_643_276),
        # The published file is 714 bytes longer by the tensor position_ids.
        ("CLIPTextModel", OPENCLIP_H, "F32", False, 372, 340_387_840, 1_361_596_304),
        # FLUX.1-schnell
        ("AutoencoderKL", FLUX, "F16", False, 244, 83_819_683, 167_666_654),
        # The U-Nets of Stable Diffusion 1.5, 2.1 and XL. Published files of the first
        # two in F32 are 4 and 6 bytes different: their headers are not padded.
        ("UNet2DConditionModel", SD, "F16", False, 686, 859_520_964, 1_719_125_304),
        pytest.param(
            "UNet2DConditionModel", SD, "F32", False, 686, 859_520_964, 3_438_167_536,
            marks=LONG,
        ),
        pytest.param(
            "UNet2DConditionModel", SD2, "F32", False, 686, 865_910_724, 3_463_726_504,
            marks=LONG,
        ),
        pytest.param(
            "UNet2DConditionModel", SDXL, "F32", False, 1680, 2_567_463_684,
            10_270_077_736, marks=LONG,
        ),
    ],
)  # fmt: skip
def test_files_have_the_published_sizes(
    name, config, dtype, old, tensors, params, size
):
    """Names, shapes and number of all tensors, to the byte, without any weights."""
    network = network_of(name, config)
    shapes = wanted_tensors(KINDS[name].places(network, param_shapes(network)))
    shapes = with_old_names(shapes) if old else shapes
    assert len(shapes) == tensors
    assert sum(np.prod(shape) for shape in shapes.values()) == params
    assert file_size(shapes, dtype) == size


def test_a_size_is_that_of_a_file(tmp_path):
    network = AutoencoderKLConfig(widths=(8, 16), groups=4).build()
    params = random_params(network)
    for dtype, name in ((np.float32, "F32"), (np.float16, "F16")):
        typed = jax.tree.map(lambda a, d=dtype: a.astype(d), params)
        folder = tmp_path / name
        write_component(Component("AutoencoderKL", network, typed), folder)
        (file,) = folder.glob("*.safetensors")
        shapes = wanted_tensors(published_places(param_shapes(network)))
        assert file.stat().st_size == file_size(shapes, name)


@pytest.fixture(scope="module")
def kl(tmp_path_factory):
    """Folder of a small autoencoder."""
    network = AutoencoderKLConfig(widths=(8, 16), groups=4, blocks=1).build()
    folder = tmp_path_factory.mktemp("kl") / "vae"
    write_component(Component("AutoencoderKL", network, random_params(network)), folder)
    return folder


@pytest.fixture
def copy(kl, tmp_path):
    return shutil.copytree(kl, tmp_path / "vae")


FILE = "diffusion_pytorch_model.safetensors"


def change(folder, function):
    """Changes the tensors of a folder's file."""
    tensors = safetensors.numpy.load_file(folder / FILE)
    safetensors.numpy.save_file(function(tensors), folder / FILE)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_old_names_and_names_that_nobody_needs(kl, copy, tmp_path):
    change(copy, with_old_names)
    same(read_component(copy), read_component(kl))
    network = CLIPTextConfig(
        vocabulary=50, length=9, width=8, layers=1, heads=2, hidden=16
    ).build()
    component = Component("CLIPTextModel", network, random_params(network))
    write_component(component, tmp_path / "clip")
    file = tmp_path / "clip" / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    positions = {"text_model.embeddings.position_ids": np.arange(9)[None]}
    for form in (
        tensors | positions,
        {name.removeprefix("text_model."): t for name, t in tensors.items()},
    ):
        safetensors.numpy.save_file(form, file)
        same(read_component(tmp_path / "clip"), component)


def test_shards_and_half_precision(kl, copy):
    whole = read_component(kl)
    tensors = safetensors.numpy.load_file(copy / FILE)
    (copy / FILE).unlink()
    names = sorted(tensors)
    places: dict[str, str] = {}
    for number, chosen in ((1, names[:20]), (2, names[20:])):
        part = FILE.replace(".safe", f"-0000{number}-of-00002.safe")
        safetensors.numpy.save_file({n: tensors[n] for n in chosen}, copy / part)
        places |= dict.fromkeys(chosen, part)
    index = copy / f"{FILE}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    same(read_component(copy), whole)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rounded = {name: t.astype(dtype) for name, t in tensors.items()}
        safetensors.numpy.save_file(rounded, copy / FILE)
        found = read_component(copy)
        jax.tree.map(
            lambda a, b, d=dtype: np.testing.assert_array_equal(
                a, np.asarray(b).astype(d).astype(np.float32)
            ),
            found.params, whole.params,
        )  # fmt: skip


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.long)]
)
def test_parameters_have_the_type_that_is_asked_for(kl, tmp_path, dtype):
    found = read_component(kl, dtype=dtype)
    assert {leaf.dtype for leaf in jax.tree.leaves(found.params)} == {jnp.dtype(dtype)}
    assert found.network.config.dtype == dtype
    write_component(found, tmp_path / "again")
    same(read_component(tmp_path / "again", dtype=dtype), found)
    images = jnp.zeros((1, 8, 8, 3))
    exact, rough = (
        c.network.apply({"params": c.params}, images)
        for c in (read_component(kl), found)
    )
    assert rough.dtype == jnp.float32
    np.testing.assert_allclose(rough, exact, atol=0.1 * np.abs(exact).max())


def test_parameters_go_to_their_devices(kl):
    mesh = jax.make_mesh((2,), ("device",), devices=jax.devices()[:2])
    whole = read_component(kl)

    def sharding(leaf):
        parts = ("device",) if leaf.shape[0] % 2 == 0 else ()
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*parts))

    wanted = jax.tree.map(sharding, whole.params)
    found = read_component(kl, shardings=wanted)
    assert jax.tree.map(lambda leaf: leaf.sharding, found.params) == wanted
    same(found, whole)


def test_a_pickle_is_read_on_request_only(kl, copy):
    tensors = safetensors.numpy.load_file(copy / FILE)
    (copy / FILE).unlink()
    pickled = {name: torch.from_numpy(t) for name, t in tensors.items()}
    torch.save(pickled, copy / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"Read its \.bin file, a pickle, with --bin"):
        read_component(copy)
    same(read_component(copy, allow_bin=True), read_component(kl))


def spoiled(name, **fields):
    def spoil(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return spoil


def dropped(tensors):
    tensors.pop("decoder.conv_in.bias")
    return tensors | {"x": np.zeros(2, np.float32)}


WRONG = {
    "missing and unknown": (
        lambda f: change(f, dropped),
        r"1 missing: decoder\.conv_in\.bias; 1 unknown: x$",
    ),
    "shape": (
        lambda f: change(f, lambda t: t | {"quant_conv.bias": np.zeros(3, np.float32)}),
        r"1 of another shape: quant_conv\.bias is \[3\], not \[8\]",
    ),
    "truncated": (
        lambda f: (f / FILE).write_bytes((f / FILE).read_bytes()[:-9]),
        r"must be a complete safetensors file",
    ),
    "no weights": (lambda f: (f / FILE).unlink(), r"must hold weights, got no"),
    "pointer": (
        lambda f: (f / FILE).write_text("version https://git-lfs.github.com/spec/v1"),
        r"Run git lfs pull",
    ),
    "class": (spoiled("config.json", _class_name="VQModel"), r"must be one of CLIPTex"),
    "blocks": (
        spoiled("config.json", down_block_types=["DownEncoderBlock2D", "A"]),
        r"down_block_types must be 2 times DownEncoderBlock2D, got",
    ),
    "activation": (spoiled("config.json", act_fn="mish"), r"act_fn must be silu, got"),
    "groups": (spoiled("config.json", norm_num_groups=3), r"groups must divide the ch"),
    "statistics": (
        spoiled("config.json", latents_mean=[0.0]), r"scaling\.mean must have 4 values"
    ),
    "a text": (spoiled("config.json", layers_per_block="x"), r"blocks must be a whole"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name, copy):
    spoil, match = WRONG[name]
    spoil(copy)
    with pytest.raises(InputError, match=match) as caught:
        read_component(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pooled", [False, True])
def test_tiny_autoencoders_of_their_authors_files(tmp_path, pooled):
    """Encoder and decoder are numbered lists; the decoder's first layer is a clamp."""
    config = AutoencoderTinyConfig(
        width=8, latent_channels=5, encoder_blocks=(1, 2, 1), decoder_blocks=(2, 1, 1),
        pooled=pooled,
    )  # fmt: skip
    params = random_params(config.build())
    tensors = tensors_of(params, published_places(params))
    for part, first in (("encoder", 0), ("decoder", 1)):
        start = f"{part}.layers."
        own = {n.removeprefix(start): t for n, t in tensors.items() if start in n}
        numbered = {}
        for name, tensor in own.items():
            number, _, rest = name.partition(".")
            numbered[f"{int(number) + first}.{rest}"] = torch.from_numpy(tensor.copy())
        torch.save(numbered, tmp_path / f"{part}.pth")
    found = read_taesd(tmp_path / "encoder.pth", tmp_path / "decoder.pth")
    assert found.network.config == config
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    with pytest.raises(InputError, match=r"numbered layers|the parts of a tiny"):
        read_taesd(tmp_path / "decoder.pth", tmp_path / "decoder.pth")


PEAK = """
import resource, sys
import jax
from jaxdiff.components.component import read_component

jax.numpy.zeros(3).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
component = read_component(sys.argv[1])
jax.block_until_ready(component.params)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""


def test_reading_takes_little_more_memory_than_the_parameters(tmp_path):
    """Tensor by tensor: the peak is what is kept, and a file's pages."""
    network = CLIPTextConfig(
        vocabulary=40_000, length=8, width=512, layers=2, heads=8, hidden=2048
    ).build()
    params = random_params(network)
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert kept > 100e6
    write_component(Component("CLIPTextModel", network, params), tmp_path / "clip")
    (file,) = (tmp_path / "clip").glob("*.safetensors")
    run = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path / "clip")],
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    peak = int(run.stdout)
    assert peak < kept + 1.2 * file.stat().st_size
