"""Small pipelines of unCLIP, made by diffusers, on random parameters."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import rng
from jaxdiff.runs.unclip import stage_seeds
from tests.components.test_component import filled
from tests.helpers.pytorch import diffusers, torch, transformers
from tests.helpers.text_pipelines import TEXT, tokenizer

DEPRECATED = "diffusers.pipelines.deprecated.unclip"
WIDTH = 24
"""Number of features of CLIP's vectors and tokens."""
PRIOR = {
    "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1,
    "embedding_dim": WIDTH, "num_embeddings": 77, "additional_embeddings": 4,
}  # fmt: skip
DECODER = {
    "sample_size": 8, "in_channels": 3, "out_channels": 6, "layers_per_block": 1,
    "block_out_channels": (8, 16), "cross_attention_dim": 20, "norm_num_groups": 4,
    "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
    "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
    "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "attention_head_dim": 4,
    "resnet_time_scale_shift": "scale_shift", "class_embed_type": "identity",
}  # fmt: skip
ENLARGE = {
    "sample_size": 16, "in_channels": 6, "out_channels": 3, "layers_per_block": 1,
    "block_out_channels": (8, 16), "norm_num_groups": 4, "add_attention": False,
    "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
    "up_block_types": ("ResnetUpsampleBlock2D",) * 2,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1,
    "num_attention_heads": 2, "image_size": 12, "patch_size": 4,
    "projection_dim": WIDTH,
}  # fmt: skip
STAGES = {
    "prior": ((WIDTH,), 1),
    "decoder": ((8, 8, 3), 0),
    "enlarge": ((16, 16, 3), 2),
}
"""Shape of one example, and number of the stage in `stage_seeds`; 0 for the run's."""


def text_encoder(cls="CLIPTextModelWithProjection", seed=2, **options):
    """Returns a small text encoder of transformers."""
    config = transformers.CLIPTextConfig(**TEXT, projection_dim=WIDTH, **options)
    return filled(getattr(transformers, cls)(config), seed, 0.6)


def prior(seed=3):
    """Returns a small prior of diffusers."""
    found = filled(diffusers.PriorTransformer(**PRIOR), seed, 0.3)
    with torch.no_grad():
        found.clip_std.abs_().add_(0.5)
    return found


def enlarging(seed):
    """Returns a small network that enlarges; the small image matters to it."""
    found = filled(diffusers.UNet2DModel(**ENLARGE), seed, 0.2)
    with torch.no_grad():
        found.conv_in.weight[:, 3:] *= 5
    return found


def image_parts(processor=True):
    """Returns a small image encoder, and the preparation of its pictures."""
    config = transformers.CLIPVisionConfig(**VISION)
    encoder = transformers.CLIPVisionModelWithProjection(config)
    size = VISION["image_size"]
    filled(encoder, 8, 0.4)
    with torch.no_grad():  # otherwise pictures hardly matter
        for name, parameter in encoder.named_parameters():
            if "v_proj.weight" in name or "out_proj.weight" in name:
                parameter *= 6
    return {
        "image_encoder": encoder,
        "feature_extractor": transformers.CLIPImageProcessor(
            size={"shortest_edge": size}, crop_size={"height": size, "width": size}
        ),
    }  # fmt: skip


def make(folder, clip, variation=False):
    """Saves a small pipeline in a folder, and returns it.

    Args:
        folder: folder to write.
        clip: folder of a CLIP tokenizer with 526 tokens.
        variation: if True, it draws variations of pictures; if False, prompts.
    """
    module: Any = importlib.import_module(f"{DEPRECATED}.text_proj")
    projection = module.UnCLIPTextProjModel(
        clip_extra_context_tokens=4, clip_embeddings_dim=WIDTH, time_embed_dim=32,
        cross_attention_dim=20,
    )  # fmt: skip
    parts: dict[str, Any] = {
        "text_encoder": text_encoder(), "tokenizer": tokenizer(clip, "!"),
        "text_proj": filled(projection, 4, 0.4),
        "decoder": filled(diffusers.UNet2DConditionModel(**DECODER), 5, 0.25),
        "super_res_first": enlarging(6), "super_res_last": enlarging(7),
        "decoder_scheduler": diffusers.UnCLIPScheduler(variance_type="learned_range"),
        "super_res_scheduler": diffusers.UnCLIPScheduler(),
    }  # fmt: skip
    name = "UnCLIPPipeline"
    if variation:
        parts |= image_parts()
        name = "UnCLIPImageVariationPipeline"
    else:
        parts["prior"] = prior()
        parts["prior_scheduler"] = diffusers.UnCLIPScheduler(
            prediction_type="sample", clip_sample_range=5.0
        )
    made = getattr(diffusers, name)(**parts)
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


def noise_of(stage, seeds, steps):
    """Returns our noise of a stage: of its start, then of each step but the last."""
    shape, number = STAGES[stage]
    seeds = stage_seeds(seeds, number) if number else np.asarray(seeds, np.uint32)
    keys = jax.vmap(rng.key)(jnp.asarray(seeds, jnp.uint32))
    indices = jnp.zeros(len(seeds), jnp.int32)
    drawn = [
        np.array(rng.step_noise(keys, indices, left, shape))
        for left in range(steps, 0, -1)
    ]
    return [d.transpose(0, 3, 1, 2) if d.ndim == 4 else d for d in drawn]


class Given:
    """Noise that replaces what diffusers draws, in its order."""

    def __init__(self, *stages):
        self.left = [noise for stage in stages for noise in stage]

    def __call__(self, shape, **_):
        found = self.left.pop(0)
        assert tuple(shape) == found.shape
        return torch.from_numpy(np.ascontiguousarray(found))
