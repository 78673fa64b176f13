"""U-Net with cross-attention against diffusers' UNet2DConditionModel.

Every parameter is overwritten by random numbers, because layers that start at 0 would
hide errors.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.components.component import (
    Component,
    network_of,
    param_shapes,
    write_component,
)
from jaxdiff.components.unet_2d import Model
from jaxdiff.components.unet_2d_export import unet_2d_of
from jaxdiff.denoisers.network import check_condition
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig
from jaxdiff.serialization import from_dict, to_dict
from jaxdiff.training.experiment import Experiment
from jaxdiff.typing import Condition
from tests.components.test_component import (
    check,
    filled,
    loads_without_a_word,
    nchw,
    read_back,
)
from tests.helpers.pairwise import pairwise
from tests.helpers.pytorch import diffusers, torch

CLOSE = 1e-5
"""Largest difference, in parts of the largest number."""
CROSS, PLAIN, SIMPLE, RESNET = "CrossAttn", "", "SimpleCrossAttn", "Resnet"
TEXT = 12


def blocks(*kinds, middle=CROSS, dims=TEXT):
    """Returns the entries for the blocks of each level, the largest first."""
    down = [
        "ResnetDownsampleBlock2D" if k == RESNET else f"{k}DownBlock2D" for k in kinds
    ]
    up = ["ResnetUpsampleBlock2D" if k == RESNET else f"{k}UpBlock2D" for k in kinds]
    types = {None: None, PLAIN: "UNetMidBlock2D"}
    return {
        "down_block_types": down, "up_block_types": up[::-1],
        "mid_block_type": types.get(middle, f"UNetMidBlock2D{middle}"),
        "cross_attention_dim": dims,
    }  # fmt: skip


LAYOUTS = {
    "sd": blocks(CROSS, PLAIN),
    "sdxl": blocks(PLAIN, CROSS),
    "no middle": blocks(CROSS, CROSS, middle=None),
    "one block": blocks(CROSS, PLAIN, middle=PLAIN),
    "karlo": blocks(RESNET, SIMPLE, middle=SIMPLE),
    "added": blocks(SIMPLE, SIMPLE, middle=SIMPLE),
    "audio": blocks(PLAIN, CROSS, dims=[8, 16]),
    "no attention": blocks(PLAIN, RESNET, middle=PLAIN),
}  # fmt: skip
FURTHER: dict[str, dict[str, Any]] = {
    "none": {},
    "classes": {"num_class_embeds": 5},
    "timestep": {"class_embed_type": "timestep"},
    "identity": {"class_embed_type": "identity"},
    "projection": {
        "class_embed_type": "projection", "projection_class_embeddings_input_dim": 7
    },
    "concatenated": {
        "class_embed_type": "simple_projection", "class_embeddings_concat": True,
        "projection_class_embeddings_input_dim": 7,
    },
    "text": {"addition_embed_type": "text", "addition_embed_type_num_heads": 4},
    "text_time": {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 10 + 6 * 8,
    },
    "projected text": {"encoder_hid_dim": 6},
    "image": {
        "addition_embed_type": "image", "encoder_hid_dim": 6,
        "encoder_hid_dim_type": "image_proj",
    },
    "text and image": {
        "addition_embed_type": "text_image", "encoder_hid_dim": 6,
        "encoder_hid_dim_type": "text_image_proj",
    },
}  # fmt: skip
OPTIONS: dict[str, list[Any]] = {
    "layout": list(LAYOUTS),
    "further": list(FURTHER),
    "attention_head_dim": [2, [2, 4]],
    "transformer_layers_per_block": [1, [1, 2]],
    "layers_per_block": [1, [1, 2]],
    "use_linear_projection": [False, True],
    "time_cond_proj_dim": [None, 8],
    "resnet_time_scale_shift": ["default", "scale_shift"],
    "only_cross_attention": [False, [True, False]],
    "time": [
        {},
        {
            "time_embedding_dim": 20, "time_embedding_act_fn": "gelu",
            "timestep_post_act": "silu", "flip_sin_to_cos": False, "freq_shift": 1,
        },
    ],
    "resnets": [
        {},
        {
            "act_fn": "gelu", "resnet_skip_time_act": True,
            "resnet_out_scale_factor": 1.4, "mid_block_scale_factor": 1.2,
        },
    ],
    "channels": [(4, 4), (9, 4), (3, 6)],
    "input": [{}, {"center_input_sample": True, "downsample_padding": 0}],
    "masked": [False, True],
}  # fmt: skip


def config_of(layout="sd", further="none", time=None, resnets=None, input=None,
              channels=(4, 4), masked=False, **entries):  # fmt: skip
    """Returns the configuration of a small network."""
    config = {
        "block_out_channels": [8, 16], "norm_num_groups": 4, "sample_size": 8,
        "attention_head_dim": 2, "layers_per_block": 1, "in_channels": channels[0],
        "out_channels": channels[1], **LAYOUTS[layout], **FURTHER[further],
        **(time or {}), **(resnets or {}), **(input or {}), **entries,
    }  # fmt: skip
    if SIMPLE in "".join(config["down_block_types"]):
        config["attention_head_dim"] = 2  # diffusers mixes up several numbers
    if layout == "audio":  # it has no text
        config["only_cross_attention"] = False
        if further in ("text", "projected text", "image", "text and image"):
            for name in FURTHER[further]:
                del config[name]
    return config


def evaluated(config, found, module, masked=False, size=(8, 8), seed=2):
    """Returns the outputs of our network and of theirs for a random condition."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    network, batch = found.network, 2
    example: Any = network.example_condition((*size, 1))
    text: Any = None
    if example.text is not None:
        text = draw(batch, 5, example.text.shape[-1])
    mask = np.arange(5) < np.array([[3], [5]]) if masked and text is not None else None
    if config.get("encoder_hid_dim_type") == "text_image_proj" or (
        SIMPLE in config["down_block_types"][0] and config.get("only_cross_attention")
    ):
        mask = None  # diffusers has no mask for these
    vector: Any = (
        None if example.vector is None else draw(batch, example.vector.shape[-1])
    )
    numbers: Any = None
    if example.numbers is not None:
        numbers = rng.uniform(2, 900, (batch, example.numbers.shape[-1]))
        if config.get("time_cond_proj_dim"):
            numbers[:, -1] /= 100
        numbers = numbers.astype(np.float32)
    image = None
    if example.image is not None:
        image = draw(batch, *size, example.image.shape[-1])
    labels = None if example.labels is None else np.array([0, 4])
    condition = Condition(labels, text, mask, vector, image, numbers)
    x, t = draw(batch, *size, network.in_channels), np.array([3, 801])
    ours = jax.jit(network.apply)({"params": found.params}, x, t, condition)

    given = torch.from_numpy
    whole = x if image is None else np.concatenate([x, image], axis=-1)
    added: dict[str, Any] = {}
    guidance = None
    if config.get("time_cond_proj_dim"):
        scale, numbers = numbers[:, -1], numbers[:, :-1]
        guidance = guidance_embedding(scale - 1, config["time_cond_proj_dim"])
    kind = config.get("addition_embed_type")
    if kind == "text_time":
        added = {"text_embeds": given(vector), "time_ids": given(numbers)}
    elif kind == "image":
        added = {"image_embeds": given(vector)}
    elif kind == "text_image":
        halves = np.split(vector, 2, axis=-1)
        added = {"text_embeds": given(halves[0]), "image_embeds": given(halves[1])}
    classes = None if labels is None else given(labels)
    if config.get("class_embed_type"):
        classes = given(vector[:, 0] if vector.shape[-1] == 1 else vector)
    with torch.no_grad():
        theirs = module(
            nchw(whole), given(t), None if text is None else given(text),
            class_labels=classes, timestep_cond=guidance, added_cond_kwargs=added,
            encoder_attention_mask=None if mask is None else given(mask),
        ).sample  # fmt: skip
    return np.asarray(ours).transpose(0, 3, 1, 2), theirs


