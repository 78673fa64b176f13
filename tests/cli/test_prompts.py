"""Command `sample` with prompts, on a small pipeline that is imported."""

import functools
import json
import shlex
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jaxdiff as jd
from jaxdiff.cli import command, program
from jaxdiff.pretrained.torch_random import TorchGenerator
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.text_pipelines import alone, made_here

pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore:the licence")


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """Folder of an imported run, run, whose pipeline is in theirs."""
    folder = tmp_path_factory.mktemp("prompts")
    made_here(folder / "theirs", clip)
    with pytest.warns(UserWarning, match="left out|the licence") as told:
        program.jaxdiff(["import", str(folder / "theirs"), str(folder / "run")])
    lines = [str(one.message) for one in told]
    assert "left out safety_checker (StableDiffusionSafetyChecker)" in lines[0]
    assert lines[1].endswith("theirs' is openrail. Read it first")
    return folder


@pytest.fixture(scope="module")
def load():
    """Loader that reads the run once."""
    return functools.cache(jd.load)


@pytest.fixture
def sample(folder, load, monkeypatch, capsys):
    """Function that runs a command line in the folder; it returns what is printed."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "load", load)

    def run(line):
        words = ["sample", "--workdir", "run", *shlex.split(line)]
        monkeypatch.setattr("sys.argv", ["jaxdiff", *words])
        program.jaxdiff(words)
        return capsys.readouterr().out

    return run


def drawn(run, prompts, seeds, **options):
    condition = run.text(prompts)
    latents = run.generate(
        condition, len(prompts), np.array(seeds), base=run.negative(condition, "bad"),
        indices=np.zeros(len(prompts), int), **options,
    )  # fmt: skip
    return jd.data.to_uint8(run.decode(latents))


def test_prompts_are_drawn_and_their_pictures_can_be_made_again(folder, sample):
    (folder / "lines.txt").write_text("a cat\n\n  the frog \n")
    said = sample("--prompts lines.txt --negative bad --num 3 --seed 5 --steps 2")
    assert said == (
        "3 images are in run/samples.png and run/samples.npz and run/samples\n"
    )
    run = alone(jd.from_diffusers(folder / "theirs", num_steps=2))
    prompts = ["a cat", "the frog", "a cat"]
    with np.load(folder / "run" / "samples.npz") as file:
        images = file["images"]
        assert file["prompts"].tolist() == prompts
        assert file["seeds"].tolist() == [5, 6, 7]
    expected = drawn(run, prompts, [5, 6, 7])
    assert np.abs(images.astype(int) - expected).max() <= 1
    with Image.open(folder / "run" / "samples" / "00001.png") as picture:
        notes: Any = picture.info
        np.testing.assert_array_equal(np.asarray(picture), images[1])
    assert (notes["prompt"], notes["seed"]) == ("the frog", "6")
    settings = json.loads(notes["settings"])
    assert (settings["negative"], settings["size"]) == ("bad", [8, 8])
    assert settings["sampling"][0]["guidance"] == 7.5
    sample("--prompt 'the frog' --negative bad --seeds 6 --steps 2 --out one.png")
    with Image.open(folder / "one.png") as picture:
        again = np.asarray(picture)
        words = picture.info["command"]
    assert np.abs(again.astype(int) - images[1]).max() <= 1
    assert words == (
        "jaxdiff sample --workdir run --prompt 'the frog' --negative bad --seeds 6 "
        "--steps 2 --out one.png"
    )


@pytest.mark.long
def test_seeds_of_torch_start_from_its_noise(folder, sample):
    sample(
        "--prompt 'a cat' --negative bad --seeds 3 9 --num 2 --steps 2 --seed-like "
        "torch --size 8 12 --out torch.npz"
    )
    run = alone(jd.from_diffusers(folder / "theirs", num_steps=2)).resized(8, 12)
    noise = [TorchGenerator(seed).images(1, 4, 6, 4) for seed in (3, 9)]
    expected = drawn(run, ["a cat"] * 2, [0, 0], start=np.concatenate(noise))
    with np.load(folder / "torch.npz") as file:
        assert np.abs(file["images"].astype(int) - expected).max() <= 1


def test_a_blend_goes_from_prompt_to_prompt(folder, sample):
    sample(
        "--blend 'a cat' 'the frog' --negative bad --columns 3 --steps 2 --out b.npz"
    )
    run = alone(jd.from_diffusers(folder / "theirs", num_steps=2))
    with np.load(folder / "b.npz") as file:
        images = file["images"].astype(int)
    for column, prompt in ((0, "a cat"), (2, "the frog")):
        expected = drawn(run, [prompt], [0])[0]
        assert np.abs(images[column] - expected).max() <= 1
        assert np.abs(images[1] - images[column]).max() > 2


@pytest.mark.long
def test_an_image_is_changed_as_far_as_its_strength(folder, sample):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    sample("--prompt a --image image.png --strength 0.5 --steps 2 --out i.npz")
    run = alone(jd.from_diffusers(folder / "theirs", num_steps=2))
    start = run.encode(image[None] / np.float32(127.5) - 1)
    condition = run.text("a")
    latents = run.generate(
        condition, 1, 0, base=run.negative(condition), start=start, strength=0.5
    )
    with np.load(folder / "i.npz") as file:
        expected = jd.data.to_uint8(run.decode(latents))
        assert np.abs(file["images"].astype(int) - expected).max() <= 1


@pytest.mark.long
def test_an_image_is_repainted_under_its_mask(folder, sample):
    """The rest keeps its latents, from every seed."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(image).save(folder / "image.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, 4:] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    line = "--image image.png --mask mask.png --steps 2 --num 2 --seeds 0 1 --out m.npz"
    sample(f"--prompt a {line}")
    run = alone(jd.from_diffusers(folder / "theirs", num_steps=2))
    with np.load(folder / "m.npz") as file:
        images = file["images"]
    assert np.abs(np.subtract(*images.astype(int))).max() > 2
    condition = run.text(["a", "a"])
    start = np.repeat(run.encode(image[None] / np.float32(127.5) - 1), 2, 0)
    painted = np.repeat(run.latent_mask(mask / 255)[None], 2, 0)
    latents = run.generate(
        condition, 2, np.array([0, 1]), base=run.negative(condition), start=start,
        indices=np.zeros(2, int), strength=1.0, mask=painted,
    )  # fmt: skip
    expected = jd.data.to_uint8(run.decode(latents))
    assert np.abs(images.astype(int) - expected).max() <= 1
    kept = latents[:, :, :2]
    np.testing.assert_allclose(kept, start[:, :, :2], atol=1e-5)
    assert np.abs(latents - start)[:, :, 2:].max() > 0.1


