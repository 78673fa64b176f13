"""The command lines that the pages print, and the flags that they name."""

import dataclasses
import importlib
import re
import shlex
from functools import partial
from typing import Any

import pytest

from experiments import captions, emoji, folder, unclip
from jaxdiff.cli import main, program
from tests.helpers.fake_run import fake_run
from tests.test_pages import FENCED, PAGES, ROOT, prose

LINE = re.compile(r"(?:\.venv/bin/)?(?:python |)(experiments/(\w+)\.py|jaxdiff)\b(.*)")
FLAG = re.compile(r"(?<![\w-])--([a-z][\w-]*(?:\.[a-z][\w-]*)*)")
OF_OTHERS = {
    "check",
    "logdir",
    "durations",
    "gpus-per-node",
    "ntasks-per-node",
    "version",
    "completion",
    "no-build-isolation",
    "help-all",
    "quiet",
}
"""Flags of TensorBoard, pytest, pip and Slurm; and those of the whole program."""


def lines():
    """Command lines in the shell blocks: (page, file or program, words)."""
    found = []
    for page in PAGES:
        for kind, code in FENCED.findall(page.read_text()):
            if kind != "sh":
                continue
            for line in code.splitlines():
                for part in re.split(r"&&|\|", line.split("#")[0]):
                    match = LINE.search(part)
                    if match and match[2] != "scaling":
                        found.append((page, match[2], tuple(shlex.split(match[3]))))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run folders that the pages name."""
    folder = tmp_path_factory.mktemp("pages")
    fake_run(folder / "one", conditional=True)
    (folder / "runs").mkdir()
    for name in ("digits", "cat", "sd", "edm", "flow"):
        (folder / "runs" / name).symlink_to(folder / "one")
    (folder / "DIR").mkdir()
    return folder


class Parsed(Exception):
    """Ends a command after its flags are read."""


def test_the_pages_print_command_lines():
    assert len(lines()) > 30
    assert {name for _, name, _ in lines()} >= {"digits", "folder", "cifar10", None}


@pytest.mark.parametrize(
    ("page", "name", "words"),
    dict.fromkeys(lines()),
    ids=lambda value: str(value)[-40:],
)
def test_a_printed_command_line_is_read(page, name, words, runs, monkeypatch):
    """With the flags that exist and values that they take."""

    def parse(*args, **options):
        real(*args, **options)
        raise Parsed

    def parse_chain(commands):
        raise Parsed

    real = program.parse
    monkeypatch.setattr(program, "parse", parse)
    monkeypatch.chdir(runs)
    monkeypatch.setattr(captions, "run", parse_chain)
    monkeypatch.setattr(unclip, "write_pictures", lambda workdir: None)
    starts: Any = {
        None: program.jaxdiff, "folder": folder.start, "emoji": emoji.start,
        "captions": captions.main, "unclip": unclip.start,
    }  # fmt: skip
    start = starts.get(name)
    if start is None:
        module = importlib.import_module(f"experiments.{name}")
        start = partial(main, module.CONFIG, module.__doc__ or "")
    with pytest.raises(Parsed):
        start(args=list(words))


def known_flags():
    """Last parts of all flags: fields of options, and flags of scripts."""
    flags = {"help"}
    tops = [ROOT / top for top in ("jaxdiff", "experiments", "tests/helpers")]
    for path in sorted(path for top in tops for path in top.rglob("*.py")):
        flags |= set(re.findall(r'"--([a-z][\w-]*)"', path.read_text()))
        parts = path.relative_to(ROOT).with_suffix("").parts
        for value in vars(importlib.import_module(".".join(parts))).values():
            if isinstance(value, type) and dataclasses.is_dataclass(value):
                names = (f.name for f in dataclasses.fields(value))
                flags |= {n.removesuffix("_").replace("_", "-") for n in names}
    return flags


def test_flags_that_a_page_names_exist():
    known = known_flags() | OF_OTHERS
    for page in PAGES:
        blocks = FENCED.findall(page.read_text())
        shell = "\n".join(code for kind, code in blocks if kind == "sh")
        for flag in FLAG.findall(prose(page) + shell):
            last = flag.split(".")[-1]
            assert {last, last.removeprefix("no-")} & known, (page, flag)
