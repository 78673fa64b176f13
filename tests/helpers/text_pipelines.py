"""Small pipelines of text and latents, made by diffusers, on random parameters."""

import json
import shutil
from dataclasses import replace
from typing import Any

import jaxdiff as jd
from jaxdiff.components.component import Component, write_component
from jaxdiff.networks import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CrossAttentionUNetConfig,
)
from tests.components.test_component import filled
from tests.helpers.components import random_params
from tests.helpers.pytorch import diffusers, torch, transformers

TEXT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 526, "max_position_embeddings": 77,
    "bos_token_id": 524, "pad_token_id": 525, "eos_token_id": 2,
}  # fmt: skip
UNET = {
    "sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1,
    "norm_num_groups": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "cross_attention_dim": 24,
    "attention_head_dim": 2,
}  # fmt: skip
KL = {
    "block_out_channels": (8, 16), "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2, "layers_per_block": 1,
    "norm_num_groups": 4, "latent_channels": 4,
}  # fmt: skip
BETAS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip
VERSIONS: dict[str, dict[str, Any]] = {
    "1": {},
    "2": {
        "unet": {
            "use_linear_projection": True, "attention_head_dim": [2, 4],
            "upcast_attention": True,
        },
        "text": {"hidden_act": "gelu"}, "pad": "!",
        "scheduler": {"prediction_type": "v_prediction"},
    },
    "xl": {},
    "refiner": {},
    "inpaint": {"unet": {"in_channels": 9}, "class": "StableDiffusionInpaintPipeline"},
    "instruct": {
        "unet": {"in_channels": 8}, "class": "StableDiffusionInstructPix2PixPipeline"
    },
    "lcm": {
        "unet": {"time_cond_proj_dim": 6}, "class": "LatentConsistencyModelPipeline"
    },
}  # fmt: skip
"""Versions of Stable Diffusion."""


def alone(run):
    """Returns a run on one device: there are few images."""
    return replace(run, parallel=jd.parallel.Pmap(num_devices=1))


def make(folder, clip, version="1", scheduler="DDIMScheduler", **options):
    """Saves a small pipeline in a folder, and returns it.

    Args:
        folder: folder to write.
        clip: folder of a CLIP tokenizer with 526 tokens.
        version: key of `VERSIONS`.
        scheduler: class of the scheduler.
        **options: entries of the scheduler's configuration.
    """
    given = VERSIONS[version]
    unet = {**UNET, **given.get("unet", {})}
    xl = version in ("xl", "refiner")
    if xl:
        numbers = 5 if version == "refiner" else 6
        unet |= {
            "cross_attention_dim": 24 * (1 + (version == "xl")),
            "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 10 + 4 * numbers,
            "transformer_layers_per_block": [1, 2], "use_linear_projection": True,
        }  # fmt: skip
    first = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(**{**TEXT, **given.get("text", {})})
    )
    cls: Any = getattr(diffusers, scheduler)
    vae = filled(diffusers.AutoencoderKL(**KL), 1, 0.3)
    network = filled(diffusers.UNet2DConditionModel(**unet), 0, 0.2)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if ".attn2." in name:  # otherwise texts hardly matter
                parameter *= 4
        # Samples of latents are their means.
        vae.quant_conv.weight[4:] = 0
        vae.quant_conv.bias[4:] = -30
    settings = {**BETAS, **given.get("scheduler", {}), **options}
    parts = {
        "unet": network,
        "vae": vae,
        "text_encoder": filled(first, 2, 0.6),
        "tokenizer": tokenizer(clip, given.get("pad", "<|endoftext|>")),
        "scheduler": cls.from_config(settings),
    }  # fmt: skip
    if xl:
        config = transformers.CLIPTextConfig(
            **{**TEXT, "hidden_act": "gelu"}, projection_dim=10
        )
        second = transformers.CLIPTextModelWithProjection(config)
        parts |= {
            "text_encoder_2": filled(second, 3), "tokenizer_2": tokenizer(clip, "!")
        }  # fmt: skip
        pipeline = diffusers.StableDiffusionXLPipeline
        if version == "refiner":
            pipeline = diffusers.StableDiffusionXLImg2ImgPipeline
            parts |= {
                "text_encoder": None, "tokenizer": None,
                "requires_aesthetics_score": True,
            }  # fmt: skip
        made = pipeline(**parts)
    else:
        made = getattr(diffusers, given.get("class", "StableDiffusionPipeline"))(
            **parts, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


def tokenizer(folder, pad):
    """Returns the tokenizer of transformers with a token for padding."""
    return transformers.CLIPTokenizer.from_pretrained(folder, pad_token=pad)


def made_here(folder, clip):
    """Saves a small pipeline of Stable Diffusion 1 without diffusers."""
    parts: dict[str, tuple[str, Any]] = {
        "text_encoder": ("CLIPTextModel", CLIPTextConfig(
            vocabulary=526, length=77, width=8, layers=1, heads=2, hidden=16
        )),
        "vae": ("AutoencoderKL", AutoencoderKLConfig(
            widths=(4, 8), groups=2, blocks=1, latent_channels=4
        )),
    }  # fmt: skip
    for name, (kind, options) in parts.items():
        network = options.build()
        params = random_params(network, scale=0.4)
        write_component(Component(kind, network, params), folder / name)
    config = CrossAttentionUNetConfig(
        widths=(4, 8), blocks=(1, 1), down=("transformer", "plain"), groups=2,
        up=("transformer", "plain"), heads=(2, 2), layers=(1, 1), text_channels=8,
        text_only=(False, False), sample_size=(4, 4),
    )  # fmt: skip
    unet = config.build(4, in_channels=4)
    component = Component("UNet2DConditionModel", unet, random_params(unet, scale=0.6))
    write_component(component, folder / "unet")
    shutil.copytree(clip, folder / "tokenizer")
    scheduler = {"_class_name": "DDIMScheduler", **BETAS}
    index = {
        "_class_name": "StableDiffusionPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    }
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "README.md").write_text("---\nlicense: openrail\n---\n")
