"""Mistakes at the command line: one line on stderr, and nothing is written."""

import dataclasses
import functools
import json
import re
import shlex
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import plots
from jaxdiff.cli import (
    command,
    compare,
    convert,
    enlargement_request,
    evaluate,
    program,
    sample,
)
from jaxdiff.cli.command import File
from jaxdiff.cli.commands import COMMANDS
from jaxdiff.cli.flag_table import choices, flags_of
from jaxdiff.conditioning.low_resolution import LowResolution
from jaxdiff.errors import InputError, require
from jaxdiff.runs.trainer import Trainer
from jaxdiff.training.experiment import DataInfo
from tests.helpers.fake_run import CONFIG, fake_run, snapshot, write_run

PAIR = re.compile(r"^\$ (.*)\n(.*)$", re.MULTILINE)
MISTAKES = Path(__file__).parents[1] / "helpers" / "mistakes.txt"
TABLE = PAIR.findall(MISTAKES.read_text("utf-8"))
"""Command lines and their messages; "..." stands for any text of one line."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder in which the command lines run."""
    folder = tmp_path_factory.mktemp("mistakes")
    fake_run(folder / "trained", conditional=True)
    fake_run(folder / "unconditional", conditional=False)
    fake_run(folder / "averaged", conditional=True, ema_lengths=(0.1,))
    low = dataclasses.replace(CONFIG, condition=LowResolution(), conditional=False)
    write_run(folder / "enlarging", low, DataInfo((8, 8, 1), None, None))
    pixels = np.zeros((4, 4), np.uint8)
    plots.save_image(folder / "small.png", pixels[..., None])
    (folder / "file").write_text("not a folder")
    (folder / "empty").mkdir()
    text = (folder / "trained" / "config.json").read_text()
    texts = {
        "torn": '{"experiment": {',
        "deep": '{"a":' * 100_000,
        "hollow": "{}",
        "other": '{"model": "resnet", "lr": 0.1}',
        "untrained": text,
        "spoilt": _changed(text, ("experiment", "training", "num_steps"), 0),
        "larger": _changed(text, ("data", "image_shape"), [16, 16, 1]),
        "shapeless": _changed(text, ("data", "image_shape"), "8x8"),
        "changed": _changed(text, ("data", "fingerprint"), "0123456789abcdef"),
        "damaged": text,
        "transplanted": text,
    }
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)
    for name, run in (("damaged", "trained"), ("transplanted", "unconditional")):
        shutil.copytree(folder / run / "checkpoints", folder / name / "checkpoints")
    (folder / "damaged" / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    jd.data.Digits().load()  # prepared in the cache, not in this folder
    return folder


def _changed(text: str, path: tuple[str, ...], value: Any) -> str:
    """Returns a JSON text with another value at `path`."""
    record = json.loads(text)
    *parents, name = path
    functools.reduce(dict.__getitem__, parents, record)[name] = value
    return json.dumps(record)


@pytest.fixture(scope="module")
def load():
    """Loader that reads each trained model once."""
    return functools.cache(jd.load)


@pytest.fixture
def refused(folder, load, monkeypatch, capsys):
    """Function that runs a wrong command line and returns its line on stderr."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["experiment.py"])
    for module in (command, convert, enlargement_request):
        monkeypatch.setattr(module, "load", load)
    before = snapshot(folder)

    def run(line: str) -> str:
        with pytest.raises(SystemExit) as stop:
            program.main(CONFIG, "What it is.", args=shlex.split(line))
        assert stop.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        assert re.fullmatch(r"error: .+\n", err), "one line"
        assert snapshot(folder) == before
        return err.removesuffix("\n").replace(f"{folder}/", "")

    yield run
    for name in sorted(snapshot(folder).keys() - before)[::-1]:  # left by a failed test
        path = folder / name
        path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.parametrize(("line", "answer"), TABLE, ids=[line for line, _ in TABLE])
def test_a_wrong_command_line_is_one_line_on_stderr(refused, line, answer):
    pattern = ".*".join(map(re.escape, answer.split("...")))
    text = refused(line)
    assert text == answer or re.fullmatch(pattern, text)


def test_the_table_has_an_answer_for_each_line():
    text = MISTAKES.read_text("utf-8")
    assert text.count("\n$ ") == len(TABLE) == len({line for line, _ in TABLE})
    assert all(answer.startswith("error: ") for _, answer in TABLE)


def every_flag(options):
    """Returns the flags of options, and of all choices in them."""
    found = set(flags_of(options))
    for path, members, _ in choices(options):
        flags = {flag for member in members for flag in every_flag([member()])}
        found |= {f"--{path.replace('_', '-')}.{flag[2:]}" for flag in flags}
    return found


def test_a_flag_that_an_answer_advises_is_the_commands_own():
    file, known = File(CONFIG, None, Path("runs/x")), {}
    for name, one in COMMANDS.items():
        known[name] = every_flag(program._options(file, one, []))
    flag = re.compile(r"(?<![\w-])--[a-z][a-z0-9.-]*[a-z0-9]")
    for line, answer in TABLE:
        typed = {*flag.findall(line), "--help", "--quiet", "--version"}
        # An answer names another command than the one that was typed, if any.
        name = "train" if "Train a run with" in answer else line.split()[0]
        advised = set(flag.findall(answer)) - typed
        assert advised <= known[name if name in known else "run"], (line, answer)


BEFORE = [
    "sample --workdir trained --labels 10",
    "sample --workdir trained --labels 10 --out new",
    "sample --workdir trained --num 0",
    "sample --workdir trained --num 0 --out new",
    "sample --workdir trained --num 1 --seed -1",
    "sample --workdir trained --out file/new",
    "sample --workdir nowhere",
    "sample --workdir spoilt",
    "train --workdir hollow",
    "train --workdir larger",
    "compare --workdir trained --num 1",
    "compare --workdir trained --sampler ddim ddim",
    "evaluate --workdir trained --num 298",
    "evaluate --workdir trained --ode-steps -1",
]


@pytest.mark.parametrize("line", BEFORE)
def test_a_mistake_is_told_before_anything_begins(refused, monkeypatch, line):
    def too_late(*args, **options):
        pytest.fail("it goes on")

    monkeypatch.setattr(Trainer, "initial_state", too_late)
    monkeypatch.setattr(jd.runs.Run, "generate", too_late)
    for module in (sample, compare, evaluate):
        monkeypatch.setattr(module, "bar", too_late)
    monkeypatch.setattr(compare, "load_data_of", too_late)
    assert refused(line) == dict(TABLE)[line]


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("tyro", "train --workdir new"),
        ("cattrs", "sample --workdir trained"),
        ("orbax", "sample --workdir trained"),
        ("tensorflow_datasets", "train --workdir new"),
        ("tqdm", "train --workdir new"),
        ("tqdm", "sample --workdir trained"),
        ("matplotlib", "run --workdir new"),
        ("matplotlib", "sample --workdir trained"),
        ("matplotlib", "compare --workdir trained --evaluations 5 --sampler ddim"),
        ("matplotlib", "evaluate --workdir trained"),
        ("matplotlib", "report --workdir trained"),
        ("jinja2", "report --workdir trained"),
        ("PIL", "sample --workdir trained --out x.gif"),
    ],
)
def test_a_package_that_is_missing_is_told_with_its_remedy(
    refused, monkeypatch, package, line
):
    monkeypatch.setitem(sys.modules, package, None)
    if package in ("cattrs", "orbax"):
        monkeypatch.setattr(command, "load", jd.load)  # without the cached models
    assert refused(line) == (
        f"error: {package} cannot be imported (import of {package} halted; None in "
        "sys.modules). Run: pip install 'jaxdiff[experiments]'"
    )


def test_a_judge_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(InputError, match=r"sklearn cannot be imported .*\. Run: pip"):
        require("sklearn.svm")


def test_an_error_of_several_lines_is_one_line(monkeypatch, capsys):
    def fail(*args: Any) -> None:
        raise InputError("one\n  two")

    monkeypatch.setattr(program, "_command", fail)
    with pytest.raises(SystemExit):
        program.main(CONFIG, "What it is.", args=[])
    assert capsys.readouterr() == ("", "error: one\\n  two\n")


def test_warnings_are_one_line_while_a_command_runs(monkeypatch, capsys):
    def warn(*args: Any) -> None:
        print(warnings.formatwarning("so\x1b[2J\n", UserWarning, "file.py", 1), end="")

    monkeypatch.setattr(program, "_command", warn)
    before = warnings.formatwarning
    program.main(CONFIG, "What it is.", args=[])
    assert capsys.readouterr().out == "warning: so\\x1b[2J\\n\n"
    assert warnings.formatwarning is before
