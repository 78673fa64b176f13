"""Fuzzing of published model folders: networks, schedulers, weights, tokenizers."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from hypothesis import strategies as st

from jaxdiff.components.component import (
    config_of,
    network_of,
)
from jaxdiff.components.unet_2d_folder import read_fields
from jaxdiff.components.weights import find_tensors
from jaxdiff.conditioning import read_tokenizer
from jaxdiff.conditions import blend_conditions
from jaxdiff.denoisers.network import check_condition
from jaxdiff.errors import InputError
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig
from jaxdiff.networks.bert import BERTConfig
from jaxdiff.networks.clip import CLIPTextConfig, CLIPVisionConfig
from jaxdiff.networks.cross_attention_unet_options import CrossAttentionUNetConfig
from jaxdiff.networks.dit_options import DiTConfig
from jaxdiff.networks.prior import PriorConfig
from jaxdiff.networks.t5 import T5Config
from jaxdiff.networks.time_embedding import Sinusoids
from jaxdiff.networks.unclip import UnCLIPProjectionConfig
from jaxdiff.pretrained.schedulers import CLASSES, read_scheduler
from jaxdiff.serialization import to_dict
from jaxdiff.storage.files import read_json
from jaxdiff.storage.torch_pickle import read_torch
from jaxdiff.typing import Condition
from tests.helpers.fuzz_strategies import JSON, mutated, or_refused, with_changes
from tests.helpers.own_networks import TextNet

_TEMPORARY = tempfile.TemporaryDirectory(prefix="fuzz-models-")
FOLDER = Path(_TEMPORARY.name)
ANY = ""
"""Start of every warning."""
NARROW: dict[str, Any] = {"width": 8, "layers": 1, "heads": 2, "hidden": 8}
COMPONENTS: dict[str, Any] = {
    "CLIPTextModel": CLIPTextConfig(**NARROW, vocabulary=20, length=6),
    "CLIPVisionModelWithProjection": CLIPVisionConfig(**NARROW, size=8, patch=4),
    "T5EncoderModel": T5Config(
        width=8, layers=1, heads=2, hidden=8, head_channels=4, vocabulary=20
    ),
    "BertModel": BERTConfig(**NARROW, vocabulary=20, length=6),
    "AutoencoderKL": AutoencoderKLConfig(widths=(4, 8), blocks=1, groups=2),
    "UNet2DConditionModel": CrossAttentionUNetConfig(
        widths=(8, 16), blocks=(1, 2), down=("transformer", "plain"),
        up=("transformer", "plain"), heads=(2, 4), layers=(1, 2), groups=4,
        text_only=(False, True), text_channels=12, null_class=False, label_dropout=0.0,
    ),
    "DiTTransformer2DModel": DiTConfig(
        width=8, depth=1, heads=2, sample_size=(4, 4),
        embedding=Sinusoids(order="cos-sin", shift=1.0),
    ),
    "PriorTransformer": PriorConfig(width=16, heads=2, layers=1, features=4, length=3),
    "UnCLIPTextProjModel": UnCLIPProjectionConfig(
        features=4, tokens=2, time_channels=8, text_channels=6
    ),
}  # fmt: skip
"""Options of a small component of each kind."""


def _whole(record: Any) -> list[Any]:
    return [record]


def _written(record: Any) -> Path:
    """Writes a config.json; a value that `json` cannot write becomes a deep list."""
    path = FOLDER / "config.json"
    try:
        path.write_text(json.dumps(record))
    except RecursionError:
        path.write_text("[" * 5000)
    return path


def check_component(kind: str, record: Any) -> None:
    """Checks that a config.json gives a network with the same entries, or an error."""
    path = _written(record)
    network = or_refused(lambda: network_of(kind, read_json(path), str(path)), ANY)
    if network is not None:
        again = config_of(kind, network)
        assert network_of(kind, again, str(path)) == network


@st.composite
def component_records(draw: st.DrawFn) -> tuple[str, Any]:
    """Draws a kind of component and its config.json with changes."""
    kind = draw(st.sampled_from(list(COMPONENTS)))
    further = {"UNet2DConditionModel": (4,), "DiTTransformer2DModel": (4, 5)}
    valid = config_of(kind, COMPONENTS[kind].build(*further.get(kind, ())))
    plain = json.loads(json.dumps(valid))
    return kind, draw(with_changes([plain], _whole))


UNETS = [
    {
        "_class_name": "UNet2DModel", "sample_size": 8, "in_channels": 3,
        "block_out_channels": [8, 16], "norm_num_groups": 4, "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    },
    {
        "_class_name": "UNet2DModel", "sample_size": [16, 8], "num_class_embeds": 5,
        "block_out_channels": [8, 8], "norm_num_groups": None,
        "down_block_types": ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
        "up_block_types": ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
        "time_embedding_type": "fourier", "dropout": 0.1,
    },
]  # fmt: skip


def check_unet(record: Any) -> None:
    """Checks that a UNet2DModel's config.json gives a network, or an error."""
    path = _written(record)
    found = or_refused(lambda: read_fields(path), ANY)
    if found is not None:
        or_refused(lambda: found.model(False, False), ANY)


