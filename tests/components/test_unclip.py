"""The parts of unCLIP hold against diffusers, on random parameters."""

import importlib
import json
import math
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.components.component import network_of, param_shapes, read_component
from jaxdiff.components.unet_2d_folder import (
    read_model,
    read_parameters,
    write_unet_2d,
)
from jaxdiff.errors import InputError
from jaxdiff.networks.prior import unscaled
from jaxdiff.typing import Condition
from tests.components.test_component import (
    check,
    filled,
    loads_without_a_word,
    nchw,
    read_back,
)
from tests.helpers.pytorch import diffusers, torch

PRIOR = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2,
    "embedding_dim": 10, "num_embeddings": 7, "additional_embeddings": 4,
}  # fmt: skip
SHAP_E = {
    "embedding_proj_norm_type": "layer", "norm_in_type": "layer", "num_embeddings": 5,
    "encoder_hid_proj_type": None, "added_emb_type": None, "additional_embeddings": 0,
    "embedding_proj_dim": 8, "time_embed_dim": 20, "clip_embed_dim": 14,
}  # fmt: skip
PRIORS: dict[str, dict[str, Any]] = {
    "karlo": {},
    "shap-e": SHAP_E,
    "others": {
        "time_embed_act_fn": "gelu", "embedding_proj_norm_type": "layer",
        "embedding_proj_dim": 6, "time_embed_dim": 16, "clip_embed_dim": 12,
    },
    "output without a token": {"added_emb_type": None, "additional_embeddings": 3},
}  # fmt: skip


def tensor(x):
    return torch.from_numpy(np.array(x))


def random(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    "name",
    [
        "karlo",
        pytest.param("shap-e", marks=pytest.mark.long),
        pytest.param("others", marks=pytest.mark.long),
        pytest.param("output without a token", marks=pytest.mark.long),
    ],
)
def test_a_prior_gives_what_theirs_gives(tmp_path, capfd, caplog, name):
    config = {**PRIOR, **PRIORS[name]}
    module = filled(diffusers.PriorTransformer(**config), scale=0.4)
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    text = config.get("encoder_hid_proj_type", "linear") is not None
    tokens = () if text else (config["num_embeddings"],)
    x = random(2, *tokens, 10)
    vector = random(2, config.get("embedding_proj_dim") or 10, seed=2)
    times = np.array([7, 850])
    hidden = random(2, 7, 10, seed=3) if text else None
    mask = np.arange(7) < np.array([[3], [7]])
    for given in (mask, None) if text else (None,):
        theirs = module(
            tensor(x), tensor(times), tensor(vector),
            None if hidden is None else tensor(hidden),
            None if given is None else tensor(given),
        ).predicted_image_embedding  # fmt: skip
        if text and config.get("added_emb_type", "prd") is None:
            theirs = theirs[:, 0]
        condition = Condition(text=hidden, mask=given, vector=vector)
        ours = found.network.apply({"params": found.params}, x, times, condition)
        check(ours, theirs)
    if not tokens:
        scaled = module.post_process_latents(theirs)
        check(unscaled(found.params, ours), scaled)


def test_a_projection_gives_what_theirs_gives(tmp_path, capfd, caplog):
    their_class = importlib.import_module(
        "diffusers.pipelines.deprecated.unclip.text_proj"
    ).UnCLIPTextProjModel
    module = filled(
        their_class(
            clip_extra_context_tokens=3, clip_embeddings_dim=10, time_embed_dim=12,
            cross_attention_dim=14,
        ),
        scale=0.5,
    )  # fmt: skip
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    image, vector, text = random(2, 10), random(2, 10, seed=2), random(2, 7, 10, seed=3)
    mask = np.arange(7) < np.array([[3], [7]])
    theirs, added = module(
        image_embeddings=tensor(image), prompt_embeds=tensor(np.tile(vector, (2, 1))),
        text_encoder_hidden_states=tensor(np.tile(text, (2, 1, 1))),
        do_classifier_free_guidance=True,
    )  # fmt: skip
    given = Condition(text=text, mask=mask, vector=vector)
    for half, part in ((slice(0, 2), None), (slice(2, 4), image)):
        ours = found.network.apply({"params": found.params}, given, part)
        check(ours.text, theirs[half])
        check(ours.vector, added[half])
        assert ours.mask[:, :3].all()
        np.testing.assert_array_equal(ours.mask[:, 3:], mask)


