"""Scripts of captioned pictures: their commands, and a model of pixels."""

import numpy as np
import pytest
from PIL import Image

from experiments import captions, emoji
from jaxdiff.cli import program


def test_the_chain_names_each_stage_by_the_one_before(tmp_path):
    first, encode, train, sample = captions.chain(
        ["--data", "emoji"], tmp_path, ["a"], size=64, pixels=False, steps=5,
        autoencoder_steps=7,
    )  # fmt: skip
    assert first[:3] == ["train-autoencoder", "--data", "emoji"]
    assert encode[encode.index("--model") + 1] == str(tmp_path / "autoencoder")
    latents = encode[encode.index("--out") + 1]
    assert train[train.index("--data.path") + 1] == latents
    model = train[train.index("--workdir") + 1]
    assert sample[sample.index("--workdir") + 1] == model
    assert train[train.index("--training.num-steps") + 1] == "5"


def test_help_of_the_scripts(capsys):
    with pytest.raises(SystemExit) as stop:
        emoji.start(["--help"])
    assert stop.value.code == 0
    assert "--pixels" in capsys.readouterr().out


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
