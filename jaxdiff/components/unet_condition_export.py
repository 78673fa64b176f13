"""Options of the U-Net with cross-attention, as diffusers' UNet2DConditionModel."""

from typing import Any

from jaxdiff.errors import InputError, shown
from jaxdiff.networks.cross_attention_unet import CrossAttentionUNet
from jaxdiff.networks.cross_attention_unet_options import CrossAttentionUNetConfig

DOWN = {
    "DownBlock2D": "plain", "CrossAttnDownBlock2D": "transformer",
    "ResnetDownsampleBlock2D": "blocks", "SimpleCrossAttnDownBlock2D": "added",
}  # fmt: skip
UP = {
    "UpBlock2D": "plain", "CrossAttnUpBlock2D": "transformer",
    "ResnetUpsampleBlock2D": "blocks", "SimpleCrossAttnUpBlock2D": "added",
}  # fmt: skip
MIDDLE = {
    "UNetMidBlock2DCrossAttn": "transformer", "UNetMidBlock2D": "block",
    "UNetMidBlock2DSimpleCrossAttn": "added", None: "none",
}  # fmt: skip
CLASSES = {
    None: "table", "timestep": "time", "identity": "none", "projection": "layers",
    "simple_projection": "linear",
}  # fmt: skip
ADDED = {
    None: "none", "text": "text", "image": "image", "text_image": "text-image",
    "text_time": "vector-numbers",
}  # fmt: skip
CONTEXTS = {
    None: "text", "text_proj": "projected", "image_proj": "image",
    "text_image_proj": "text-image",
}  # fmt: skip
"""Our options by the names of diffusers."""
DEFAULTS: dict[str, Any] = {
    "sample_size": None, "in_channels": 4, "out_channels": 4,
    "center_input_sample": False, "flip_sin_to_cos": True, "freq_shift": 0,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "only_cross_attention": False, "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2, "downsample_padding": 1, "mid_block_scale_factor": 1.0,
    "dropout": 0.0, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5,
    "cross_attention_dim": 1280, "transformer_layers_per_block": 1,
    "reverse_transformer_layers_per_block": None, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "attention_head_dim": 8, "num_attention_heads": None,
    "dual_cross_attention": False, "use_linear_projection": False,
    "class_embed_type": None, "addition_embed_type": None,
    "addition_time_embed_dim": None, "num_class_embeds": None,
    "upcast_attention": False, "resnet_time_scale_shift": "default",
    "resnet_skip_time_act": False, "resnet_out_scale_factor": 1.0,
    "time_embedding_type": "positional", "time_embedding_dim": None,
    "time_embedding_act_fn": None, "timestep_post_act": None,
    "time_cond_proj_dim": None, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": None, "attention_type": "default",
    "class_embeddings_concat": False, "mid_block_only_cross_attention": None,
    "cross_attention_norm": None, "addition_embed_type_num_heads": 64,
}  # fmt: skip
"""Entries of config.json with diffusers' defaults."""


