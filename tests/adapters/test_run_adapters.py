"""Adapters of runs, in Python and on the command line."""

import functools
import json
import shlex
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import jaxdiff as jd
from jaxdiff.adapters import merged
from jaxdiff.cli import command, program
from jaxdiff.cli.sampling_options import samplings_of
from jaxdiff.components.lora_export import write_lora
from jaxdiff.components.lora_files import Adapters
from jaxdiff.errors import InputError
from jaxdiff.runs.adapt import networks_of_run
from tests.conditioning.test_tokenizers import clip as clip
from tests.helpers.compilations import compilations
from tests.helpers.lora import random_lora
from tests.helpers.text_pipelines import alone, made_here

pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore:the licence")
VECTORS = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(clip, tmp_path_factory):
    """Folder of an imported run, with files of two adapters and of a token."""
    folder = tmp_path_factory.mktemp("adapters")
    made_here(folder / "theirs", clip)
    program.jaxdiff(["import", str(folder / "theirs"), str(folder / "run")])
    networks = networks_of_run(jd.load(folder / "run"))
    for seed, name in enumerate(("one", "two")):
        adapter = Adapters(
            {
                network: random_lora(one.params, "to_|_proj|ff|conv_", seed)
                for network, one in networks.items()
            }
        )
        write_lora(adapter, folder / f"{name}.safetensors", networks)
    save_file({"<new>": VECTORS}, folder / "new.safetensors")
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return alone(jd.load(folder / "run"))


def drawn(run, prompt="a cat"):
    condition = run.text(prompt)
    base = run.negative(condition)
    return run.generate(condition, 1, 3, base=base)


def test_a_run_with_lora_has_merged_networks(run, folder):
    found = run.with_lora(folder / "one.safetensors", 0.5)
    found = found.with_lora(str(folder / "two.safetensors"), -0.3)
    networks = networks_of_run(run)
    for network, one in networks_of_run(found).items():
        params = networks[network].params
        for seed, scale in ((0, 0.5), (1, -0.3)):
            lora = random_lora(networks[network].params, "to_|_proj|ff|conv_", seed)
            assert lora.layers
            params = merged(params, lora, scale)
        jax.tree.map(np.testing.assert_array_equal, one.params, params)
    assert np.abs(found.text("a cat").text - run.text("a cat").text).max() > 1e-3
    lora = random_lora(networks["unet"].params, "to_|_proj|ff|conv_", 0)
    alone_ = run.with_lora(lora, 0.5)
    assert alone_.parts is run.parts
    jax.tree.map(
        np.testing.assert_array_equal, alone_.params, merged(run.params, lora, 0.5)
    )


@pytest.mark.long
def test_other_scales_of_a_run_compile_nothing(run, folder):
    first = drawn(run.with_lora(folder / "one.safetensors", 0.5))
    with compilations() as count:
        other = drawn(run.with_lora(folder / "one.safetensors", 1.3))
        both = run.with_lora(folder / "one.safetensors", 0.5)
        both = drawn(both.with_lora(folder / "one.safetensors", 0.8))
        plain = drawn(run)
    assert count() == 0
    np.testing.assert_allclose(both, other, rtol=0, atol=1e-4 * np.abs(other).max())
    assert min(np.abs(first - other).max(), np.abs(first - plain).max()) > 1e-3


def test_new_tokens_change_the_prompts_that_have_them(run, folder):
    found = run.with_embedding(folder / "new.safetensors")
    text = found.text("a <new> cat").text
    assert np.abs(text - run.text("a <new> cat").text).max() > 1e-3
    np.testing.assert_array_equal(found.text("a cat").text, run.text("a cat").text)
    named = run.with_embedding(folder / "new.safetensors", "thing")
    np.testing.assert_array_equal(named.text("a thing cat").text, text)
    with pytest.raises(InputError, match="token must be new to the tokenizer"):
        found.with_embedding(folder / "new.safetensors")
    # An adapter may bring tokens, and comes before or after others.
    adapter = Adapters({}, {"<new>": {"text_encoder": VECTORS}})
    np.testing.assert_array_equal(run.with_lora(adapter).text("a <new> cat").text, text)
    both = found.with_lora(folder / "one.safetensors").text("a <new> cat").text
    other = run.with_lora(folder / "one.safetensors").with_embedding(
        folder / "new.safetensors"
    )
    np.testing.assert_allclose(other.text("a <new> cat").text, both, rtol=0, atol=1e-6)


@pytest.fixture
def sample(folder, monkeypatch, capsys):
    """Function that runs a command line in the folder; it returns the exit code."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(command, "load", functools.cache(jd.load))

    def run(line):
        words = ["sample", "--workdir", "run", *shlex.split(line)]
        monkeypatch.setattr("sys.argv", ["jaxdiff", *words])
        program.jaxdiff(words)
        return capsys.readouterr()

    return run


@pytest.mark.long
def test_the_command_draws_with_adapters_and_names_them_in_the_picture(
    folder, sample, run
):
    sample(
        "--prompt 'a <new> cat' --lora one.safetensors:0.5 two.safetensors --embedding "
        "'new.safetensors:<new>' --steps 2 --seed 3 --out a.png"
    )
    expected = run.with_embedding(folder / "new.safetensors")
    expected = expected.with_lora(folder / "one.safetensors", 0.5)
    expected = expected.with_lora(folder / "two.safetensors")
    (sampling,) = samplings_of(expected, (), 2, None).values()
    condition = expected.text("a <new> cat")
    latents = expected.generate(
        condition, 1, 3, base=expected.negative(condition), sampling=sampling
    )
    images = jd.data.to_uint8(expected.decode(latents))
    with Image.open(folder / "a.png") as picture:
        notes: Any = picture.info
        assert np.abs(np.asarray(picture).astype(int) - images[0]).max() <= 1
    settings = json.loads(notes["settings"])
    assert [(one["file"], one["scale"]) for one in settings["lora"]] == [
        ("one.safetensors", 0.5), ("two.safetensors", 1.0)
    ]  # fmt: skip
    assert [(one["file"], one["token"]) for one in settings["embedding"]] == [
        ("new.safetensors", "<new>")
    ]
    digests = {one["sha256"] for one in settings["lora"] + settings["embedding"]}
    assert len(digests) == 3
    assert {len(digest) for digest in digests} == {64}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--lora one.safetensors:x", "lora must be a file, or a file and a scale such"),
        (
            "--lora none.safetensors",
            "'none.safetensors' must be a complete safetensors",
        ),
        ("--lora new.safetensors", "<new>, which is no part of LoRA"),
        ("--lora a.bin", "a pickle, with --bin"),
        ("--embedding one.safetensors", "must have vectors of"),
    ],
)
def test_wrong_words_are_one_line(sample, capsys, line, message):
    with pytest.raises(SystemExit) as stop:
        sample(f"--prompt 'a cat' {line}")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
