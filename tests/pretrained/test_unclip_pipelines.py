"""Pipelines of unCLIP draw the images of diffusers, from the same noise.

Every parameter is random. diffusers gets our noise in place of its own.
"""

import dataclasses

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.pretrained import write_run
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.pytorch import torch
from tests.helpers.text_pipelines import alone
from tests.helpers.unclip_pipelines import DEPRECATED, Given, make, noise_of

PROMPTS = ["a cat in a photo", "the frog!!"]
SEEDS = np.array([5, 6])
STEPS = {"prior": 3, "decoder": 3, "enlarge": 2}
CLOSE = 1e-3
"""Largest difference of images in [0, 1]."""


def inject(monkeypatch, name, *stages):
    given = Given(*(noise_of(stage, SEEDS, STEPS[stage]) for stage in stages))
    for module in (f"{DEPRECATED}.{name}", "diffusers.schedulers.scheduling_unclip"):
        monkeypatch.setattr(f"{module}.randn_tensor", given)
    return given


def with_steps(sampling, steps, guidance=None):
    sampler = sampling.sampler
    spacing = dataclasses.replace(sampler.spacing, num_steps=steps)
    sampling = dataclasses.replace(
        sampling, sampler=dataclasses.replace(sampler, spacing=spacing)
    )
    return sampling if guidance is None else dataclasses.replace(
        sampling, guidance=guidance
    )  # fmt: skip


def drawn_from(run, vectors, prompts, guidance):
    """Returns our images in [0, 1] of vectors of images."""
    unclip, zeros = run.unclip, np.zeros(2, int)
    condition, base = unclip.condition(vectors, prompts)
    sampling = with_steps(run.experiment.sampling, STEPS["decoder"], guidance)
    small = run.generate(
        condition, 2, SEEDS, base=base, sampling=sampling, indices=zeros
    )
    last = with_steps(unclip.enlargement.sampling, STEPS["enlarge"])
    large = unclip.enlarge(small, SEEDS, sampling=last, indices=zeros)
    return large / 2 + 0.5


def drawn(run, guidances):
    """Returns our images in [0, 1] of the prompts."""
    sampling = with_steps(run.unclip.prior.sampling, STEPS["prior"], guidances[0])
    vectors = run.unclip.draw(
        PROMPTS, SEEDS, sampling=sampling, indices=np.zeros(2, int)
    )
    return drawn_from(run, vectors, PROMPTS, guidances[1])


def theirs(pipeline, guidances):
    steps = {f"{name}_num_inference_steps": n for name, n in STEPS.items()}
    steps["super_res_num_inference_steps"] = steps.pop("enlarge_num_inference_steps")
    with torch.no_grad():
        return pipeline(
            PROMPTS, prior_guidance_scale=guidances[0],
            decoder_guidance_scale=guidances[1], output_type="np", **steps,
        ).images  # fmt: skip


def check_images(ours, theirs):
    assert ours.shape == theirs.shape
    assert theirs.std() > 0.1
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)


@pytest.fixture(scope="module")
def made(clip, tmp_path_factory):
    """Folder of a pipeline of prompts, and the pipeline."""
    folder = tmp_path_factory.mktemp("unclip") / "theirs"
    return folder, make(folder, clip)


@pytest.fixture(scope="module")
def run(made):
    return alone(jd.from_diffusers(made[0]))


def test_a_prompt_is_drawn_as_theirs(monkeypatch, made, run):
    given = inject(monkeypatch, "pipeline_unclip", "prior", "decoder", "enlarge")
    check_images(drawn(run, (4.0, 8.0)), theirs(made[1], (4.0, 8.0)))
    assert not given.left
    assert run.unclip.prior.sampling.guidance == 4
    assert run.experiment.sampling.guidance == 8


@pytest.mark.long
@pytest.mark.parametrize("guidances", [(1.0, 1.0), (1.0, 3.0), (6.0, 1.0)])
def test_every_guidance_is_theirs(monkeypatch, made, run, guidances):
    inject(monkeypatch, "pipeline_unclip", "prior", "decoder", "enlarge")
    check_images(drawn(run, guidances), theirs(made[1], guidances))


def test_a_run_folder_has_all_stages(made, run, tmp_path):
    write_run(run, tmp_path / "run")
    again = alone(jd.load(tmp_path / "run"))
    assert again.parts is not None
    assert run.parts is not None
    assert again.parts.info.unclip == run.parts.info.unclip
    one, two = (r.unclip.draw("a cat", 3, sampling=with_steps(
        r.unclip.prior.sampling, 3
    )) for r in (run, again))  # fmt: skip
    np.testing.assert_array_equal(one, two)
