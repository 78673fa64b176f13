"""The program `jaxdiff`: its help, its recipes, and output that goes nowhere."""

import dataclasses
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxdiff as jd
from experiments import cifar10, digits, fashion_mnist
from jaxdiff.cli import program
from jaxdiff.cli.train import summary
from jaxdiff.evaluation.label_agreement import label_agreement
from jaxdiff.recipes import RECIPES, recipe
from jaxdiff.runs.trainer import Trainer
from tests.helpers.runs import TINY

SCREEN = 40
"""Lines of a screen."""


@pytest.fixture(autouse=True)
def _program(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["jaxdiff"])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)


def refused(capsys: Any, *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        program.jaxdiff(list(args))
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: .+\n", err)
    return err


@pytest.mark.parametrize("args", [[], ["--help"], ["-h"], ["--help-all"]])
def test_without_a_command_it_prints_one_screen(capsys, args, tmp_path):
    program.jaxdiff(args)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) <= SCREEN
    assert max(map(len, lines)) <= 80
    for name in (*program.COMMANDS, *RECIPES):
        assert re.search(rf"^  {name}\b", text, re.M), name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", program.COMMANDS)
def test_help_of_a_command_is_one_screen(capsys, command):
    with pytest.raises(SystemExit) as stop:
        program.jaxdiff([command, "--help"])
    assert stop.value.code == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) <= SCREEN, short
    with pytest.raises(SystemExit):
        program.jaxdiff([command, "--help-all"])
    whole = capsys.readouterr().out
    for flag in program.COMMANDS[command].daily:
        flag = f"--{flag}".replace("_", "-")
        if not flag.startswith("--data."):  # of a choice that is not the default
            assert re.search(rf"{flag}\b", short), flag
            assert re.search(rf"{flag}\b", whole), flag
    if "--help-all" in short:
        assert len(whole) > len(short)


def test_help_of_a_recipe_shows_its_defaults(capsys):
    with pytest.raises(SystemExit):
        program.jaxdiff(["train", "folder", "DIR", "--help"])
    text = capsys.readouterr().out
    assert "--data.size INT" in text
    assert "(default: DIR)" in text
    assert "(default: runs/DIR)" in text


