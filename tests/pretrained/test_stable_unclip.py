"""Stable Diffusion on vectors of images draws what diffusers draws, from its noise."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import rng
from jaxdiff.pretrained import write_run
from jaxdiff.runs.unclip import stage_seeds
from tests.components.test_component import filled, nchw
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.pytorch import diffusers, torch
from tests.helpers.text_pipelines import BETAS, KL, UNET, alone, tokenizer
from tests.helpers.unclip_pipelines import (
    WIDTH,
    Given,
    image_parts,
    noise_of,
    prior,
    text_encoder,
)
from tests.pretrained.test_text_pipelines import latents_of
from tests.pretrained.test_unclip_pipelines import check_images, with_steps

MODULE = "diffusers.pipelines.stable_diffusion.pipeline_stable_unclip"
PROMPTS = ["a cat in a photo", "the frog!!"]
SEEDS, STEPS, LEVEL = np.array([5, 6]), 3, 40


def make(folder, clip, image):
    """Saves a small pipeline of prompts, or of pictures, and returns it."""
    name = "diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer"
    normaliser = filled(
        importlib.import_module(name).StableUnCLIPImageNormalizer(WIDTH), 9
    )
    unet = {
        **UNET, "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 2 * WIDTH,
    }  # fmt: skip
    vae = filled(diffusers.AutoencoderKL(**KL), 1, 0.3)
    with torch.no_grad():
        normaliser.std.abs_().add_(0.5)
    cosine = {"beta_schedule": "squaredcos_cap_v2"}
    parts = {
        "unet": filled(diffusers.UNet2DConditionModel(**unet), 0, 0.2), "vae": vae,
        "text_encoder": text_encoder("CLIPTextModel", 11),
        "tokenizer": tokenizer(clip, "!"), "image_normalizer": normaliser,
        "image_noising_scheduler": diffusers.DDPMScheduler(**cosine),
        "scheduler": diffusers.DDIMScheduler(**BETAS),
    }  # fmt: skip
    if image:
        made = diffusers.StableUnCLIPImg2ImgPipeline(**parts, **image_parts())
    else:
        made = diffusers.StableUnCLIPPipeline(
            **parts, prior=prior(), prior_tokenizer=tokenizer(clip, "!"),
            prior_text_encoder=text_encoder(),
            prior_scheduler=diffusers.DDPMScheduler(
                **cosine, prediction_type="sample", clip_sample_range=5.0
            ),
        )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    made.save_pretrained(folder)
    return made


def vector_noise():
    keys = jax.vmap(rng.key)(jnp.asarray(stage_seeds(SEEDS, 3)))
    return np.array(rng.step_noise(keys, jnp.zeros(2, jnp.int32), 0, (WIDTH,)))


def decoded(run, vectors, latents, guidance, negative):
    condition, base = run.unclip.condition(
        vectors, PROMPTS, negative=negative, seed=SEEDS, noise_level=LEVEL
    )
    sampling = with_steps(run.experiment.sampling, STEPS, guidance)
    found = run.generate(condition, 2, 0, base=base, sampling=sampling, start=latents)
    return run.decode(found) / 2 + 0.5


def call(pipeline, latents, guidance, negative, **options):
    with torch.no_grad():
        return pipeline(
            prompt=PROMPTS, num_inference_steps=STEPS, guidance_scale=guidance,
            latents=nchw(latents), noise_level=LEVEL, negative_prompt=negative,
            output_type="np", **options,
        ).images  # fmt: skip


def check_export(pipeline, run, folder):
    write_run(run, folder / "run")
    jd.to_diffusers(folder / "run", folder / "ours")
    again = type(pipeline).from_pretrained(folder / "ours", low_cpu_mem_usage=False)
    for name, part in pipeline.components.items():
        if hasattr(part, "state_dict"):
            for key, tensor in part.state_dict().items():
                assert torch.equal(again.components[name].state_dict()[key], tensor), (
                    name,
                    key,
                )
        else:
            assert type(again.components[name]) is type(part)
    again.set_progress_bar_config(disable=True)
    return again


@pytest.mark.long
def test_prompts_are_drawn_as_theirs(monkeypatch, clip, tmp_path):
    pipeline = make(tmp_path / "theirs", clip, image=False)
    run = alone(jd.from_diffusers(tmp_path / "theirs"))
    sampling = with_steps(run.unclip.prior.sampling, STEPS, 4.0)
    vectors = run.unclip.draw(
        PROMPTS, SEEDS, sampling=sampling, indices=np.zeros(2, int)
    )
    latents = latents_of()
    again = check_export(pipeline, run, tmp_path)
    for guidance, negative in ((10.0, None), (10.0, ["a frog", "cat"]), (1.0, None)):
        ours = decoded(run, vectors, latents, guidance, negative)
        for one in (pipeline, again):
            given = Given(noise_of("prior", SEEDS, STEPS), [vector_noise()])
            for module in (MODULE, "diffusers.schedulers.scheduling_ddpm"):
                monkeypatch.setattr(f"{module}.randn_tensor", given)
            theirs = call(
                one, latents, guidance, negative, prior_num_inference_steps=STEPS
            )
            assert not given.left
            check_images(ours, theirs)


@pytest.mark.long
def test_pictures_are_varied_as_theirs(monkeypatch, clip, tmp_path):
    pipeline = make(tmp_path / "theirs", clip, image=True)
    run = alone(jd.from_diffusers(tmp_path / "theirs"))
    pictures = np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3))
    vectors = run.unclip.encode(pictures)
    latents = latents_of()
    again = check_export(pipeline, run, tmp_path)
    for guidance in (10.0, 1.0):
        ours = decoded(run, vectors, latents, guidance, None)
        for one in (pipeline, again):
            given = Given([vector_noise()])
            monkeypatch.setattr(f"{MODULE}_img2img.randn_tensor", given)
            theirs = call(
                one, latents, guidance, None,
                image_embeds=torch.from_numpy(np.array(vectors)),
            )  # fmt: skip
            check_images(ours, theirs)