def test_a_normaliser_gives_what_theirs_gives(tmp_path, capfd, caplog):
    name = "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer"
    their_class = importlib.import_module(name).StableUnCLIPImageNormalizer
    module = filled(their_class(6))
    found = read_back(module, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)
    x = random(3, 6)
    ours = found.network.apply({"params": found.params}, x)
    check(ours, module.scale(tensor(x)))
    check(
        found.network.apply({"params": found.params}, ours, inverse=True),
        module.unscale(tensor(ours)),
    )


ENLARGES = {
    "sample_size": 16, "in_channels": 6, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": (8, 16), "norm_num_groups": 4,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
    "resnet_time_scale_shift": "scale_shift",
}  # fmt: skip


@pytest.mark.parametrize("attends", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_network_that_enlarges_gives_what_theirs_gives(tmp_path, attends):
    module = diffusers.UNet2DModel(**ENLARGES, add_attention=attends)
    filled(module).save_pretrained(tmp_path / "theirs")
    model = read_model(tmp_path / "theirs")
    params = read_parameters(tmp_path / "theirs", model)
    network = model.network()
    assert (model.image_shape, network.takes) == ((16, 16, 3), ("image",))
    x, small, times = random(2, 16, 16, 3), random(2, 16, 16, 3, seed=2), [7, 850]
    theirs = module(nchw(np.concatenate([x, small], -1)), tensor(times)).sample
    ours = network.apply({"params": params}, x, np.array(times), Condition(image=small))
    check(ours, theirs.permute(0, 2, 3, 1), 1e-5)
    write_unet_2d(model, params, tmp_path / "ours")
    again = diffusers.UNet2DModel.from_pretrained(
        tmp_path / "ours", low_cpu_mem_usage=False
    )
    for name, found in module.state_dict().items():
        assert torch.equal(again.state_dict()[name], found), name


def number_of(shapes):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


def count(kind, **config):
    return number_of(param_shapes(network_of(kind, config)))


@pytest.mark.long
def test_networks_of_karlo_have_the_published_numbers_of_parameters(tmp_path):
    assert count("PriorTransformer") == 1_022_030_080
    assert (
        count("UnCLIPTextProjModel", time_embed_dim=1280, cross_attention_dim=1536)
        == 7_878_400
    )
    simple = "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"
    decoder = {
        "sample_size": 64, "in_channels": 3, "out_channels": 6, "layers_per_block": 3,
        "block_out_channels": [320, 640, 960, 1280], "cross_attention_dim": 1536,
        "down_block_types": ["ResnetDownsampleBlock2D", *simple[:1] * 3],
        "up_block_types": [*simple[1:] * 3, "ResnetUpsampleBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 64,
        "class_embed_type": "identity", "resnet_time_scale_shift": "scale_shift",
    }  # fmt: skip
    assert count("UNet2DConditionModel", **decoder) == 885_439_686
    enlarges = {
        **ENLARGES, "sample_size": 256, "layers_per_block": 3, "norm_num_groups": 32,
        "block_out_channels": [320, 640, 960, 1280], "add_attention": False,
        "down_block_types": ["ResnetDownsampleBlock2D"] * 4,
        "up_block_types": ["ResnetUpsampleBlock2D"] * 4,
        "resnet_time_scale_shift": "default",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(enlarges))
    assert number_of(read_model(tmp_path).shapes()) == 691_579_523


@pytest.mark.parametrize(
    ("entries", "line"),
    [
        ({"norm_in_type": "group"}, "norm_in_type must be null or layer, got 'group'"),
        ({"num_attention_heads": 0}, "num_attention_heads must be a number from 1"),
        ({"time_embed_act_fn": "tanh"}, "time_activation must be 'gelu', "),
    ],
)
def test_a_wrong_entry_is_one_line(tmp_path, entries, line):
    record = {"_class_name": "PriorTransformer", **PRIOR, **entries}
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=line) as error:
        read_component(tmp_path)
    assert "\n" not in str(error.value)