@pytest.mark.parametrize(
    ("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)]
)
def test_help_in_a_terminal_has_colours(monkeypatch, capsys, variables, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(SystemExit):
        program.jaxdiff(["status", "--help"])
    assert ("\x1b[" in capsys.readouterr().out) is coloured


@pytest.mark.parametrize("name", RECIPES)
def test_a_command_takes_a_recipe(monkeypatch, name):
    found: list[Any] = []
    monkeypatch.setattr(
        program, "parse", lambda options, *_, **__: found.extend(options)
    )
    with pytest.raises(TypeError):
        program.jaxdiff(["run", name, *["--data.path="] * (name == "folder")])
    options, experiment = found
    assert experiment == recipe(name).CONFIG
    assert options.workdir == Path("runs") / name


def test_the_scripts_are_the_recipes():
    for script, name in ((digits, "digits"), (fashion_mnist, "fashion")):
        assert script.CONFIG is recipe(name).CONFIG
    assert cifar10.CONFIG is recipe("cifar10").CONFIG
    assert recipe("digits").JUDGE is label_agreement
    for name, module in RECIPES.items():
        text = importlib.import_module(f"experiments.{module}").about
        assert f"jaxdiff train {name}" in text or f"jaxdiff run {name}" in text


def test_a_summary_names_patches_that_cannot_be_exported():
    images = np.zeros((16, 8, 8, 1), np.uint8)
    config = dataclasses.replace(TINY.network, patch=2)  # type: ignore[arg-type]
    experiment = dataclasses.replace(TINY, network=config)
    trainer = Trainer.of(experiment, jd.data.from_arrays(images))
    _, network, *_ = summary(trainer)
    assert network.endswith(" on patches of 2; diffusers has no such network")


def test_a_summary_names_a_warm_up_that_does_not_end():
    images = np.zeros((16, 8, 8, 1), np.uint8)
    for warmup, named in ((TINY.training.num_steps, True), (1, False)):
        optimizer = dataclasses.replace(TINY.optimizer, warmup_steps=warmup)
        experiment = dataclasses.replace(TINY, optimizer=optimizer)
        lines = summary(Trainer.of(experiment, jd.data.from_arrays(images)))
        assert named == any(f"warm-up of {warmup:,} steps" in line for line in lines)


def test_a_recipe_trains_and_its_run_is_found(monkeypatch, capsys, finished):
    """Only `jaxdiff` is installed: no file of experiments/ is read."""
    params = jax.tree.leaves(finished[1].params)
    count = sum(np.size(leaf) for leaf in params)
    monkeypatch.setattr(recipe("digits"), "CONFIG", TINY)
    with jax.numpy_dtype_promotion("standard"):
        program.jaxdiff(["train", "digits"])
    out, err = capsys.readouterr()
    assert err.splitlines()[:3] == [
        "data: 1,500 images of 8x8x1 to train on, 297 held out; 10 classes",
        f"network: {count:,} parameters",
        "steps: 8 of 16 images; each image is seen 0.1 times",
    ]
    assert "training on " in err.splitlines()[3]
    assert err.splitlines()[3].endswith("; compiling first")
    assert "done in " in out
    program.jaxdiff(["status", "digits"])
    assert "runs/digits: step 8 of 8" in capsys.readouterr().out
    for quiet in ([], ["--quiet"]):
        with jax.numpy_dtype_promotion("standard"):
            program.jaxdiff(["train", "--workdir", "runs/digits", *quiet])
        err = capsys.readouterr().err
        assert ("all 8 steps are done\nset a larger --training" in err) != bool(quiet)
        assert not quiet or err == ""
    program.jaxdiff(["status", "digits", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["step"], found["num_steps"]) == (8, 8)
    assert [one["step"] for one in found["checkpoints"]] == [4, 8]
    assert found["experiment"]["training"]["num_steps"] == 8


@pytest.mark.long
def test_an_older_checkpoint_is_drawn_and_measured(finished, tmp_path, capsys):
    """`sample --step`; and `compare --json`, whose output is JSON alone."""
    run = str(shutil.copytree(finished[0], tmp_path / "run"))
    for step in (4, 8):
        line = (
            f"sample --workdir {run} --step {step} --num 2 --steps 2 --out {step}.npz"
        )
        program.jaxdiff(line.split())
        expected = jd.load(run, step=step)
        sampling = dataclasses.replace(
            expected.experiment.sampling,
            sampler=jd.DDPM(spacing=jd.spacing.Trailing(num_steps=2)),
        )
        images = expected.generate(np.arange(2), 2, 0, sampling=sampling)
        with np.load(f"{step}.npz") as drawn:
            np.testing.assert_array_equal(drawn["images"], jd.data.to_uint8(images))
    capsys.readouterr()
    line = f"compare --workdir {run} --sampler ddim --evaluations 2 --num 4 --step 4"
    program.jaxdiff([*line.split(), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "run" / "compare.json").read_text())
    assert found["step"] == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "train digitz",
            "unknown recipe 'digitz'. Perhaps you meant 'digits'. Recipes",
        ),
        ("statistics cats", "unknown recipe 'cats'. Recipes: digits, fashion, emoji"),
        (
            "train",
            "train must have a recipe or a run, got none. Run jaxdiff train digi",
        ),
        (
            "--seed 1",
            "run must have a recipe or a run, got none. Run jaxdiff run digits",
        ),
        ("train --workdir x", "there is no run in 'x' to go on with. Name another, or"),
        (
            "status cats",
            "unrecognized argument 'cats'. Name the option before its valu",
        ),
        ("train folder", "folder must have the path of your images, got none. Run jax"),
        ("train --data folder", "path must name a folder, got ''. Set --data.path."),
        ("run .", "unknown recipe '.'. For your own images, run jaxdiff run folder ."),
        ("sample --num 3", "sample must have a run, got none. Run jaxdiff sample --wo"),
        ("status --json", "status must have a run, got none. Run jaxdiff status --wo"),
        ("--completion csh", "the shell must be one of bash, zsh, fish, got 'csh'"),
        ("--completion", "the shell must be one of bash, zsh, fish, got ''"),
        (
            "--json status --workdir x",
            "the command must be the first word, got '--json'. Run jaxdiff status "
            "--json --workdir x",
        ),
        (
            "statistics --num 3",
            "statistics must have a recipe or data, got none. Run jaxdiff statis",
        ),
        ("train digits fashion", "unrecognized argument 'fashion'."),
    ],
)
def test_what_is_no_recipe_is_told(capsys, line, message):
    assert refused(capsys, *line.split()).startswith(f"error: {message}")