def guidance_embedding(scales, features):
    """Returns the embedding of guidance scales as diffusers' LCM pipelines make it."""
    name = "LatentConsistencyModelPipeline"
    embed = getattr(diffusers, name).get_guidance_scale_embedding
    return embed(None, torch.from_numpy(scales), embedding_dim=features)


def agree(case, folder, size=(8, 8)):
    """Checks that reading, evaluating and writing agree with diffusers."""
    config = config_of(**case)
    module = filled(diffusers.UNet2DConditionModel(**config), scale=0.1)
    with torch.no_grad():  # attention that is not uniform
        for name, parameter in module.named_parameters():
            parameter *= 10.0 ** name.endswith("to_q.weight")
    found = read_back(module, folder)
    ours, theirs = evaluated(config, found, module, case.get("masked", False), size)
    assert np.ptp(theirs.numpy()) > 0.1
    check(ours, theirs, CLOSE)
    return module


SHORT = [
    {"further": "classes", "use_linear_projection": True, "channels": (9, 4)},
    {
        "layout": "sdxl", "further": "text_time", "attention_head_dim": [2, 4],
        "time_cond_proj_dim": 8, "transformer_layers_per_block": [1, 2],
    },
    {
        "layout": "karlo", "further": "identity", "channels": (3, 6), "masked": True,
        "resnet_time_scale_shift": "scale_shift", "resnets": OPTIONS["resnets"][1],
    },
]  # fmt: skip


