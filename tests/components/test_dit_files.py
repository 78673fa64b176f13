"""Diffusion transformer against diffusers' DiTTransformer2DModel.

Every parameter is overwritten by random numbers, because layers that start at 0 would
hide errors. The embeddings of time and class are one in all blocks, as published.
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest

from jaxdiff.components.component import (
    Component,
    config_of,
    network_of,
    param_shapes,
    read_component,
    write_component,
)
from jaxdiff.components.dit import DIT
from jaxdiff.components.dit_original import read_dit
from jaxdiff.components.places import wanted_tensors
from jaxdiff.errors import InputError
from jaxdiff.networks import DiTConfig
from jaxdiff.networks.dit import fixed_positions
from jaxdiff.networks.time_embedding import Sinusoids
from tests.components.test_component import (
    check,
    filled,
    loads_without_a_word,
    nchw,
    read_back,
)
from tests.components.test_unet_full_size import folder_of, run
from tests.helpers.pairwise import pairwise
from tests.helpers.pytorch import diffusers, torch
from tests.networks.test_dit import by_formula

KIND = "DiTTransformer2DModel"
CLOSE = 1e-5
"""Largest difference, in parts of the largest number."""
TINY = {
    "num_attention_heads": 2, "attention_head_dim": 8, "num_layers": 2,
    "num_embeds_ada_norm": 5, "sample_size": 8,
}  # fmt: skip
OPTIONS: dict[str, list[Any]] = {
    "num_layers": [1, 3],
    "heads": [(1, 16), (2, 8), (3, 4)],
    "channels": [(4, None), (4, 8), (3, 3), (1, 2)],
    "patch_size": [1, 2, 4],
    "sample_size": [8, 12],
    "activation_fn": ["gelu-approximate", "gelu"],
    "norm_eps": [1e-5, 1e-3],
    "num_embeds_ada_norm": [1, 5],
    "upcast_attention": [False, True],
}


def shared(module):
    """Gives all blocks of a module the first block's embeddings of time and class."""
    first = module.transformer_blocks[0].norm1.emb.state_dict()
    for block in module.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return module


def made(heads=None, channels=None, **entries):
    """Returns a small module with random parameters."""
    config = {**TINY, **entries}
    if heads is not None:
        config["num_attention_heads"], config["attention_head_dim"] = heads
    if channels is not None:
        config["in_channels"], config["out_channels"] = channels
    return shared(filled(diffusers.DiTTransformer2DModel(**config), scale=0.1))


def agree(case, folder, size=None):
    """Checks that reading, evaluating and writing agree with diffusers."""
    module = made(**case)
    with torch.no_grad():  # attention that is not uniform
        for name, parameter in module.named_parameters():
            parameter *= 5.0 ** name.endswith("to_q.weight")
    found = read_back(module, folder)
    config, size = module.config, size or module.config.sample_size
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, size, size, config.in_channels)).astype(np.float32)
    t, labels = np.array([3, 801]), np.array([0, config.num_embeds_ada_norm])
    ours = jax.jit(found.network.apply)({"params": found.params}, x, t, labels)
    given = torch.from_numpy
    with torch.no_grad():
        theirs = module(nchw(x), given(t), given(labels)).sample
    assert np.ptp(theirs.numpy()) > 0.1
    check(np.asarray(ours).transpose(0, 3, 1, 2), theirs, CLOSE)
    return module


def test_a_transformer(tmp_path, capfd, caplog):
    module = agree({"channels": (4, 8)}, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)


@pytest.mark.long
@pytest.mark.parametrize("case", pairwise(OPTIONS), ids=lambda c: str(c["heads"]))
def test_every_pair_of_options(tmp_path, capfd, caplog, case):
    module = agree(case, tmp_path)
    loads_without_a_word(module, tmp_path, capfd, caplog)


@pytest.mark.long
@pytest.mark.parametrize("size", [4, 12])
def test_positions_of_another_size_span_the_same_range(tmp_path, size):
    agree({}, tmp_path, size)


def test_the_older_class_is_the_same_network(tmp_path):
    """Published folders name the class Transformer2DModel, with entries of its own."""
    record = config_of(KIND, network_of(KIND, TINY))
    old = {
        **record, "_class_name": "Transformer2DModel", "cross_attention_dim": None,
        "num_vector_embeds": None, "only_cross_attention": False,
        "use_linear_projection": False,
    }  # fmt: skip
    assert network_of("Transformer2DModel", old) == network_of(KIND, record)


