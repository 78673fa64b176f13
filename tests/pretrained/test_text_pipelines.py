"""Pipelines of text and latents draw the images of diffusers.

The initial latents are diffusers'. Every parameter is random.
"""

import dataclasses
import itertools
import json
import shutil
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.errors import InputError
from jaxdiff.pretrained import write_run
from jaxdiff.rng import key, step_noise
from jaxdiff.runs.parts import Parts
from tests.components.test_component import nchw
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.compilations import compilations
from tests.helpers.pytorch import diffusers, torch
from tests.helpers.text_pipelines import alone, make

PROMPTS = ["a cat in a photo", "the frog!!"]
CLOSE = 1e-3
"""Largest difference of images in [0, 1]."""


def latents_of(num=2, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num, size, size, 4)).astype(np.float32)


def drawn_by_diffusers(pipeline, latents, steps, guidance, **options):
    with torch.no_grad():
        found = pipeline(
            prompt=PROMPTS, num_inference_steps=steps, guidance_scale=guidance,
            output_type="np", latents=nchw(latents), **options,
        )  # fmt: skip
    return found.images


def check_images(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)


def drawn(run, latents, guidance, negative, *image):
    condition = run.text(PROMPTS)
    if image:
        condition = run.with_image(condition, *image)
    sampling = dataclasses.replace(run.experiment.sampling, guidance=guidance)
    found = run.generate(
        condition, 2, 0, base=run.negative(condition, negative), sampling=sampling,
        start=latents,
    )  # fmt: skip
    return run.decode(found) / 2 + 0.5


def compare(folder, clip, version, guidances, negatives, steps=3, **options):
    """Compares the images of a pipeline for each guidance and negative prompt."""
    pipeline = make(folder, clip, version, **options)
    run = alone(jd.from_diffusers(folder, num_steps=steps))
    latents = latents_of()
    seen = []
    for guidance, negative in itertools.product(guidances, negatives):
        theirs = drawn_by_diffusers(
            pipeline, latents, steps, guidance, negative_prompt=negative
        )
        check_images(drawn(run, latents, guidance, negative), theirs)
        seen.append(theirs)
    for one, two in itertools.pairwise(seen if guidances == [7.5] else seen[::3]):
        assert np.abs(one - two).max() > 30 * CLOSE, "the texts must matter"


def test_a_pipeline_draws_what_theirs_draws(clip, tmp_path):
    compare(tmp_path / "theirs", clip, "1", [7.5], [None, ["a frog", "cat"]])


@pytest.mark.long
@pytest.mark.parametrize("version", ["1", "2", "xl"])
def test_every_pipeline_draws_what_theirs_draws(clip, tmp_path, version):
    negatives = [None, ["", ""], ["a frog", "cat"]]
    compare(tmp_path / "theirs", clip, version, [1.0, 7.5], negatives)


SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}),
    "euler, karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "euler, trailing": ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm++, karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "ddim, clipped": ("DDIMScheduler", {"clip_sample": True}),
    "ddim, zero snr": (
        "DDIMScheduler",
        {
            "rescale_betas_zero_snr": True, "prediction_type": "v_prediction",
            "timestep_spacing": "trailing", "set_alpha_to_one": True,
        },
    ),
}  # fmt: skip
"""Deterministic schedulers; tests of schedulers compare the others."""


@pytest.mark.long
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_what_theirs_draws(clip, tmp_path, name):
    scheduler, options = SCHEDULERS[name]
    compare(
        tmp_path / "theirs", clip, "1", [7.5], [None], steps=5, scheduler=scheduler,
        **options,
    )  # fmt: skip


def picture(seed=0, size=16):
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(size, size, 3)).astype(np.float32)


@pytest.mark.long
@pytest.mark.parametrize("negative", [None, ["a frog", "cat"]])
def test_an_image_is_edited_by_instruction(clip, tmp_path, negative):
    pipeline = make(tmp_path / "theirs", clip, "instruct")
    image, latents = picture(), latents_of()
    theirs = drawn_by_diffusers(
        pipeline, latents, 3, 7.5, negative_prompt=negative, image_guidance_scale=1.5,
        image=nchw(np.stack([image] * 2)),
    )  # fmt: skip
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=3))
    assert run.experiment.sampling.image_guidance == 1.5
    check_images(drawn(run, latents, 7.5, negative, 2 * image - 1), theirs)