@pytest.mark.parametrize("kind", ["link", "file"])
def test_single_images_go_into_a_folder_of_their_own(sample, capsys, tmp_path, kind):
    out = tmp_path / "out"
    out.mkdir()
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        (out / "samples").symlink_to(tmp_path / "elsewhere")
    else:
        (out / "samples").write_text("mine")
    with pytest.raises(SystemExit):
        sample(f"--prompt a b --steps 2 --out {out}")
    assert "/out/samples' must be a folder, got a link or" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["samples"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "a model of text must have one of prompt, prompts and blend, got none"),
        ("--prompt a --blend b c", "a model of text must have one of prompt, prompts "),
        ("--prompt a --num 0", "num must be at least 1, got 0"),
        ("--prompt a --labels 3", "labels must be None for a model of text, got (3,)."),
        ("--prompt a --size 7 8", "image height must be a multiple of 2, got 7. Use 6"),
        ("--prompt a --strength 0.5", "strength must be None, because no image is cha"),
        ("--prompt a --mask m.png", "image must be given with a mask, got None. Gi"),
        ("--prompt a --image no.png", "cannot read the image 'no.png': No such file"),
        ("--prompt a --image-guidance 2", "image_guidance must be None for a network "),
        ("--prompts no.txt", "cannot read 'no.txt': No such file or directory"),
        ("--prompts /dev/null", "cannot read '/dev/null'"),
        ("--prompt a --seeds -1", "seed must lie in 0..2^32 - 1, got -1"),
        ("--prompt a --out x.gif", "a .gif must show a model of pixels, got one of l"),
        (
            "--prompt a --seed-like torch --sampler euler-ancestral",
            "seed-like must be jax for a sampler that adds noise, such as euler-ance",
        ),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(sample, capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        sample(f"{line} --steps 2")
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert error[0].startswith(f"error: {message}")