def test_a_cache_that_is_a_file_is_told(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JAXDIFF_CACHE", str(tmp_path / "file"))
    assert refused(capsys, "cache").endswith(
        "file': Not a directory. Set JAXDIFF_CACHE to a writable folder.\n"
    )


def test_tab_completes_commands_and_flags(capsys):
    """The script of bash, run by bash."""
    program.jaxdiff(["--completion", "bash"])
    script = capsys.readouterr().out
    for words, expected in (
        ("tr", ["train", "train-autoencoder", "train-prior", "train-towers"]),
        ("train digits --training.num-s", ["--training.num-steps"]),
        ("sample --guidan", ["--guidance"]),
        ("train --schedule cos", ["cosine"]),
    ):
        count = len(words.split())
        ask = (
            f"COMP_WORDS=(jaxdiff {words}); COMP_CWORD={count}; _tyro_jaxdiff\n"
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash"], input=f"{script}\n{ask}\n", capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells(capsys, shell):
    program.jaxdiff(["--completion", shell])
    text = capsys.readouterr().out
    assert "--training.num-steps" in text
    assert "jaxdiff" in text


def test_a_reader_that_goes_away_is_no_error():
    code = "from jaxdiff.cli.program import jaxdiff; jaxdiff(['--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        assert child.stderr.read() == b""
        assert child.wait() in (0, 141)


@pytest.mark.parametrize(
    ("words", "usage", "text"),
    [
        (
            ["train"],
            "train [digits|fashion|emoji|unclip|folder DIR|cifar10|dit] [OPTIONS]",
            "",
        ),
        (["train", "folder"], "train folder DIR [OPTIONS]", "Your own photographs"),
        (["sample", "digits"], "sample digits [OPTIONS]", "Handwritten digits"),
        (["status"], "status --workdir RUN [OPTIONS]", ""),
        (["import"], "import PATH WORKDIR [OPTIONS]", ""),
        (["cache"], "cache [OPTIONS]", ""),
    ],
)
def test_the_help_of_a_command_shows_its_words_and_its_recipe(
    monkeypatch, capsys, words, usage, text
):
    monkeypatch.setattr(sys, "argv", ["jaxdiff"])
    with pytest.raises(SystemExit):
        program.jaxdiff([*words, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: jaxdiff {usage}\n")
    assert text in " ".join(out.split())


@pytest.mark.parametrize(
    ("called", "name"),
    [("/usr/bin/jaxdiff", "jaxdiff"), ("experiments/a.py", "experiments/a.py")],
)
def test_a_program_has_its_short_name_and_a_script_its_path(
    monkeypatch, capsys, called, name
):
    monkeypatch.setattr(sys, "argv", [called])
    assert refused(capsys, "sample", "--nm").endswith(f"See {name} sample --help\n")
    with pytest.raises(SystemExit):
        program.jaxdiff(["sample", "--help"])
    assert capsys.readouterr().out.startswith(f"usage: {name} sample")
