"""Published classes of networks: their config.json, and our options for it."""

from typing import Any

from jaxdiff.components.dit import DIT
from jaxdiff.components.kind import Kind, plain
from jaxdiff.components.unclip import NORMALISER, PRIOR, PROJECTION
from jaxdiff.components.unet_condition import UNET
from jaxdiff.components.weights import STEM
from jaxdiff.errors import InputError, shown
from jaxdiff.networks.autoencoder_kl import AutoencoderKLConfig, LatentScaling
from jaxdiff.networks.autoencoder_tiny import AutoencoderTinyConfig
from jaxdiff.networks.bert import BERTConfig
from jaxdiff.networks.clip import CLIPTextConfig, CLIPVisionConfig
from jaxdiff.networks.t5 import T5Config

_CLIP = {
    "hidden_size": "width", "num_hidden_layers": "layers",
    "num_attention_heads": "heads", "intermediate_size": "hidden",
    "hidden_act": "activation", "layer_norm_eps": "epsilon",
}  # fmt: skip
_CLIP_DEFAULTS = {
    "num_hidden_layers": 12, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}  # fmt: skip


_PROJECTION: dict[bool, dict[str, str]] = {
    False: {}, True: {"projection_dim": "projection"}
}  # fmt: skip
"""Entry of a class without, and with a projection."""


def _clip_text(projects: bool) -> Kind:
    def read(record: dict[str, Any]) -> dict[str, Any]:
        # 2 is wrong in old files, and means the place of the largest token.
        end = record["eos_token_id"]
        return {"end_token": None if end == 2 else end}

    def write(options: CLIPTextConfig) -> dict[str, Any]:
        return {
            "model_type": "clip_text_model", "bos_token_id": None, "pad_token_id": None,
            "eos_token_id": 2 if options.end_token is None else options.end_token,
        }  # fmt: skip

    return Kind(
        CLIPTextConfig,
        {
            **_CLIP, **_PROJECTION[projects], "vocab_size": "vocabulary",
            "max_position_embeddings": "length",
        },
        {
            **_CLIP_DEFAULTS, "vocab_size": 49408, "max_position_embeddings": 77,
            "hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8,
            "eos_token_id": 49407,
        },
        {},
        read,
        write,
        prefix="text_model.",
    )  # fmt: skip


def _clip_vision(projects: bool) -> Kind:
    return Kind(
        CLIPVisionConfig,
        {
            **_CLIP, **_PROJECTION[projects], "image_size": "size",
            "patch_size": "patch", "num_channels": "channels",
        },
        {
            **_CLIP_DEFAULTS, "hidden_size": 768, "intermediate_size": 3072,
            "num_attention_heads": 12, "image_size": 224, "patch_size": 32,
            "num_channels": 3,
        },
        {},
        lambda record: {},
        lambda options: {"model_type": "clip_vision_model"},
        prefix="vision_model.",
    )  # fmt: skip


def _read_t5(record: dict[str, Any]) -> dict[str, Any]:
    name = str(record["feed_forward_proj"])
    gated = name.startswith("gated-")
    kind = name.removeprefix("gated-")
    return {"gated": gated, "activation": "gelu_new" if name == "gated-gelu" else kind}


def _write_t5(options: T5Config) -> dict[str, Any]:
    kind = options.activation
    if options.gated:
        kind = "gated-gelu" if kind == "gelu_new" else f"gated-{kind}"  # type: ignore[assignment]
    return {
        "model_type": "t5", "feed_forward_proj": kind, "is_encoder_decoder": False,
        "use_cache": False, "tie_word_embeddings": False,
    }  # fmt: skip


_T5 = Kind(
    T5Config,
    {
        "vocab_size": "vocabulary", "d_model": "width", "num_layers": "layers",
        "num_heads": "heads", "d_kv": "head_channels", "d_ff": "hidden",
        "relative_attention_num_buckets": "buckets",
        "relative_attention_max_distance": "max_distance",
        "layer_norm_epsilon": "epsilon",
    },
    {
        "vocab_size": 32128, "d_model": 512, "num_layers": 6, "num_heads": 8,
        "d_kv": 64, "d_ff": 2048, "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128, "layer_norm_epsilon": 1e-6,
        "feed_forward_proj": "relu",
    },
    {},
    _read_t5,
    _write_t5,
    # The table of tokens is also written under a second name. A whole T5 has a decoder.
    ignored=r"encoder\.embed_tokens\.weight|decoder\..*|lm_head\.weight",
)  # fmt: skip
_BERT = Kind(
    BERTConfig,
    {
        "vocab_size": "vocabulary", "max_position_embeddings": "length",
        "hidden_size": "width", "num_hidden_layers": "layers",
        "num_attention_heads": "heads", "intermediate_size": "hidden",
        "hidden_act": "activation", "type_vocab_size": "kinds",
        "layer_norm_eps": "epsilon",
    },
    {
        "vocab_size": 30522, "max_position_embeddings": 512, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    },
    {"position_embedding_type": "absolute"},
    lambda record: {},
    lambda options: {"model_type": "bert"},
)  # fmt: skip