@pytest.mark.long
def test_an_image_is_painted_anew_under_a_mask(clip, tmp_path):
    pipeline = make(tmp_path / "theirs", clip, "inpaint")
    image, latents = picture(), latents_of()
    mask = np.zeros((16, 16), np.float32)
    mask[3:9, 5:] = 1
    theirs = drawn_by_diffusers(
        pipeline, latents, 3, 7.5, image=nchw(image[None]), strength=1.0,
        mask_image=torch.from_numpy(mask)[None, None], height=16, width=16,
    )  # fmt: skip
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=3))
    check_images(drawn(run, latents, 7.5, None, 2 * image - 1, mask), theirs)


@pytest.mark.long
def test_latents_under_a_mask_are_those_of_diffusers(clip, tmp_path, monkeypatch):
    """A usual U-Net keeps the latents outside of the mask."""
    parts = make(tmp_path / "theirs", clip).components
    pipeline = diffusers.StableDiffusionInpaintPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    image = picture()
    mask = np.zeros((16, 16), np.float32)
    mask[3:9, 5:] = 1
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=4))
    noise = step_noise(key(0), jnp.arange(2), 3, (8, 8, 4))
    module = sys.modules[diffusers.StableDiffusionInpaintPipeline.__module__]
    given = torch.from_numpy(np.array(noise).transpose(0, 3, 1, 2))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: given)
    with torch.no_grad():
        theirs = pipeline(
            prompt=PROMPTS, num_inference_steps=4, guidance_scale=7.5, height=16,
            width=16, image=nchw(image[None]), strength=0.75, output_type="np",
            mask_image=torch.from_numpy(mask)[None, None],
        ).images  # fmt: skip
    condition = run.text(PROMPTS)
    start = np.repeat(run.encode(2 * image[None] - 1), 2, 0)
    sampling = dataclasses.replace(run.experiment.sampling, guidance=7.5)
    latents = run.generate(
        condition, 2, 0, sampling=sampling, base=run.negative(condition), start=start,
        strength=0.75, mask=np.repeat(run.latent_mask(mask)[None], 2, 0),
    )  # fmt: skip
    check_images(run.decode(latents) / 2 + 0.5, theirs)


@pytest.mark.long
def test_a_network_takes_the_guidance_scale(clip, tmp_path):
    """One step of a latent consistency model has no noise after it."""
    options = {"original_inference_steps": 50}
    pipeline = make(tmp_path / "theirs", clip, "lcm", "LCMScheduler", **options)
    latents = latents_of()
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=1))
    for guidance in (8.5, 1.0):
        theirs = drawn_by_diffusers(pipeline, latents, 1, guidance)
        check_images(drawn(run, latents, guidance, None), theirs)


@pytest.mark.long
@pytest.mark.parametrize("negative", [None, ["a frog", "cat"]])
def test_a_refiner_goes_on_from_images(clip, tmp_path, negative):
    pipeline = make(tmp_path / "theirs", clip, "refiner")
    latents = latents_of()
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=4))
    with torch.no_grad():
        pipeline.scheduler.add_noise = lambda latents, *_: latents
        theirs = pipeline(
            prompt=PROMPTS, negative_prompt=negative, num_inference_steps=4,
            guidance_scale=5.0, output_type="np", strength=1.0,
            image=nchw(latents),
        ).images  # fmt: skip
    check_images(drawn(run, latents, 5.0, negative), theirs)


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "theirs"
    make(folder, clip)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return alone(jd.from_diffusers(folder, num_steps=3))


def test_other_prompts_and_seeds_compile_nothing(run):
    def draw(prompts, negative, seed, guidance):
        condition = run.text(prompts)
        sampling = dataclasses.replace(run.experiment.sampling, guidance=guidance)
        latents = run.generate(
            condition, 2, seed, base=run.negative(condition, negative),
            sampling=sampling,
        )  # fmt: skip
        return run.decode(latents)

    first = draw(PROMPTS, "a", 0, 7.5)
    with compilations() as count:
        other = draw(["cat", "a photo of it"], ["frog", ""], 1, 3.0)
    assert not count()
    assert not np.allclose(first, other)