@pytest.mark.parametrize("case", SHORT, ids=["sd", "sdxl", "karlo"])
def test_a_unet(tmp_path, capfd, caplog, case):
    module = agree(case, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)


@pytest.mark.long
@pytest.mark.parametrize(
    "case", pairwise(OPTIONS), ids=lambda c: f"{c['layout']}-{c['further']}"
)
def test_every_pair_of_options(tmp_path, capfd, caplog, case):
    module = agree(case, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)


@pytest.mark.long
@pytest.mark.parametrize(
    "case",
    [
        # Fewer layers than Stable Diffusion XL, another number in each transformer.
        {
            "layout": "sdxl", "layers_per_block": 2,
            "transformer_layers_per_block": [1, [2, 1]],
            "reverse_transformer_layers_per_block": [[1, 2, 1], 1],
        },
        # Text of 4096 features, as in DeepFloyd IF.
        {
            "layout": "karlo", "further": "projected text", "cross_attention_dim": 64,
            "cross_attention_norm": "group_norm", "resnets": OPTIONS["resnets"][1],
        },
        {"down_block_types": ["UNetResCrossAttnDownBlock2D", "DownBlock2D"]},
        {"upcast_attention": True, "mid_block_type": None},
    ],
    ids=["layers of each", "norm of the text", "old names", "upcast"],
)  # fmt: skip
def test_rare_options(tmp_path, case):
    agree(case, tmp_path)


@pytest.mark.long
def test_sizes_that_two_does_not_divide(tmp_path):
    agree({}, tmp_path, size=(7, 9))


REFUSED = {
    "attention_type": ("gated", "attention_type must be 'default', got 'gated'"),
    "num_attention_heads": (8, "num_attention_heads must be null, got 8"),
    "dual_cross_attention": (True, "dual_cross_attention must be False, got True"),
    "conv_in_kernel": (5, "conv_in_kernel must be 3, got 5"),
    "time_embedding_type": ("fourier", "time_embedding_type must be 'positional'"),
    "act_fn": ("mish", "activation must be .* got 'mish'"),
    "addition_embed_type": ("image_hint", "addition_embed_type must be one of null"),
    "encoder_hid_dim_type": ("ip_image_proj", "encoder_hid_dim_type must be one of"),
    "cross_attention_norm": ("layer_norm", "cross_attention_norm must be one of null"),
    "down_block_types": (["KDownBlock2D", "DownBlock2D"], "down_block_types must be"),
    "up_block_types": (["UpBlock2D"], "up_block_types must be 2 names"),
    "mid_block_type": ("UNetMidBlock3D", "mid_block_type must be one of"),
    "block_out_channels": ([6, 16], "groups must divide the channels 6, got 4"),
    "attention_head_dim": ([2, 4, 4], "attention_head_dim must be one number or 2"),
    "cross_attention_dim": ([8, 12], "cross_attention_dim must be one number, or the"),
    "transformer_layers_per_block": ([1, [2]], "reverse_transformer_layers_per_block"),
    "class_embed_type": ("projection", "vector_channels must be a number for class"),
    "norm_num_groups": (None, "norm_num_groups must not be null, got null"),
    "flip_sin_to_cos": (None, "flip_sin_to_cos must not be null, got null"),
    "layers_per_block": (1000, "layers_per_block must be 'up to 64', got 1000"),
    "resnet_time_scale_shift": ("ada_group", "resnet_time_scale_shift must be one of"),
    "class_embeddings_concat": (True, "class_embeddings_concat must be false without"),
}  # fmt: skip


@pytest.mark.parametrize("entry", REFUSED)
def test_what_is_not_supported_is_named(entry):
    value, match = REFUSED[entry]
    record = config_of("no middle", **{entry: value})
    with pytest.raises(InputError, match=match) as caught:
        network_of("UNet2DConditionModel", record, "unet/config.json")
    assert "\n" not in str(caught.value)