def test_embeddings_that_differ_between_blocks_are_an_error(tmp_path):
    module = made()
    with torch.no_grad():
        module.transformer_blocks[1].norm1.emb.timestep_embedder.linear_2.bias[3] += 1
    module.save_pretrained(tmp_path)
    with pytest.raises(InputError) as caught:
        read_component(tmp_path)
    text = str(caught.value)
    assert "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias must" in text
    assert "\n" not in text


def test_a_missing_block_is_an_error(tmp_path):
    made().save_pretrained(tmp_path)
    record = json.loads((tmp_path / "config.json").read_text())
    record["num_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="missing: transformer_blocks"):
        read_component(tmp_path)


REFUSED = {
    "attention_bias": (False, "attention_bias must be True, got False"),
    "norm_type": ("ada_norm_single", "norm_type must be 'ada_norm_zero', got 'ada_no"),
    "norm_elementwise_affine": (True, "norm_elementwise_affine must be False, got Tr"),
    "activation_fn": ("geglu", "activation_fn must be one of gelu-approximate, gelu"),
    "num_layers": (0, "num_layers must be a number from 1 to 65536, got 0"),
    "sample_size": ([8, 8], "sample_size must be a number from 1 to 65536"),
    "out_channels": ("8", "out_channels must be a number from 1, got '8'"),
    "num_embeds_ada_norm": (None, "num_embeds_ada_norm must be a number from 1"),
    "attention_head_dim": (7, "width must be a multiple of 4, got 14"),
    "patch_size": (3, "image height must be a multiple of 3"),
    "norm_eps": (-1, "mlp_epsilon must lie in"),
    "dropout": ("much", "dropout"),
}


@pytest.mark.parametrize("entry", REFUSED)
def test_what_is_not_supported_is_named(entry):
    value, match = REFUSED[entry]
    with pytest.raises(InputError, match=match) as caught:
        network_of(KIND, {**TINY, entry: value}, "transformer/config.json")
    assert "\n" not in str(caught.value)


OURS = DiTConfig(
    width=8, depth=1, heads=2, sample_size=(8, 8), embedding=Sinusoids(
        order="cos-sin", shift=1.0
    ),
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"embedding": DiTConfig().embedding}, "embedding must be .*shift=1.0.* for d"),
        ({"qk_norm": True}, "qk_norm must be False for diffusers, got True"),
        ({"text_channels": 4}, "text_channels must be None for diffusers, got 4"),
        ({"positions": "learned"}, "positions must be fixed for diffusers"),
        ({"sample_size": None}, "sample_size must be a square for diffusers, got None"),
        ({"sample_size": (8, 4)}, "sample_size must be a square for diffusers"),
        ({"mlp_ratio": 2}, "mlp_ratio must be 4 for diffusers, got 2"),
        ({"second_time": True}, "second_time must be off for diffusers, whose"),
    ],
)
def test_what_diffusers_lacks_is_not_written(tmp_path, changes, match):
    network = dataclasses.replace(OURS, **changes).build(8, 5, 4)
    component = Component(KIND, network, {})
    with pytest.raises(InputError, match=match):
        write_component(component, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_network_without_classes_is_not_written(tmp_path):
    with pytest.raises(InputError, match="num_classes must be a number for diffusers"):
        write_component(Component(KIND, OURS.build(4), {}), tmp_path / "new")


def test_the_published_file_repeats_the_embeddings():
    """749,826,464 numbers in the file of DiT-XL/2, 674,834,720 in its network."""
    network = network_of(KIND, {"out_channels": 8})
    shapes = param_shapes(network)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 674_834_720
    tensors = wanted_tensors(DIT.places(network, shapes))
    assert sum(int(np.prod(shape)) for shape in tensors.values()) == 749_826_464


def saved_by_its_authors(path, width=16, depth=2, classes=5, patch=2, side=4):
    """Saves a random state in the authors' layout, and returns its arrays."""
    draw = np.random.default_rng(0)
    linear = {
        "t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
        "final_layer.linear": (patch**2 * 6, width),
        "x_embedder.proj": (width, 3, patch, patch),
    }  # fmt: skip
    for i in range(depth):
        linear |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }
    shapes = {"y_embedder.embedding_table.weight": (classes + 1, width)}
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    arrays = {
        name: draw.normal(scale=0.2, size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    positions = fixed_positions(side, side, width, (side, side))
    arrays["pos_embed"] = positions.reshape(1, -1, width)
    torch.save({name: torch.from_numpy(a) for name, a in arrays.items()}, path)
    return arrays


def test_the_authors_file(tmp_path):
    """The output is that of the paper's formulas with the tensors as they are named."""
    arrays = saved_by_its_authors(tmp_path / "dit.pt")
    found = read_dit(tmp_path / "dit.pt", heads=4)
    network = found.network
    assert network.config.sample_size == (8, 8)
    assert (network.in_channels, network.out_channels) == (3, 6)

    def dense(name):
        weight = arrays[f"{name}.weight"]
        axes = (2, 3, 1, 0) if weight.ndim == 4 else (1, 0)
        return {"kernel": weight.transpose(axes), "bias": arrays[f"{name}.bias"]}

    def block(i):
        whole = dense(f"blocks.{i}.attn.qkv")
        parts = zip(
            np.split(whole["kernel"], 3, axis=1), np.split(whole["bias"], 3),
            strict=True,
        )  # fmt: skip
        to = [{"kernel": kernel, "bias": bias} for kernel, bias in parts]
        return {
            "norm1.linear": dense(f"blocks.{i}.adaLN_modulation.1"),
            "attn1": {
                "to_q": to[0], "to_k": to[1], "to_v": to[2],
                "to_out.0": dense(f"blocks.{i}.attn.proj"),
            },
            "ff.net.0.proj": dense(f"blocks.{i}.mlp.fc1"),
            "ff.net.2": dense(f"blocks.{i}.mlp.fc2"),
        }  # fmt: skip

    known = {
        "time_1": dense("t_embedder.mlp.0"), "time_2": dense("t_embedder.mlp.2"),
        "label": {"embedding": arrays["y_embedder.embedding_table.weight"]},
        "pos_embed.proj": dense("x_embedder.proj"),
        "proj_out_1": dense("final_layer.adaLN_modulation.1"),
        "proj_out_2": dense("final_layer.linear"),
        "transformer_blocks": jax.tree.map(lambda *a: np.stack(a), block(0), block(1)),
    }  # fmt: skip
    x = np.random.default_rng(1).normal(size=(2, 8, 8, 3)).astype(np.float32)
    t, labels = np.array([3.0, 40.0], np.float32), np.array([1, 5])
    ours = jax.jit(network.apply)({"params": found.params}, x, t, labels)
    expected = by_formula(known, x, t, labels, heads=4)
    assert abs(ours - expected).max() < 5e-6 * abs(expected).max()


def test_another_file_is_no_transformer(tmp_path):
    path = tmp_path / "dit.pt"
    arrays = saved_by_its_authors(path)
    with pytest.raises(InputError, match="heads must be given for a network of anothe"):
        read_dit(path)
    changes: dict[str, dict[str, Any]] = {
        "got no tensor 'pos_embed'": {"pos_embed": None},
        "1 unknown: extra": {"extra": np.zeros(3, np.float32)},
        "pos_embed must be fixed sinusoids": {"pos_embed": 2 * arrays["pos_embed"]},
    }
    for match, change in changes.items():
        whole = {**arrays, **change}
        left = {k: torch.from_numpy(a) for k, a in whole.items() if a is not None}
        torch.save(left, path)
        with pytest.raises(InputError, match=match) as caught:
            read_dit(path, heads=4)
        assert "\n" not in str(caught.value)


@pytest.mark.long
def test_dit_xl_2_at_full_size(tmp_path):
    """One after the other, each in a process of its own; -s prints time and memory."""
    folder = folder_of({"_class_name": KIND, "out_channels": 8}, tmp_path)
    for name in ("theirs", "ours"):
        run(name, folder, 32)
    ours, theirs = (np.load(folder / f"{name}.npy") for name in ("ours", "theirs"))
    assert np.ptp(theirs) > 0.01
    difference = abs(ours - theirs).max() / abs(theirs).max()
    print(f"largest difference {difference:.2g} of the largest number")
    assert difference < CLOSE