@pytest.mark.long
def test_the_parameters_are_split_over_devices(run, tmp_path):
    write_run(run, tmp_path / "run")
    split = jd.load(tmp_path / "run", parallel=jd.parallel.Sharded(fsdp=8))
    for leaf in jax.tree.leaves(split.params):
        part = leaf.addressable_shards[0].data.size
        assert part == leaf.size / (8 if leaf.size >= 1024 else 1)
    condition = run.text(PROMPTS)
    base = run.negative(condition, "cat")
    whole, found = (one.generate(condition, 2, 0, base=base) for one in (run, split))
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4 * abs(whole).max())


@pytest.mark.parametrize("link", [False, True])
def test_a_run_folder_holds_or_links_the_published_files(folder, run, tmp_path, link):
    write_run(run, tmp_path / "run", link=link)
    again = jd.load(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    assert again.model == run.model
    condition, latents = run.text(PROMPTS), latents_of()
    for one, two in zip(condition, again.text(PROMPTS), strict=True):
        assert (one is None) == (two is None)
        assert one is None or np.array_equal(one, two)
    np.testing.assert_array_equal(again.decode(latents), run.decode(latents))
    held = {file.name for file in (tmp_path / "run" / "parts").iterdir()}
    assert held == {"parts.json"} | (
        set() if link else {"text_encoder", "tokenizer", "unet", "vae"}
    )


@pytest.mark.parametrize(
    "version", ["xl", pytest.param("refiner", marks=pytest.mark.long)]
)
def test_the_index_of_an_export_is_theirs(clip, tmp_path, version):
    """It names both text encoders, or the one that there is."""
    make(tmp_path / "theirs", clip, version)
    write_run(jd.from_diffusers(tmp_path / "theirs"), tmp_path / "run")
    jd.to_diffusers(tmp_path / "run", tmp_path / "ours")
    theirs, ours = (
        json.loads((tmp_path / name / "model_index.json").read_text())
        for name in ("theirs", "ours")
    )
    wanted = {k: v for k, v in theirs.items() if isinstance(v, list) and any(v)}
    assert {k: v for k, v in ours.items() if isinstance(v, list) and any(v)} == wanted
    assert (ours["text_encoder"] == [None, None]) == (version == "refiner")


@pytest.mark.long
@pytest.mark.parametrize("version", ["1", "xl"])
def test_theirs_load_an_export_and_draw_the_same(clip, tmp_path, version):
    pipeline = make(tmp_path / "theirs", clip, version)
    run = alone(jd.from_diffusers(tmp_path / "theirs", num_steps=3))
    write_run(run, tmp_path / "run")
    call = jd.to_diffusers(tmp_path / "run", tmp_path / "ours")
    assert call.pop("num_inference_steps") == 3
    assert call.pop("guidance_scale") == run.experiment.sampling.guidance
    again = type(pipeline).from_pretrained(tmp_path / "ours", low_cpu_mem_usage=False)
    again.set_progress_bar_config(disable=True)
    assert again.components.keys() == pipeline.components.keys()
    latents = latents_of()
    first, second = (
        drawn_by_diffusers(one, latents, 3, 5.0, **call) for one in (pipeline, again)
    )
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_changed_part_is_one_line(folder, run, tmp_path):
    theirs = shutil.copytree(folder, tmp_path / "theirs")
    write_run(
        dataclasses.replace(run, parts=Parts(run.parts.info, theirs)),
        tmp_path / "run",
        link=True,
    )
    file = theirs / "tokenizer" / "tokenizer.json"
    text = file.read_text()
    file.write_text(text.replace("cat</w>", "dog</w>"))
    with pytest.raises(InputError, match="must be the file that was imported, got ano"):
        jd.load(tmp_path / "run").text("a cat")
    file.unlink()
    with pytest.raises(InputError, match="must be a file of this model, got none"):
        jd.load(tmp_path / "run").text("a cat")
    (theirs / "unet" / "config.json").unlink()
    with pytest.raises(InputError, match=r"unet/config.json' must be a file of this"):
        jd.load(tmp_path / "run")
