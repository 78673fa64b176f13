"""Configuration of diffusers' UNet2DConditionModel, as options of a network."""

from collections.abc import Mapping
from typing import Any

from jaxdiff.components.files import known_entries
from jaxdiff.components.kind import Kind
from jaxdiff.components.published_names import RESIDUAL, TIME, published_places
from jaxdiff.components.unet_condition_export import (
    ADDED,
    CLASSES,
    CONTEXTS,
    DEFAULTS,
    DOWN,
    MIDDLE,
    UP,
    describe,
    write,
)
from jaxdiff.components.weights import STEM
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet
from jaxdiff.networks.cross_attention_unet_options import CrossAttentionUNetConfig
from jaxdiff.networks.time_embedding import Sinusoids
from jaxdiff.typing import Params

_MOST_LAYERS, _MOST_CHANNELS = 64, 2**16
_NULL = ("attention_type", "addition_embed_type_num_heads")
"""Entries in which null is the default, besides those that are false or null."""
_ONE_VALUE = {
    "num_attention_heads": None, "dual_cross_attention": False, "conv_in_kernel": 3,
    "conv_out_kernel": 3, "time_embedding_type": "positional",
    "attention_type": "default",
}  # fmt: skip
"""Entries that can have one value only."""
_NAMES = {
    **TIME, **RESIDUAL, "group": "", "add_embedding_1": "add_embedding.linear_1",
    "add_embedding_2": "add_embedding.linear_2",
}  # fmt: skip


def _read(record: dict[str, Any]) -> dict[str, Any]:
    """Returns our options for a configuration.

    Raises:
        InputError: an entry has an unsupported value; the message names the entry.
    """
    entries = _with_defaults(record)
    for entry, value in _ONE_VALUE.items():
        if entries[entry] != value:
            raise _unsupported(entries, entry, [value])
    if not _is_count(entries["norm_num_groups"]):
        raise InputError(
            f"norm_num_groups must be a number from 1, got "
            f"{shown(entries['norm_num_groups'])}"
        )
    widths = _per_level(entries, "block_out_channels", None)
    levels = len(widths)
    if max(widths) > _MOST_CHANNELS:
        raise _unsupported(entries, "block_out_channels", [f"up to {_MOST_CHANNELS}"])

    def listed(entry: str) -> tuple[Any, ...]:
        return _per_level(entries, entry, levels)

    blocks = listed("layers_per_block")
    down = tuple(
        _named(entries, "down_block_types", DOWN, name.removeprefix("UNetRes"))
        for name in _names(entries, "down_block_types", levels)
    )
    up = tuple(
        _named(entries, "up_block_types", UP, name.removeprefix("UNetRes"))
        for name in reversed(_names(entries, "up_block_types", levels))
    )
    middle = _named(entries, "mid_block_type", MIDDLE)
    heads: dict[str, Any] = {"heads": listed("attention_head_dim")}
    if "added" in (*down, *up, middle):
        if "transformer" in (*down, *up, middle):
            raise InputError(
                "down_block_types must not have both CrossAttn and SimpleCrossAttn "
                "blocks in one network, because attention_head_dim is the number of "
                f"heads in one and their size in the other, got "
                f"{shown(entries['down_block_types'])}"
            )
        # The entry is the size of a head in these blocks, and the number in others.
        # Diffusers gives the sizes of the levels to the way up in the wrong order.
        if len(set(heads["heads"])) > 1:
            raise InputError(
                "attention_head_dim must be one number with SimpleCrossAttn blocks, "
                f"got {shown(entries['attention_head_dim'])}"
            )
        heads = {"heads": (1,) * levels, "head_channels": heads["heads"]}
    layers, each = _layers(entries, blocks, down, up, middle)
    attends = [
        level
        for level in range(levels)
        if {down[level], up[level]} & {"transformer", "added"}
        or (level == levels - 1 and middle in ("transformer", "added"))
    ]
    only, middle_only = _text_only(entries, levels)
    context = entries["encoder_hid_dim_type"]
    if context is None and entries["encoder_hid_dim"] is not None:
        context = "text_proj"
    classes = entries["class_embed_type"]
    scale_shift = {"default": False, "scale_shift": True}
    norms = {None: None, "group_norm": 32}
    concat = bool(entries["class_embeddings_concat"])
    if concat and classes is None and entries["num_class_embeds"] is None:
        raise InputError(
            "class_embeddings_concat must be false without an embedding of classes, "
            "got true"
        )
    size = entries["sample_size"]
    return {
        "widths": widths, "blocks": blocks, "down": down, "up": up, "middle": middle,
        **heads, "layers": layers, "layers_of_each": each,
        "text_channels": _text_channels(entries, widths, attends), "text_only": only,
        "middle_text_only": middle_only,
        "text_groups": _named(entries, "cross_attention_norm", norms),
        "groups": entries["norm_num_groups"], "epsilon": entries["norm_eps"],
        "activation": entries["act_fn"],
        "activate_time": not entries["resnet_skip_time_act"],
        "block_divisor": entries["resnet_out_scale_factor"],
        "middle_divisor": entries["mid_block_scale_factor"],
        "padding": _named(entries, "downsample_padding", {0: "end", 1: "both"}),
        "linear_projection": bool(entries["use_linear_projection"]),
        "scale_shift": _named(entries, "resnet_time_scale_shift", scale_shift),
        "dropout": entries["dropout"],
        "embedding": Sinusoids(
            order="cos-sin" if entries["flip_sin_to_cos"] else "sin-cos",
            shift=entries["freq_shift"],
        ),
        "time_channels": entries["time_embedding_dim"],
        "time_activation": entries["time_embedding_act_fn"],
        "time_post_activation": entries["timestep_post_act"],
        "guidance_channels": entries["time_cond_proj_dim"],
        "class_embedding": _named(entries, "class_embed_type", CLASSES),
        "concat_class": concat,
        "added": _named(entries, "addition_embed_type", ADDED),
        "added_heads": entries["addition_embed_type_num_heads"],
        "vector_channels": entries["projection_class_embeddings_input_dim"],
        "number_channels": entries["addition_time_embed_dim"] or 256,
        "context": _named(entries, "encoder_hid_dim_type", CONTEXTS, context),
        "context_channels": entries["encoder_hid_dim"],
        "sample_size": None if size is None else _per_level(entries, "sample_size", 2),
        "center_input": bool(entries["center_input_sample"]),
        "condition_channels": _condition_channels(entries),
        "null_class": False, "label_dropout": 0.0,
    }  # fmt: skip


