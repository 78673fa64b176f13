"""Parts of unCLIP: the prior, the projection and the normaliser of diffusers."""

from typing import Any

from jaxdiff.components.kind import Kind
from jaxdiff.components.weights import STEM
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.prior import PriorConfig
from jaxdiff.networks.unclip import UnCLIPProjectionConfig, VectorScaleConfig

_CHOICES: dict[str, tuple[str, dict[str | None, bool]]] = {
    "norm_in_type": ("input_norm", {None: False, "layer": True}),
    "embedding_proj_norm_type": ("vector_norm", {None: False, "layer": True}),
    "encoder_hid_proj_type": ("text", {None: False, "linear": True}),
    "added_emb_type": ("output_token", {None: False, "prd": True}),
}
"""Our option for an entry, with its values."""


def _read_prior(record: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for entry, (ours, values) in _CHOICES.items():
        if record[entry] is not None and record[entry] not in map(str, values):
            names = " or ".join("null" if v is None else v for v in values)
            raise InputError(f"{entry} must be {names}, got {shown(record[entry])}")
        found[ours] = values[record[entry]]
    heads, channels = record["num_attention_heads"], record["attention_head_dim"]
    for entry, value in (
        ("num_attention_heads", heads),
        ("attention_head_dim", channels),
    ):
        if type(value) is not int or not 1 <= value <= 2**16:
            raise InputError(
                f"{entry} must be a number from 1 to 65536, got {shown(value)}"
            )
    return {**found, "width": heads * channels}


def _write_prior(options: PriorConfig) -> dict[str, Any]:
    record: dict[str, Any] = {"attention_head_dim": options.width // options.heads}
    for entry, (ours, values) in _CHOICES.items():
        names = {value: name for name, value in values.items()}
        record[entry] = names[getattr(options, ours)]
    return record


PRIOR = Kind(
    PriorConfig,
    {
        "num_attention_heads": "heads", "num_layers": "layers",
        "embedding_dim": "features", "num_embeddings": "length",
        "additional_embeddings": "further", "dropout": "dropout",
        "time_embed_act_fn": "time_activation", "time_embed_dim": "time_hidden",
        "embedding_proj_dim": "vector_features", "clip_embed_dim": "out_features",
    },
    {
        "num_attention_heads": 32, "attention_head_dim": 64, "num_layers": 20,
        "embedding_dim": 768, "num_embeddings": 77, "additional_embeddings": 4,
        "dropout": 0.0, "time_embed_act_fn": "silu", "norm_in_type": None,
        "embedding_proj_norm_type": None, "encoder_hid_proj_type": "linear",
        "added_emb_type": "prd", "time_embed_dim": None, "embedding_proj_dim": None,
        "clip_embed_dim": None,
    },
    {},
    _read_prior,
    _write_prior,
    stem=STEM,
)  # fmt: skip
"""Prior of unCLIP."""
PROJECTION = Kind(
    UnCLIPProjectionConfig,
    {
        "clip_extra_context_tokens": "tokens", "clip_embeddings_dim": "features",
        "time_embed_dim": "time_channels", "cross_attention_dim": "text_channels",
    },
    {
        "clip_extra_context_tokens": 4, "clip_embeddings_dim": 768,
        "time_embed_dim": None, "cross_attention_dim": None,
    },
    {},
    lambda record: {},
    lambda options: {},
    stem=STEM,
)  # fmt: skip
"""Projection of vectors and tokens for the decoder of unCLIP."""
NORMALISER = Kind(
    VectorScaleConfig,
    {"embedding_dim": "features"},
    {"embedding_dim": 768},
    {},
    lambda record: {},
    lambda options: {},
    stem=STEM,
)
"""Mean and deviation of the vectors of CLIP."""
