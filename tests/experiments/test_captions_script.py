"""Scripts of captioned pictures: their commands, and a model of pixels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import captions, emoji, unclip
from jaxdiff.cli import program


def test_the_chain_names_each_stage_by_the_one_before(tmp_path):
    first, encode, train, sample, blend = captions.chain(
        ["--data", "emoji"], tmp_path, ["a"], size=64, pixels=False, steps=5,
        autoencoder_steps=7, blend=["a", "b"],
    )  # fmt: skip
    assert first[:3] == ["train-autoencoder", "--data", "emoji"]
    assert encode[encode.index("--model") + 1] == str(tmp_path / "autoencoder")
    latents = encode[encode.index("--out") + 1]
    assert train[train.index("--data.path") + 1] == latents
    model = train[train.index("--workdir") + 1]
    for words in (sample, blend):
        assert words[words.index("--workdir") + 1] == model
    assert blend[blend.index("--blend") + 1 :][:2] == ["a", "b"]
    assert train[train.index("--training.num-steps") + 1] == "5"


def test_help_of_the_scripts(capsys):
    with pytest.raises(SystemExit) as stop:
        emoji.start(["--help"])
    assert stop.value.code == 0
    assert "--pixels" in capsys.readouterr().out


@pytest.mark.parametrize("script", ["emoji", "unclip"])
def test_a_script_beside_emoji_py_imports_the_package_emoji(script):
    """A script's folder is searched first, and has a file of the package's name."""
    folder = Path(__file__).parents[2] / "experiments"
    lines = (
        f"import runpy, sys; sys.path[0] = {str(folder)!r}",
        f"runpy.run_path({str(folder / f'{script}.py')!r}, run_name='script')",
        "import emoji; assert emoji.EMOJI_DATA",
    )
    words = [sys.executable, "-c", "\n".join(lines)]
    subprocess.run(words, check=True, timeout=120)


def test_the_chain_of_unclip_names_each_run_by_the_one_before(tmp_path):
    steps = dict.fromkeys(unclip.STEPS, 5)
    found = unclip.chain(tmp_path, steps, 8, tmp_path / "direct")
    towers, prior, decoder, enlargement, prompts, *_, own, direct = found
    assert [one[0] for one in (towers, prior, decoder)] == [
        "train-towers", "train-prior", "train"
    ]  # fmt: skip

    def of(words, flag):
        return words[words.index(flag) + 1]

    assert of(prior, "--towers") == of(towers, "--workdir")
    assert of(decoder, "--condition.towers") == of(towers, "--workdir")
    for words in (prompts, own):
        assert of(words, "--prior") == of(prior, "--workdir")
        assert of(words, "--workdir") == of(decoder, "--workdir")
    assert of(prompts, "--enlarge") == of(enlargement, "--workdir")
    assert of(direct, "--workdir") == str(tmp_path / "direct")
    assert {of(one, "--training.num-steps") for one in found[:4]} == {"5"}


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_unclip_from_nothing_draws_its_pictures(tmp_path):
    unclip.start(["--workdir", str(tmp_path), "--steps", "2", "--samples", "4"])
    for name in ("prompts", "variations", "blend", "difference"):
        assert Image.open(tmp_path / f"{name}.png").width > 64
    assert (tmp_path / "decoder/evaluation.json").exists()


@pytest.mark.long
@pytest.mark.usefixtures("standard_promotion")
def test_captioned_pictures_become_a_model_of_pixels(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        colour = np.zeros((20, 30, 3), np.uint8)
        colour[..., i % 3] = 255
        Image.fromarray(colour).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(("red", "green", "blue")[i % 3])
    small = [
        "--network.widths", "8", "8", "8", "--network.groups", "4",
        "--network.heads", "1", "1", "1", "--network.text.layers", "1",
        "--network.text.width", "8", "--network.vector-channels", "8",
        "--training.batch-size", "8", "--upkeep.sample-steps", "2",
    ]  # fmt: skip
    run, more = program.jaxdiff, {"train": small, "sample": ["--steps", "2"]}
    monkeypatch.setattr(
        program, "jaxdiff", lambda words: run([*words, *more[words[0]]])
    )
    captions.start(
        [str(folder), "--pixels", "--steps", "3", "--size", "8", "--workdir",
         str(tmp_path / "run"), "--prompts", "red", "blue"],
        "about", lambda options: "x",
        lambda options: ["--data", "folder", "--data.path", str(options.folder),
                         "--data.captions", "auto"],
    )  # fmt: skip
    picture = Image.open(tmp_path / "run/model/samples.png")
    assert picture.width > 2 * 64
