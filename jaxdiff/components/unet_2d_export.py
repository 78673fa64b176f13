"""Options of a network as a configuration of diffusers' UNet2DModel."""

from typing import Any

from jaxdiff.components.kind import check_inputs
from jaxdiff.components.unet_2d import (
    CLASS_EMBEDDINGS,
    Model,
    UNet2DModel,
    norm_groups_of,
)
from jaxdiff.errors import InputError
from jaxdiff.networks import Fourier, LevelOptions, NCSNppConfig
from jaxdiff.networks.layers import group_count


def unet_2d_of(model: Model) -> UNet2DModel:
    """Converts a network to the configuration of diffusers.

    Raises:
        InputError: an option has a value that diffusers does not support.
    """
    config, widths = model.config, model.config.widths
    check_inputs(config)
    if widths[0] != config.channels:
        raise InputError(
            "network.multipliers must begin with 1 for diffusers, got "
            f"{config.multipliers[0]:g}"
        )
    if config.middle == "attention-without-norm" and not config.scale_shift:
        raise InputError(
            "network.scale_shift must be true for diffusers with network.middle "
            "attention-without-norm, got false"
        )
    height, width, channels = model.image_shape
    sizes = [max(height, width) // 2**level for level in range(len(widths))]
    attends = [size in config.attention for size in sizes]
    blocks, middle_groups = _blocks(model, attends)
    groups: int | None = None
    if config.middle == "attention" and (config.middle_groups or config.scale_shift):
        groups = config.middle_groups or middle_groups
    classes = model.num_classes
    names = {ours: theirs for theirs, ours in CLASS_EMBEDDINGS.items()}
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels + config.condition_channels,
        out_channels=model.outputs,
        center_input_sample=config.center_input,
        block_out_channels=widths,
        layers_per_block=config.blocks,
        dropout=config.dropout,
        attention_head_dim=_head_channels(config, attends),
        attn_norm_num_groups=groups,
        norm_eps=config.epsilon,
        resnet_time_scale_shift="scale_shift" if config.scale_shift else "default",
        add_attention=config.middle != "no-attention",
        class_embed_type=names[config.class_embedding],  # type: ignore[arg-type]
        num_class_embeds=None if classes is None else classes + config.null_class,
        **_embedding(config),
        **blocks,
    )


def _blocks(model: Model, attends: list[bool]) -> tuple[dict[str, Any], int]:
    """Returns the fields of the blocks, and the number of groups in the middle."""
    config = model.config
    if isinstance(config, NCSNppConfig):
        channels = model.image_shape[-1]
        if {channels + config.condition_channels, model.outputs} != {3}:
            raise InputError(
                "images must have 3 channels for the Skip blocks of diffusers, got "
                f"{channels + config.condition_channels} inputs and {model.outputs} "
                "outputs"
            )
        fields = {
            **_types(attends, "SkipDownBlock2D", "SkipUpBlock2D", "AttnSkip"),
            "norm_num_groups": config.groups,
            "mid_block_scale_factor": config.middle_divisor,
        }
        return fields, config.groups or group_count(config.widths[-1], 32, 4)
    counts = norm_groups_of(model)
    if len(counts) > 1:
        raise InputError(
            "all norms must have the same number of groups for diffusers, got "
            f"{', '.join(map(str, sorted(counts)))}. Train with another network.groups."
        )
    (groups,) = counts
    types = _types(attends, "DownBlock2D", "UpBlock2D", "Attn")
    if config.resample == "blocks":
        names = "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"
        types = _types(attends, *names, "Attn")
    kind = "resnet" if config.resample == "blocks" else "conv"
    return {
        **types,
        "downsample_padding": int(config.padding == "both"),
        "downsample_type": kind,
        "upsample_type": kind,
        "norm_num_groups": groups,
    }, groups


def _types(attends: list[bool], down: str, up: str, attention: str) -> dict[str, Any]:
    """Returns the types of blocks; those with attention begin with `attention`."""
    attending = f"{attention}DownBlock2D", f"{attention}UpBlock2D"
    return {
        "down_block_types": tuple(attending[0] if a else down for a in attends),
        "up_block_types": tuple(attending[1] if a else up for a in attends[::-1]),
    }


def _head_channels(config: LevelOptions, attends: list[bool]) -> int | None:
    """Returns the number of channels per head; None for a single head."""
    widths = config.widths
    attending = [w for w, attend in zip(widths, attends, strict=True) if attend]
    if config.middle != "no-attention":
        attending.append(widths[-1])
    if all(config.head_count(w) == 1 for w in attending):
        return None
    heads = {w // config.head_count(w) for w in attending}
    if len(heads) > 1:
        raise InputError(
            "all heads must have the same number of channels for diffusers, got "
            f"{', '.join(map(str, sorted(heads)))}. Set network.head_channels."
        )
    return heads.pop()


def _embedding(config: LevelOptions) -> dict[str, Any]:
    """Returns the fields of the embedding of the time."""
    embedding = config.embedding
    if isinstance(embedding, Fourier):
        if not embedding.divide:
            raise InputError(
                "network.embedding.divide must be true for diffusers, got false"
            )
        return {"time_embedding_type": "fourier"}
    if embedding.shift not in (0, 1):
        raise InputError(
            "network.embedding.shift must be 0 or 1 for diffusers, got "
            f"{embedding.shift:g}"
        )
    return {
        "flip_sin_to_cos": embedding.order == "cos-sin",
        "freq_shift": int(embedding.shift),
    }
