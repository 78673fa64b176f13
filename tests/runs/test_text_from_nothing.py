"""Text-to-image from nothing: the tokenizer of a run, and training by captions."""

import json
import shutil
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.cli import program
from jaxdiff.errors import InputError
from jaxdiff.networks import CrossAttentionUNetConfig, DiTConfig, TextTransformerConfig
from jaxdiff.parallel import Pmap
from jaxdiff.runs.own_text import (
    condition_of,
    store_tokenizer,
    stored_tokenizer,
    with_tokens,
)
from jaxdiff.runs.train import train
from jaxdiff.runs.trainer import Trainer
from jaxdiff.storage.read_state import by_name
from jaxdiff.training.experiment import Experiment, Training, Upkeep
from jaxdiff.training.optimizer import Optimizer

TEXT = TextTransformerConfig(vocabulary=280, length=10, width=8, layers=1, heads=2)
DIT = DiTConfig(width=8, depth=1, heads=1, patch=4, text=TEXT)
UNET = CrossAttentionUNetConfig(
    widths=(8, 8), blocks=(1, 1), down=("plain", "transformer"),
    up=("plain", "transformer"), heads=(1, 1), layers=(1, 1),
    text_only=(False, False), groups=4, text=TEXT,
)  # fmt: skip
pytestmark = pytest.mark.usefixtures("standard_promotion")
COLOURS = ("red", "green", "blue")


def pictures(count=24):
    """Returns pictures of one colour, with two captions each, or none."""
    images = np.zeros((count, 8, 8, 3), np.uint8)
    captions = []
    for i in range(count):
        images[i, ..., i % 3] = 255
        name = COLOURS[i % 3]
        captions.append([f"a {name} square", f"the {name} one"] if i % 7 else "")
    return jd.data.from_arrays(images, captions=captions)


def tokens_of(experiment, dataset) -> Any:
    """Returns the dataset with tokens, and the tokenizer."""
    return with_tokens(experiment, dataset)


def trained_in(workdir, network, **changes):
    """Trains a run on the pictures."""
    with jax.numpy_dtype_promotion("standard"):
        return train(
            experiment(network, **changes), workdir, dataset=pictures(), progress=False
        )


def experiment(network: Any = DIT, **changes):
    return Experiment(
        network=network,
        training=Training(num_steps=6, batch_size=8, ema_decay=0.5),
        optimizer=Optimizer(learning_rate=0.01, warmup_steps=0),
        upkeep=Upkeep(checkpoint_every=2, tensorboard=False, log_every=2),
        **changes,
    )


def test_captions_become_tokens():
    dataset, tokenizer = tokens_of(experiment(), pictures())
    texts = dataset.texts
    numbers = texts.numbers[texts.first[4] : texts.first[5]]
    found, wanted = texts.of(numbers), tokenizer(["a green square", "the green one"])
    np.testing.assert_array_equal(found.tokens, wanted.ids)
    np.testing.assert_array_equal(found.mask, wanted.mask)
    np.testing.assert_array_equal(texts.of(np.zeros(1, int)).tokens, tokenizer("").ids)
    assert (texts.numbers[texts.first[7] : texts.first[8]] == 0).all()
    batch: Any = jd.data.batch(dataset, 0, 0, 24, drop=1.0)
    assert not batch.condition.tokens.any()
    short = experiment(replace(DIT, text=replace(TEXT, length=2)))
    with pytest.warns(UserWarning, match="cut 6 of 6 captions"):
        tokens_of(short, pictures())


