"""Pipelines of classes and latents draw the images of diffusers' DiTPipeline.

The initial latents are diffusers'. Every parameter is random.
"""

import dataclasses
import json

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli.program import jaxdiff
from jaxdiff.errors import InputError
from tests.components.test_component import filled
from tests.components.test_dit_files import shared
from tests.helpers.pytorch import diffusers, torch
from tests.helpers.text_pipelines import KL, alone
from tests.pretrained.test_text_pipelines import check_images, latents_of

CLASSES = [7, 993]
SCHEDULER = {
    "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "clip_sample": False, "set_alpha_to_one": True,
}  # fmt: skip


def make(folder, scheduler="DDIMScheduler", **options):
    """Saves a small pipeline in a folder, and returns it.

    The pipeline's null class is 1000, whatever the network.
    """
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=8,
        out_channels=8,
    )  # fmt: skip
    vae = filled(diffusers.AutoencoderKL(**KL), 1, 0.3)
    pipeline = diffusers.DiTPipeline(
        transformer=shared(filled(network, 0, 0.3)), vae=vae,
        scheduler=getattr(diffusers, scheduler)(**SCHEDULER, **options),
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    names = {str(i): f"thing {i}, object {i // 2}" for i in range(1000)}
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": names}))
    return pipeline


def drawn_by_diffusers(pipeline, latents, guidance, steps):
    """Returns the images; the pipeline takes no latents, but a generator."""
    given = torch.from_numpy(latents.transpose(0, 3, 1, 2))
    name = "diffusers.pipelines.dit.pipeline_dit.randn_tensor"
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(name, lambda *_, **__: given)
        found = pipeline(
            CLASSES, guidance_scale=guidance, num_inference_steps=steps,
            output_type="np",
        )  # fmt: skip
    return found.images


def drawn(run, latents, guidance):
    sampling = dataclasses.replace(run.experiment.sampling, guidance=guidance)
    found = run.generate(np.array(CLASSES), 2, 0, sampling=sampling, start=latents)
    return run.decode(found) / 2 + 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "theirs"
    make(folder)
    return folder


def test_a_pipeline_draws_what_theirs_draws(tmp_path):
    pipeline = make(tmp_path)
    run = alone(jd.from_diffusers(tmp_path, num_steps=4))
    assert run.experiment.sampling.guidance == 4
    assert run.experiment.prediction.learn_variance
    latents, seen = latents_of(), []
    for guidance in (1.0, 4.0):
        theirs = drawn_by_diffusers(pipeline, latents, guidance, 4)
        check_images(drawn(run, latents, guidance), theirs)
        seen.append(theirs)
    assert np.abs(seen[0] - seen[1]).max() > 0.03, "guidance must matter"
    assert run.info.class_names is not None
    assert run.info.class_names[7] == "thing 7, object 3"


@pytest.mark.long
def test_another_scheduler(tmp_path):
    """Their pipeline goes on from the scaled x_t, so that Euler draws noise there."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("clip_sample", "set_alpha_to_one"):
            patch.delitem(SCHEDULER, name)
        pipeline = make(tmp_path, "DPMSolverMultistepScheduler")
    run = alone(jd.from_diffusers(tmp_path, num_steps=5))
    theirs = drawn_by_diffusers(pipeline, latents_of(), 4.0, 5)
    check_images(drawn(run, latents_of(), 4.0), theirs)


def test_original_numerics_differ(folder):
    run = alone(jd.from_diffusers(folder, num_steps=2))
    original = alone(jd.from_diffusers(folder, num_steps=2, numerics="original"))
    network = original.experiment.network
    assert network.embedding.shift == 0
    assert network.mlp_epsilon == 1e-6
    assert run.experiment.network.embedding.shift == 1
    assert run.experiment.network.mlp_epsilon == 1e-5
    latents = latents_of()
    one, two = (drawn(each, latents, 1.0) for each in (run, original))
    assert np.abs(one - two).max() > 1e-3


def test_the_command_line_draws_classes_by_name(folder, tmp_path, capsys):
    """Import, sample by number and by name, and export with its own names."""
    run, out = tmp_path / "run", tmp_path / "out.npz"
    jaxdiff(["import", str(folder), str(run), "--steps", "2", "--link"])
    words = ["sample", "--workdir", str(run), "--num", "2", "--out", str(out)]
    jaxdiff([*words, "--labels", "thing 7", "3"])
    with np.load(out) as drawn:
        assert drawn["labels"].tolist() == [7, 3]
        assert drawn["images"].shape == (2, 16, 16, 3)
        assert np.ptp(drawn["images"]) > 20
    jaxdiff(["export", str(run), str(tmp_path / "again")])
    capsys.readouterr()
    for wrong, match in (
        (["--labels", "object 3"], "a name of the classes 6 and 7. Give a number."),
        (["--labels", "1000"], "labels must lie in 0..999, got 1000"),
        (["--prompt", "a cat"], "prompt must not be given for a model without text"),
    ):
        with pytest.raises(SystemExit) as caught:
            jaxdiff([*words, *wrong])
        assert caught.value.code == 2
        assert match in capsys.readouterr().err
    pipeline = diffusers.DiTPipeline.from_pretrained(
        tmp_path / "again", low_cpu_mem_usage=False
    )
    assert pipeline.labels["thing 7"] == 7
    first = diffusers.DiTPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    for part in ("transformer", "vae"):
        known = getattr(first, part).state_dict()
        for name, tensor in getattr(pipeline, part).state_dict().items():
            assert torch.equal(tensor, known[name]), name
    for name in ("beta_end", "clip_sample", "set_alpha_to_one", "timestep_spacing"):
        ours, theirs = (p.scheduler.config[name] for p in (pipeline, first))
        assert ours == theirs, name


def test_a_run_of_classes_takes_no_prompts(folder):
    run = jd.from_diffusers(folder)
    with pytest.raises(InputError, match="model of text, got one of classes"):
        run.text("a cat")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"id2label": {"0": "cat"}}, "id2label must name the classes 0 to 999, got"),
        ({"vae": [None, None]}, "must have vae, for a DiTPipeline"),
        (
            {"transformer": ["diffusers", "UNet2DModel"]},
            "transformer must be a DiTT",
        ),
        ({"unet": ["diffusers", "UNet2DModel"]}, "must not have unet, for a DiTPipel"),
    ],
)
def test_a_damaged_index_is_one_line(folder, tmp_path, changes, match):
    for part in ("transformer", "vae", "scheduler"):
        (tmp_path / part).symlink_to(folder / part)
    index = json.loads((folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **changes}))
    with pytest.raises(InputError, match=match) as caught:
        jd.from_diffusers(tmp_path)
    assert "\n" not in str(caught.value)


def test_numerics_are_for_transformers(tmp_path):
    with pytest.raises(InputError, match="numerics must be diffusers for a model that"):
        jd.from_diffusers(tmp_path, numerics="original")