def _with_defaults(record: dict[str, Any]) -> dict[str, Any]:
    """Returns every entry; null is false or the default, where diffusers reads it so.

    Raises:
        InputError: another entry is null.
    """
    known = known_entries(record, DEFAULTS, "config.json")
    for entry, value in known.items():
        default = DEFAULTS[entry]
        if value is None and entry != "mid_block_type":
            allowed = default is None or default is False or entry in _NULL
            if not allowed:
                raise InputError(f"{entry} must not be null, got null")
            known[entry] = default
    return {**DEFAULTS, **known}


def _unsupported(
    entries: Mapping[str, Any], entry: str, values: Any, value: Any = None
) -> InputError:
    words = ["null" if name is None else shown(name) for name in values]
    got = entries[entry] if value is None else value
    return InputError(
        f"{entry} must be {'one of ' * (len(words) > 1)}{', '.join(words)}, got "
        f"{shown(got)}"
    )


def _named(
    entries: Mapping[str, Any],
    entry: str,
    names: Mapping[Any, Any],
    value: Any = None,
) -> Any:
    """Returns our name for a published one."""
    value = entries[entry] if value is None else value
    if isinstance(value, list | dict) or value not in names:
        raise _unsupported(entries, entry, names, value)
    return names[value]


def _names(entries: Mapping[str, Any], entry: str, levels: int) -> list[str]:
    names = entries[entry]
    if not isinstance(names, list | tuple) or len(names) != levels:
        raise InputError(
            f"{entry} must be {levels} names, one per level, got {shown(names)}"
        )
    if not all(isinstance(name, str) for name in names):
        raise _unsupported(entries, entry, ["names"])
    return list(names)