@pytest.mark.parametrize(
    ("network", "captions", "options", "message"),
    [
        (DIT, False, {}, "data must have captions for a network with a text encoder"),
        (DiTConfig(), True, {"tokenizer": "t"}, "tokenizer must be None for a network"),
        (DIT, True, {"tokenizer": "/no/such"}, "must hold tokenizer.json"),
        (
            replace(DIT, text=replace(TEXT, vocabulary=256)), True, {},
            "text.vocabulary must be at least 257",
        ),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(network, captions, options, message):
    data = pictures() if captions else replace(pictures(), captions=None)
    with pytest.raises(InputError, match=message):
        tokens_of(experiment(network, **options), data)


def test_a_published_tokenizer_must_fit(tmp_path):
    _, own = tokens_of(experiment(), pictures())
    store_tokenizer(tmp_path, own)
    folder = str(tmp_path / "parts/tokenizer")
    _, found = tokens_of(experiment(tokenizer=folder), pictures())
    assert found.windows("red").ids.tolist() == own.windows("red").ids.tolist()
    small = replace(DIT, text=replace(TEXT, vocabulary=260))
    with pytest.raises(InputError, match=r"network.text.vocabulary must be at least 2"):
        tokens_of(experiment(small, tokenizer=folder), pictures())


def test_a_changed_tokenizer_is_refused(tmp_path):
    trainer: Any = Trainer.of(experiment(), pictures())
    store_tokenizer(tmp_path, trainer.tokenizer)
    found: Any = stored_tokenizer(tmp_path, trainer.info)
    assert found.length == TEXT.length
    path = tmp_path / "parts/tokenizer/tokenizer.json"
    path.write_text(path.read_text().replace('"NFC"', '"NFD"'))
    with pytest.raises(InputError, match="must hold the tokenizer that the run was tr"):
        stored_tokenizer(tmp_path, trainer.info)
    path.unlink()
    with pytest.raises(InputError, match=r"got none\. Restore it"):
        stored_tokenizer(tmp_path, trainer.info)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("own") / "run"
    trained_in(workdir, UNET)
    return workdir


@pytest.mark.long
def test_a_run_resumes_bit_for_bit(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/6")
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    trained_in(tmp_path / "run", UNET)
    first, again = jd.load(trained), jd.load(tmp_path / "run")
    for name, leaf in by_name(first.params).items():
        assert np.array_equal(leaf, by_name(again.params)[name]), name
    info = json.loads((trained / "config.json").read_text())["data"]
    assert len(info["tokenizer"]) == 64
    other = replace(UNET, text=replace(TEXT, length=9))
    with pytest.raises(InputError, match=r"network\.text\.length.*Use the same optio"):
        trained_in(trained, other)


@pytest.mark.long
def test_prompts_of_a_run(trained, tmp_path, capsys):
    run: Any = jd.load(trained)
    condition = run.text(["a red square", "a blue square"])
    assert condition.text.shape == (2, TEXT.length, TEXT.width)
    sampling = replace(run.experiment.sampling, sampler=jd.DDIM(
        spacing=jd.spacing.Trailing(num_steps=2)), guidance=4.0)  # fmt: skip
    images = run.generate(condition, 2, 0, sampling=sampling)
    # Without a base, guidance leads away from the empty text.
    base = run.negative(condition)
    again = run.generate(condition, 2, 0, sampling=sampling, base=base)
    np.testing.assert_array_equal(images, again)
    # Tokens in place of the encoded text.
    tokens = condition_of(run.tokenizer, ["a red square", "a blue square"])
    again = run.generate(tokens, 2, 0, sampling=sampling)
    np.testing.assert_allclose(images, again, rtol=0, atol=1e-3)
    other = run.generate(run.text(["", ""]), 2, 0, sampling=sampling)
    assert np.abs(other - images).max() > 1e-3
    with pytest.raises(InputError, match="text must be given to this network"):
        run.generate(None, 2, 0, sampling=sampling)

    def drawn(*words):
        out = tmp_path / "out.npz"
        program.jaxdiff(
            ["sample", "--workdir", str(trained), "--sampler", "ddim", "--steps", "2",
             "--out", str(out), *words]
        )  # fmt: skip
        return np.load(out)

    found = drawn("--prompt", "a red square", "--guidance", "4", "--negative", "blue")
    assert found["images"].shape == (1, 8, 8, 3)
    found = drawn("--blend", "a red square", "a blue square", "--columns", "3")
    assert found["images"].shape == (3, 8, 8, 3)
    (tmp_path / "prompts").write_text("a red square\n\nno green\n")
    found = drawn("--prompts", str(tmp_path / "prompts"), "--num", "3")
    assert list(found["prompts"]) == ["a red square", "no green", "a red square"]
    image = tmp_path / "image.png"
    jd.plots.save_image(image, np.full((8, 8, 3), 200, np.uint8))
    found = drawn("--prompt", "red", "--image", str(image))
    assert found["images"].shape == (1, 8, 8, 3)
    capsys.readouterr()
    for words, message in (
        (["sample", "--workdir", str(trained)], "must have one of prompt, prompts"),
        (["evaluate", "--workdir", str(trained)], "must"),
        (["export", str(trained), str(tmp_path / "x")], "must"),
    ):
        with pytest.raises(SystemExit, match="2"):
            program.jaxdiff(words)
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line


@pytest.mark.long
@pytest.mark.parametrize("network", [DIT, UNET], ids=["dit", "unet"])
def test_one_result_on_one_and_eight_devices(network, tmp_path):
    found = {}
    for count in (1, 8):
        parallel = Pmap(num_devices=count)
        state = trained_in(tmp_path / str(count), network, parallel=parallel)
        found[count] = by_name(jax.device_get(state.params))
    for name, leaf in found[1].items():
        other = found[8][name]
        if name.endswith("key/bias"):
            continue  # softmax ignores it: Adam makes steps of rounding errors
        np.testing.assert_allclose(leaf, other, rtol=1e-3, atol=1e-4, err_msg=name)