OFF = "{} must be off for diffusers, whose networks have no such input"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second_time": True}, OFF.format("second_time")),
        ({"image_level": True, "condition_channels": 3}, OFF.format("image_level")),
        ({"patch": 2}, "network.patch must be 1 for diffusers, got 2: it has no U-Net"),
    ],
    ids=["second_time", "image_level", "patch"],
)
def test_inputs_that_diffusers_lacks_are_not_written(tmp_path, changes, message):
    network = CrossAttentionUNetConfig(**changes).build(4)
    with pytest.raises(InputError, match=message):
        write_component(Component("UNet2DConditionModel", network, {}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    pixels = Model(jd.UNetConfig(**changes), (32, 32, 3), 3, None)
    with pytest.raises(InputError, match=message):
        unet_2d_of(pixels)


def test_old_and_new_entries():
    """Absent, null and unknown entries, and those of an average of the parameters."""
    kind, record = "UNet2DConditionModel", config_of()
    network = network_of(kind, record)
    nulls = {"upcast_attention": None, "only_cross_attention": None, "dropout": 0}
    average = {"decay": 0.9999, "optimization_step": 7, "use_ema_warmup": False}
    with pytest.warns(UserWarning, match="ignored entries .*: decay, new_entry, opt"):
        found = network_of(kind, {**record, **nulls, **average, "new_entry": 3})
    assert found == network


def test_a_network_names_what_it_needs():
    network = network_of(
        "UNet2DConditionModel",
        config_of("sdxl", "text_time", channels=(9, 4), time_cond_proj_dim=8),
    )
    assert network.takes == ("text", "vector", "image", "numbers", "mask")
    full = network.example_condition((8, 8, 4))

    def shapes(**changes):
        condition = full._replace(**changes)
        check_condition(condition, network)
        x, t = jnp.zeros((1, 8, 8, 4)), jnp.zeros(1)
        return jax.eval_shape(network.init, jax.random.key(0), x, t, condition)

    for name in ("text", "vector", "image", "numbers"):
        with pytest.raises(InputError, match=f"{name} must be given to this network"):
            shapes(**{name: None})
    wrong = {
        "vector": (jnp.zeros((1, 11)), "vector and 8 times the numbers must be 58"),
        "text": (jnp.zeros((1, 3, 5)), r"text must be \[batch, tokens, 12\], got"),
        "image": (jnp.zeros((1, 8, 8, 4)), r"image must have shape \(1, 8, 8, 5\)"),
        "numbers": (jnp.zeros((1, 6)), "vector and 8 times the numbers"),
    }
    for name, (part, match) in wrong.items():
        with pytest.raises(InputError, match=match):
            shapes(**{name: part})


def test_an_experiment_holds_the_network():
    config = network_of("UNet2DConditionModel", config_of(layers_per_block=[1, 2]))
    experiment = Experiment(network=config.config)
    assert from_dict(Experiment, to_dict(experiment)) == experiment
    experiment.check(experiment.schedule.build())


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_types_and_recomputation():
    """Half precision is near float32; recomputed gradients and chunks are the same."""
    record = config_of("no middle", "text_time", time_cond_proj_dim=8)
    network = network_of("UNet2DConditionModel", record)
    rng = np.random.default_rng(0)
    condition = jax.tree.map(
        lambda a: rng.uniform(1, 2, (2, *a.shape[1:])).astype(np.float32),
        network.example_condition((8, 8, 4)),
    )
    text = rng.normal(size=(2, 5, TEXT)).astype(np.float32)
    condition = condition._replace(text=text)
    x, t = rng.normal(size=(2, 8, 8, 4)).astype(np.float32), jnp.array([3, 700])
    params = jax.tree.map(
        lambda a: (0.2 * rng.normal(size=a.shape)).astype(np.float32),
        param_shapes(network),
    )

    def results(**changes):
        config = dataclasses.replace(network.config, **changes)
        other = config.build(4)

        def loss(params):
            return (other.apply({"params": params}, x, t, condition) ** 2).sum()

        return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))

    expected = results()
    assert all(np.isfinite(a).all() and np.any(a) for a in expected)

    def far(found):
        return max(
            abs(np.asarray(a) - b).max() / abs(b).max()
            for a, b in zip(found, expected[: len(found)], strict=True)
        )

    assert far(results(remat="blocks")) < 1e-4
    assert far(results(remat="cheap")) < 1e-4
    assert far(results(attention_by="chunked", attention_chunk=10)) < 1e-4
    for dtype in ("bfloat16", "float16"):
        assert far(results(dtype=dtype)[:1]) < 0.1
