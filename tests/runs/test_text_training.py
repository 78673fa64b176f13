"""Training on captioned pictures, from a folder to an adapter that diffusers reads."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli import program
from jaxdiff.storage.read_state import by_name
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.captioned_folder import captioned_folder
from tests.helpers.pytorch import diffusers, torch
from tests.helpers.text_pipelines import alone, made_here

pytestmark = [
    pytest.mark.long,
    pytest.mark.usefixtures("standard_promotion"),
    pytest.mark.filterwarnings(
        "ignore:left out", "ignore:the licence", "ignore:cut ", "ignore:.*captions? "
    ),
]
ROOT = Path(__file__).parents[2]
STEPS = 20


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """Folder of an imported run, of captioned pictures, and of their latents."""
    folder = tmp_path_factory.mktemp("captions")
    made_here(folder / "theirs", clip)
    program.jaxdiff(["import", str(folder / "theirs"), str(folder / "run"), "--link"])
    captioned_folder(folder / "pictures", "files")
    program.jaxdiff(encoding(folder, "latents"))
    return folder


def encoding(folder, out):
    """Returns the words of a command that encodes the pictures."""
    return [
        "encode", "folder", str(folder / "pictures"), "--data.size", "8",
        "--data.captions", "auto", "--model", str(folder / "run"),
        "--out", str(folder / out),
    ]  # fmt: skip


def training(folder, workdir):
    """Returns the words of a command that trains an adapter."""
    return [
        "train", "--data", "latents", "--data.path", str(folder / "latents"),
        "--init", str(folder / "run"), "--adapter", "lora", "--adapter.rank", "2",
        "--workdir", str(folder / workdir), "--training.batch-size", "8",
        "--training.num-steps", str(STEPS), "--optimizer.learning-rate", "0.02",
        "--optimizer.warmup-steps", "0", "--upkeep.checkpoint-every", "8",
        "--upkeep.sample-every", str(STEPS), "--upkeep.sample-steps", "2",
        "--upkeep.sample-prompts", "a cat", "a frog",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def trained(folder):
    with jax.numpy_dtype_promotion("standard"):
        program.jaxdiff(training(folder, "lora"))
    return folder / "lora"


def contents(folder):
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_two_processes_write_the_bytes_of_one(folder, tmp_path):
    code = "from jaxdiff.cli.program import jaxdiff; jaxdiff()"
    line = [
        ROOT / "launch/local", "-n", "2", "-d", "1", "-o", tmp_path, sys.executable,
        "-c", code, *encoding(folder, "two"),
    ]  # fmt: skip
    subprocess.run(list(map(str, line)), cwd=ROOT, check=True, timeout=500)
    assert contents(folder / "two") == contents(folder / "latents")


def test_five_hundred_pictures_train_resume_and_are_drawn(folder, trained, capsys):
    assert len(jd.data.Latents(path=str(folder / "latents")).load()) > 400
    whole = jd.load(trained)
    assert (trained / "grids" / f"step_{STEPS:08}.png").stat().st_size > 1000
    # Begin again from the checkpoint of step 8.
    shutil.copytree(trained, folder / "resumed")
    for step in (16, STEPS):
        shutil.rmtree(folder / "resumed/checkpoints" / str(step))
    program.jaxdiff(training(folder, "resumed"))
    resumed = jd.load(folder / "resumed")
    for name, leaf in by_name(whole.lora).items():
        assert np.array_equal(leaf, by_name(resumed.lora)[name]), name
    out = folder / "cat.png"
    program.jaxdiff(
        ["sample", "--workdir", str(trained), "--prompt", "a cat", "--steps", "2",
         "--out", str(out)]
    )  # fmt: skip
    assert out.stat().st_size > 100
    program.jaxdiff(["replay", "--workdir", str(trained), "--step", "3"])
    told = capsys.readouterr().out
    assert "step 3 of seed 0" in told
    assert "the largest gradients: " in told
    with pytest.raises(SystemExit, match="2"):
        program.jaxdiff(["evaluate", "--workdir", str(trained)])
    error = capsys.readouterr().err
    assert "towers or data must name images for a model of latents, got nei" in error


def test_diffusers_draws_the_same_with_the_adapter(folder, trained):
    program.jaxdiff(["export", str(trained), str(folder / "cat.safetensors")])
    program.jaxdiff(["export", str(trained), str(folder / "merged")])
    run: Any = alone(jd.load(trained))
    base: Any = alone(jd.load(folder / "run"))
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4), np.float32)

    def ours(run):
        condition = run.text(["a cat"])
        base = run.negative(condition)
        found = run.generate(condition, 1, 0, base=base, start=latents)
        return run.decode(found) / 2 + 0.5

    def theirs(place):
        pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
            place, safety_checker=None
        )
        pipeline.set_progress_bar_config(disable=True)
        if place.name == "theirs":
            pipeline.load_lora_weights(str(folder / "cat.safetensors"))
        nchw = torch.tensor(latents.transpose(0, 3, 1, 2))
        return pipeline(
            "a cat", latents=nchw, num_inference_steps=50, guidance_scale=7.5,
            output_type="np",
        ).images  # fmt: skip

    found = ours(run)
    assert np.abs(found - ours(base)).max() > 0.03, "the adapter must matter"
    np.testing.assert_allclose(theirs(folder / "theirs"), found, rtol=0, atol=1e-3)
    np.testing.assert_allclose(theirs(folder / "merged"), found, rtol=0, atol=1e-3)


def test_all_parameters_train_in_each_layout(folder):
    """Full fine-tuning, replicated on 8 devices and split over them."""
    words = [
        "train", "--data", "latents", "--data.path", str(folder / "latents"),
        "--init", str(folder / "run"), "--training.batch-size", "8",
        "--training.num-steps", "3", "--optimizer.warmup-steps", "0",
    ]  # fmt: skip
    found = {}
    for layout in ("pmap", "sharded"):
        workdir = folder / layout
        program.jaxdiff([*words, "--parallel", layout, "--workdir", str(workdir)])
        found[layout] = by_name(jd.load(workdir).params)
    base = by_name(jd.load(folder / "run").params)
    moved = 0.0
    for name, leaf in found["pmap"].items():
        other = found["sharded"][name]
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-5, err_msg=name)
        moved = max(moved, float(np.abs(leaf - base[name]).max()))
    assert moved > 1e-5
    program.jaxdiff(["export", str(folder / "sharded"), str(folder / "exported")])
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(
        folder / "exported", safety_checker=None
    )
    assert pipeline.unet.config.cross_attention_dim == 8
