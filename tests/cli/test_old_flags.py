"""Flags of commit b0cbe55: all are still read, and have the same defaults.

Each line of `tests/data/flags_b0cbe55.txt` holds one flag: its commands, the choices
that it needs, and last the flag with a value. The first value is the default.
"""

import dataclasses
import re
import shlex
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from jaxdiff.cli.command import Devices, Trained
from jaxdiff.cli.commands import COMMANDS
from jaxdiff.cli.compare import CompareOptions
from jaxdiff.cli.convert import ExportOptions, ImportOptions
from jaxdiff.cli.ema import AveragesOptions
from jaxdiff.cli.evaluate import EvaluateOptions
from jaxdiff.cli.flags import parse
from jaxdiff.cli.replay import ReplayOptions
from jaxdiff.cli.report import ReportOptions
from jaxdiff.cli.reproduce import ReproduceOptions
from jaxdiff.cli.sample import SampleOptions
from jaxdiff.cli.statistics import StatisticsOptions
from jaxdiff.cli.status import StatusOptions
from jaxdiff.cli.train import TrainOptions
from jaxdiff.serialization import option_name, union_members
from jaxdiff.training.experiment import Experiment

FILE = Path(__file__).parents[1] / "data" / "flags_b0cbe55.txt"
WORKDIR: Any = {"workdir": Path("runs/x")}
OPTIONS: dict[str, list[Any]] = {
    "run": [TrainOptions(**WORKDIR), Experiment()],
    "train": [TrainOptions(**WORKDIR), Experiment()],
    "statistics": [StatisticsOptions(), Experiment()],
    "sample": [SampleOptions(**WORKDIR), Trained()],
    "compare": [CompareOptions(**WORKDIR), Trained()],
    "evaluate": [EvaluateOptions(**WORKDIR), Trained()],
    "ema": [AveragesOptions(**WORKDIR), Devices()],
    "report": [ReportOptions(**WORKDIR)],
    "status": [StatusOptions(**WORKDIR)],
    "replay": [ReplayOptions(**WORKDIR)],
    "reproduce": [ReproduceOptions(**WORKDIR)],
    "import": [ImportOptions(**WORKDIR)],
    "export": [ExportOptions(**WORKDIR)],
}
"""Options that each command parses."""


class Line(NamedTuple):
    """Line of the file: `run,train --schedule cosine --schedule.offset 0.008`."""

    commands: list[str]
    choices: dict[str, str]
    """Names of the option classes that the flag needs, by their flags."""
    words: list[str]
    """Flag and its value."""

    @property
    def flag(self):
        """Returns the flag without its `no-` prefix."""
        return re.sub(r"(^--|\.)no-", r"\1", self.words[0])


def read_lines():
    lines = []
    for text in FILE.read_text().splitlines():
        commands, *words = shlex.split(text)
        last = max(i for i, word in enumerate(words) if word.startswith("--"))
        choices = dict(zip(words[:last:2], words[1:last:2], strict=True))
        lines.append(Line(commands.split(","), choices, words[last:]))
    return lines


LINES = read_lines()


def path_of(flag):
    return flag.removeprefix("--").replace("-", "_").split(".")


NOW = {("sample", "--num 100"): ["--num", "None"]}
"""Defaults with another word for the same value: without prompts, None takes 100."""


def has_value(options, line):
    """Returns True if the line's flag has the line's value in the options."""
    found = list(map(plain, words_of(options, line.flag)))
    same = NOW.get((*line.commands, " ".join(line.words)))
    return found == list(map(plain, line.words)) or found == same


def plain(word):
    """Returns the word as a number if possible: "1" and "1.0" are the same."""
    try:
        return float(word)
    except ValueError:
        return word


def words_of(options, flag):
    """Returns the flag with its value in the options, as on a command line."""
    path = path_of(flag)
    value = reduce(getattr, path, next(o for o in options if hasattr(o, path[0])))
    if isinstance(value, bool):
        head, dot, name = flag.removeprefix("--").rpartition(".")
        return [flag if value else f"--{head}{dot}no-{name}"]
    if dataclasses.is_dataclass(value):
        return [flag, option_name(type(value))]
    return [flag, *map(str, value if isinstance(value, tuple) else [value])]


def choose(option, path, name):
    """Returns the options with the named class, at its defaults, at `path`."""
    first, *rest = path
    if not hasattr(option, first):
        return option
    if rest:
        value = choose(getattr(option, first), rest, name)
    else:
        members = union_members(get_type_hints(type(option))[first])
        value = next(m for m in members if option_name(m) == name)()
    return dataclasses.replace(option, **{first: value})


def test_every_command_of_then_has_lines():
    later = {"cache", "demo", "distill", "encode", "train-autoencoder"}
    later |= {"train-prior", "train-towers"}
    assert {name for line in LINES for name in line.commands} == set(COMMANDS) - later


def test_old_flags_have_their_old_defaults():
    seen = set()
    for line in LINES:
        place = (*line.commands, *line.choices.items(), line.flag)
        if place in seen:  # not the default value
            continue
        seen.add(place)
        options = OPTIONS[line.commands[0]]
        for flag, name in line.choices.items():
            options = [choose(option, path_of(flag), name) for option in options]
        assert has_value(options, line), line


def calls_of(lines):
    """Groups compatible lines into calls: (all flags of a call, its lines)."""
    calls: list[tuple[dict[str, list[str]], list[Line]]] = []
    for line in lines:
        wanted = {flag: [flag, name] for flag, name in line.choices.items()}
        wanted[line.flag] = line.words
        for flags, group in calls:
            if all(flags.get(flag, words) == words for flag, words in wanted.items()):
                flags.update(wanted)
                group.append(line)
                break
        else:
            calls.append((wanted, [line]))
    return calls


def test_old_flags_are_still_read():
    done: set[str] = set()
    for command, options in OPTIONS.items():
        lines = [line for line in LINES if command in line.commands]
        # Skips flags of the commands before; every command reads at least one line.
        lines = [line for line in lines if not {*line.commands} & done] or lines[:1]
        lines = [line for line in lines if "" not in line.words]  # an error, as before
        done.add(command)
        for flags, group in calls_of(lines):
            args = [word for words in flags.values() for word in words]
            parsed = parse(options, args, prog="program", description="What it is.")
            for line in group:
                assert has_value(parsed, line), (command, line)