def _per_level(
    entries: Mapping[str, Any], entry: str, levels: int | None
) -> tuple[int, ...]:
    """Returns a number of each level; one number stands for all levels."""
    value = entries[entry]
    if levels is not None and _is_count(value):
        return (value,) * levels
    most = 20 if levels is None else levels
    if not isinstance(value, list | tuple) or not all(map(_is_count, value)):
        raise InputError(f"{entry} must be numbers from 1, got {shown(value)}")
    if not value or len(value) > most or (levels is not None and len(value) != levels):
        counted = f"{levels}" if levels is not None else "1 to 20"
        raise InputError(f"{entry} must be one number or {counted}, got {shown(value)}")
    return tuple(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value > 0


def _layers(
    entries: Mapping[str, Any],
    blocks: tuple[int, ...],
    down: tuple[str, ...],
    up: tuple[str, ...],
    middle: str,
) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Returns the layers of the transformers by level, and those of each or None."""
    entry, reverse = (
        "transformer_layers_per_block", "reverse_transformer_layers_per_block"
    )  # fmt: skip
    levels, value, back = len(blocks), entries[entry], entries[reverse]
    nested = isinstance(value, list | tuple) and any(
        isinstance(x, list | tuple) for x in value
    )
    if max(blocks) > _MOST_LAYERS:
        raise _unsupported(entries, "layers_per_block", [f"up to {_MOST_LAYERS}"])
    if not nested and back is None:
        layers = _per_level(entries, entry, levels)
        if max(layers) > _MOST_LAYERS:
            raise _unsupported(entries, entry, [f"up to {_MOST_LAYERS}"])
        return layers, None
    if back is None:
        raise InputError(f"{reverse} must be given with nested {entry}, got null")
    way_down = [value] * levels if _is_count(value) else value
    each: list[int] = []
    for name, ways, kinds, counts in (
        (entry, way_down, down, blocks),
        (reverse, back, up[::-1], [n + 1 for n in blocks[::-1]]),
    ):
        if not isinstance(ways, list | tuple) or len(ways) != levels:
            raise InputError(f"{name} must have {levels} entries, got {shown(ways)}")
        for layers_of, kind, count in zip(ways, kinds, counts, strict=True):
            found = [layers_of] * count if _is_count(layers_of) else layers_of
            if kind != "transformer":
                continue
            if (
                not isinstance(found, list | tuple)
                or len(found) != count
                or not all(_is_count(n) and n <= _MOST_LAYERS for n in found)
            ):
                raise InputError(
                    f"{name} must have {count} numbers for a level of {count} blocks, "
                    f"got {shown(layers_of)}"
                )
            each += found
        if name == entry and middle == "transformer":
            last = ways[-1]
            each += [last] if _is_count(last) else list(last)[:1]
    return (1,) * levels, tuple(each)


def _text_only(
    entries: Mapping[str, Any], levels: int
) -> tuple[tuple[bool, ...], bool]:
    """Returns the levels that attend to the text only, and the same of the middle."""
    value, middle = (
        entries["only_cross_attention"], entries["mid_block_only_cross_attention"]
    )  # fmt: skip
    if isinstance(value, bool):
        return (value,) * levels, value if middle is None else bool(middle)
    if not isinstance(value, list | tuple) or len(value) != levels:
        raise _unsupported(entries, "only_cross_attention", ["a list of the levels"])
    return tuple(map(bool, value)), bool(middle)


def _text_channels(
    entries: Mapping[str, Any], widths: tuple[int, ...], attends: list[int]
) -> int | None:
    """Returns the features of a token; None if levels attend to themselves twice."""
    features = _per_level(entries, "cross_attention_dim", len(widths))
    used = {features[level] for level in attends}
    if len(used) <= 1:
        return used.pop() if used else features[0]
    if any(features[level] != widths[level] for level in attends):
        raise InputError(
            "cross_attention_dim must be one number, or the channels of the levels, "
            f"got {shown(entries['cross_attention_dim'])}"
        )
    return None


def _condition_channels(entries: Mapping[str, Any]) -> int:
    """Returns the number of input channels that follow those of the noisy image.

    Twice as many outputs are a learned variance.
    """
    inputs, outputs = (
        _per_level(entries, name, 1)[0] for name in ("in_channels", "out_channels")
    )
    return max(inputs - outputs, 0)


def _build(
    options: CrossAttentionUNetConfig, record: dict[str, Any]
) -> CrossAttentionUNet:
    entries = _with_defaults(record)
    classes = entries["num_class_embeds"]
    if options.class_embedding != "table":
        classes = None  # diffusers ignores the number
    elif classes is not None and not _is_count(classes):
        raise _unsupported(entries, "num_class_embeds", ["a number from 1"])
    images = entries["in_channels"] - options.condition_channels
    return options.build(entries["out_channels"], classes, images)


def _places(network: CrossAttentionUNet, params: Params) -> Any:
    matrices = "conv_shortcut"
    if not network.config.linear_projection:
        matrices += "|proj_in|proj_out"
    return published_places(params, _NAMES, matrices)


UNET = Kind(
    CrossAttentionUNetConfig, {}, {}, {}, _read, write, STEM, build=_build,
    describe=describe, places=_places,
)  # fmt: skip
"""U-Net with cross-attention."""