def write(options: CrossAttentionUNetConfig) -> dict[str, Any]:
    """Returns the entries of config.json for our options.

    Raises:
        InputError: diffusers has no such network; the message names the option.
    """
    kinds = {*options.down, *options.up, options.middle}
    if {"transformer", "added"} <= kinds:
        raise InputError(
            "down must not have levels of both kinds, transformer and added, for "
            f"diffusers, got {shown(options.down)}"
        )
    if options.text_groups not in (None, 32):
        raise InputError(
            f"text_groups must be None or 32 for diffusers, got {options.text_groups}"
        )
    levels = range(len(options.widths))
    heads = tuple(options.head_count(level) for level in levels)
    if "added" in kinds:
        pairs = zip(options.widths, heads, strict=True)
        heads = options.head_channels or tuple(w // count for w, count in pairs)
        if len(set(heads)) > 1:
            raise InputError(
                "head_channels must be one number with added attention for diffusers, "
                f"got {shown(heads)}"
            )
    middle = _reverse(MIDDLE)[options.middle]
    text_only = _one(options.text_only)
    return {
        **DEFAULTS,
        "sample_size": options.sample_size and _one(options.sample_size),
        "center_input_sample": options.center_input,
        "flip_sin_to_cos": options.embedding.order == "cos-sin",
        "freq_shift": options.embedding.shift,
        "down_block_types": [_reverse(DOWN)[kind] for kind in options.down],
        "mid_block_type": middle,
        "up_block_types": [_reverse(UP)[kind] for kind in reversed(options.up)],
        "only_cross_attention": text_only,
        "mid_block_only_cross_attention": options.middle_text_only,
        "block_out_channels": options.widths,
        "layers_per_block": _one(options.blocks),
        "downsample_padding": int(options.padding == "both"),
        "mid_block_scale_factor": options.middle_divisor,
        "dropout": options.dropout,
        "act_fn": options.activation,
        "norm_num_groups": options.groups,
        "norm_eps": options.epsilon,
        "cross_attention_dim": options.text_channels or options.widths,
        **_layers(options),
        "encoder_hid_dim": options.context_channels,
        "encoder_hid_dim_type": _reverse(CONTEXTS)[options.context],
        "attention_head_dim": _one(heads),
        "use_linear_projection": options.linear_projection,
        "class_embed_type": _reverse(CLASSES)[options.class_embedding],
        "addition_embed_type": _reverse(ADDED)[options.added],
        "addition_time_embed_dim": (
            options.number_channels if options.added == "vector-numbers" else None
        ),
        "addition_embed_type_num_heads": options.added_heads,
        "resnet_time_scale_shift": (
            "scale_shift" if options.scale_shift else "default"
        ),
        "resnet_skip_time_act": not options.activate_time,
        "resnet_out_scale_factor": options.block_divisor,
        "time_embedding_dim": options.time_channels,
        "time_embedding_act_fn": options.time_activation,
        "timestep_post_act": options.time_post_activation,
        "time_cond_proj_dim": options.guidance_channels,
        "projection_class_embeddings_input_dim": options.vector_channels,
        "class_embeddings_concat": options.concat_class,
        "cross_attention_norm": options.text_groups and "group_norm",
    }


def describe(network: CrossAttentionUNet) -> dict[str, Any]:
    """Returns the entries for the numbers of channels and classes of a network."""
    images = network.in_channels or network.out_channels
    classes = network.num_classes
    if classes is not None:
        classes += network.config.null_class
    return {
        "in_channels": images + network.config.condition_channels,
        "out_channels": network.out_channels,
        "num_class_embeds": classes,
    }


def _layers(options: CrossAttentionUNetConfig) -> dict[str, Any]:
    """Returns the entries for the numbers of layers of the transformers."""
    if options.layers_of_each is None:
        return {"transformer_layers_per_block": _one(options.layers)}
    counts = options.layer_counts()
    down: list[list[int]] = [
        [next(counts) for _ in range(n)] if kind == "transformer" else [1]
        for kind, n in zip(options.down, options.blocks, strict=True)
    ]
    if options.middle == "transformer":
        middle = next(counts)
        if options.down[-1] != "transformer":
            down[-1] = [middle]
        elif down[-1][0] != middle:
            raise InputError(
                "layers_of_each must be equal for the middle and the first transformer "
                f"of the last level for diffusers, got {middle} and {down[-1][0]}"
            )
    up = [
        [next(counts) for _ in range(n + 1)] if kind == "transformer" else [1]
        for kind, n in reversed([*zip(options.up, options.blocks, strict=True)])
    ]
    return {
        "transformer_layers_per_block": down,
        "reverse_transformer_layers_per_block": up,
    }


def _reverse(names: dict[Any, str]) -> dict[str, Any]:
    return {ours: theirs for theirs, ours in names.items()}


def _one(values: tuple[Any, ...]) -> Any:
    """Returns the value of all levels if it is one, otherwise a list."""
    return values[0] if len(set(values)) == 1 else list(values)