SCHEDULERS = [
    {"_class_name": cls.__name__, **json.loads(json.dumps(to_dict(cls())))}
    for cls in CLASSES
]


def check_scheduler(record: Any, steps: int) -> None:
    """Checks that a scheduler's file gives a time grid, or an error."""

    def read() -> None:
        scheduler = read_scheduler(record, "'scheduler_config.json'")
        if scheduler.num_train_timesteps > 2000:
            raise InputError("too long for this test")
        schedule: Any = scheduler.schedule().build()
        grid = scheduler.sampling(schedule, steps).sampler.grid(schedule)
        assert np.isfinite(np.asarray(grid.alpha)).all()

    or_refused(read, ANY)


def _weights() -> bytes:
    """Returns a safetensors file."""
    arrays: dict[str, np.ndarray] = {
        "a.weight": np.ones((2, 3), np.float32),
        "b": np.zeros(5, np.float16),
    }
    return safetensors.numpy.save(arrays)


def check_weights(data: bytes) -> None:
    """Checks that a file of weights gives arrays of the sizes it says, or an error."""
    folder = FOLDER / "weights"
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(data)
    found = or_refused(lambda: find_tensors(folder, stem="model"), ANY)
    for tensor in (found or {}).values():
        array = or_refused(tensor.read, ANY)
        assert array is None or array.shape == tensor.shape


def _pickles() -> list[bytes]:
    """Returns files like those of PyTorch: an archive with a pickle, and a pickle."""
    simple = b"\x80\x02}q\x00."  # an empty dictionary
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("archive/data.pkl", simple)
        file.writestr("archive/version", b"3")
    return [archive.getvalue(), simple]


def check_pickle(data: bytes) -> None:
    """Checks that a .pth file gives a dictionary, or an error."""
    path = FOLDER / "weights.pth"
    path.write_bytes(data)
    found = or_refused(lambda: read_torch(path), ANY)
    assert found is None or isinstance(found, dict)


def _vocabulary() -> dict[str, bytes]:
    """Returns the files of a CLIP tokenizer of a few tokens."""
    tokens = ["a", "b", "a</w>", "b</w>", "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    numbers = {token: number for number, token in enumerate(tokens)}
    options = {"model_max_length": 8, "pad_token": "<|endoftext|>"}
    return {
        "vocab.json": json.dumps(numbers).encode(),
        "merges.txt": b"#version: 0.2\na b</w>\n",
        "tokenizer_config.json": json.dumps(options).encode(),
        "special_tokens_map.json": json.dumps({"bos_token": tokens[5]}).encode(),
    }


TOKENIZER = _vocabulary()


@st.composite
def tokenizer_files(draw: st.DrawFn) -> Mapping[str, bytes]:
    """Draws the files of a tokenizer, one of them changed."""
    name = draw(st.sampled_from(list(TOKENIZER)))
    return {**TOKENIZER, name: draw(mutated(st.just(TOKENIZER[name])))}


def check_tokenizer(files: Mapping[str, bytes], text: Any) -> None:
    """Checks that files and a text give tokens of the vocabulary, or an error."""
    folder = FOLDER / "tokenizer"
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    tokenizer = or_refused(lambda: read_tokenizer(folder), ANY)
    if tokenizer is None:
        return
    tokens = or_refused(lambda: tokenizer([text]), ANY)
    if tokens is not None:
        assert tokens.ids.shape == tokens.mask.shape == (1, tokenizer.length)
        assert (tokens.ids >= 0).all()


_SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
_PARTS = st.one_of(
    st.none(),
    st.builds(
        lambda shape, kind: np.ones(shape, kind),
        _SHAPES,
        st.sampled_from([np.float32, np.int32, np.bool_]),
    ),
)
CONDITIONS = st.builds(Condition, *[_PARTS] * len(Condition._fields))


def check_parts(a: Condition, b: Condition) -> None:
    """Checks that a network takes a condition, and two can be blended, or an error."""
    or_refused(lambda: check_condition(a, TextNet()), ANY)
    or_refused(lambda: blend_conditions(a, b, 0.5), ANY)


MODELS: dict[str, tuple[Callable[..., None], dict[str, Any], int]] = {
    "components": (
        lambda drawn: check_component(*drawn), {"drawn": component_records()}, 80
    ),
    "unets": (check_unet, {"record": with_changes(UNETS, _whole)}, 80),
    "schedulers": (
        check_scheduler,
        {"record": with_changes(SCHEDULERS, _whole), "steps": st.integers(1, 40)},
        40,
    ),
    "weights": (check_weights, {"data": mutated(st.just(_weights()))}, 80),
    "pickles": (check_pickle, {"data": mutated(st.sampled_from(_pickles()))}, 300),
    "tokenizers": (
        check_tokenizer,
        {"files": tokenizer_files(), "text": st.one_of(st.text(max_size=30), JSON)},
        100,
    ),
    "conditions": (check_parts, {"a": CONDITIONS, "b": CONDITIONS}, 100),
}  # fmt: skip
"""Properties as in `fuzz.PROPERTIES`."""