def _scaling(record: dict[str, Any]) -> LatentScaling:
    """Returns the scaling of an autoencoder, after a check of its channels."""
    if record["out_channels"] != record["in_channels"]:
        raise InputError(
            f"out_channels must be in_channels ({record['in_channels']}), got "
            f"{record['out_channels']}"
        )
    return LatentScaling(
        scale=record["scaling_factor"],
        shift=record["shift_factor"] or 0.0,
        mean=plain(record["latents_mean"]),
        deviation=plain(record["latents_std"]),
    )


def _scaling_entries(scaling: LatentScaling) -> dict[str, Any]:
    return {
        "scaling_factor": scaling.scale, "shift_factor": scaling.shift or None,
        "latents_mean": scaling.mean, "latents_std": scaling.deviation,
    }  # fmt: skip


def _read_kl(record: dict[str, Any]) -> dict[str, Any]:
    levels = len(record["block_out_channels"])
    blocks = {
        "down_block_types": "DownEncoderBlock2D", "up_block_types": "UpDecoderBlock2D"
    }  # fmt: skip
    for entry, block in blocks.items():
        if list(record[entry]) != [block] * levels:
            raise InputError(
                f"{entry} must be {levels} times {block}, got {shown(record[entry])}"
            )
    return {"scaling": _scaling(record)}


def _write_kl(options: AutoencoderKLConfig) -> dict[str, Any]:
    levels = len(options.widths)
    return {
        "out_channels": options.image_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        **_scaling_entries(options.scaling),
    }


_KL = Kind(
    AutoencoderKLConfig,
    {
        "in_channels": "image_channels", "latent_channels": "latent_channels",
        "block_out_channels": "widths", "layers_per_block": "blocks",
        "norm_num_groups": "groups", "use_quant_conv": "quant_conv",
        "use_post_quant_conv": "post_quant_conv",
        "mid_block_add_attention": "attention",
    },
    {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "block_out_channels": (64,), "layers_per_block": 1, "norm_num_groups": 32,
        "use_quant_conv": True, "use_post_quant_conv": True,
        "mid_block_add_attention": True, "scaling_factor": 0.18215,
        "shift_factor": None, "latents_mean": None, "latents_std": None,
        "down_block_types": ("DownEncoderBlock2D",),
        "up_block_types": ("UpDecoderBlock2D",),
    },
    {"act_fn": "silu"},
    _read_kl,
    _write_kl,
    stem=STEM,
)  # fmt: skip


def _read_tiny(record: dict[str, Any]) -> dict[str, Any]:
    widths = {
        *record["encoder_block_out_channels"], *record["decoder_block_out_channels"]
    }  # fmt: skip
    if len(widths) != 1:
        raise InputError(
            "encoder_block_out_channels and decoder_block_out_channels must be one "
            f"number, got {', '.join(map(str, sorted(widths)))}"
        )
    return {"width": widths.pop(), "scaling": _scaling(record)}


def _write_tiny(options: AutoencoderTinyConfig) -> dict[str, Any]:
    if options.pooled:
        raise InputError(
            "pooled must be False for diffusers' AutoencoderTiny, got True. Keep the "
            ".pth files."
        )
    widths = [options.width] * len(options.encoder_blocks)
    return {
        "out_channels": options.image_channels,
        "encoder_block_out_channels": widths, "decoder_block_out_channels": widths,
        "scaling_factor": options.scaling.scale, "shift_factor": options.scaling.shift,
        # diffusers' class has no such entries, and names them in a warning.
        **({} if options.scaling.deviation is None else {
            "latents_mean": options.scaling.mean,
            "latents_std": options.scaling.deviation,
        }),
    }  # fmt: skip


_TINY = Kind(
    AutoencoderTinyConfig,
    {
        "in_channels": "image_channels", "latent_channels": "latent_channels",
        "num_encoder_blocks": "encoder_blocks", "num_decoder_blocks": "decoder_blocks",
    },
    {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4,
        "encoder_block_out_channels": (64,) * 4,
        "decoder_block_out_channels": (64,) * 4, "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1), "scaling_factor": 1.0, "shift_factor": 0.0,
        "latents_mean": None, "latents_std": None,
    },
    {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2},
    _read_tiny,
    _write_tiny,
    stem=STEM,
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "CLIPTextModel": _clip_text(projects=False),
    "CLIPTextModelWithProjection": _clip_text(projects=True),
    "CLIPVisionModel": _clip_vision(projects=False),
    "CLIPVisionModelWithProjection": _clip_vision(projects=True),
    "T5EncoderModel": _T5,
    "BertModel": _BERT,
    "AutoencoderKL": _KL,
    "AutoencoderTiny": _TINY,
    "UNet2DConditionModel": UNET,
    "DiTTransformer2DModel": DIT,
    "Transformer2DModel": DIT,
    "PriorTransformer": PRIOR,
    "UnCLIPTextProjModel": PROJECTION,
    "StableUnCLIPImageNormalizer": NORMALISER,
}
"""Published classes that can be read and written."""
