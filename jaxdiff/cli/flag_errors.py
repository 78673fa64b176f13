"""One-line errors for wrong command lines; `flags` calls this module if parsing fails.

tyro prints its errors in boxes and returns no other description. So this module checks
the words again, against a table of the flags.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from jaxdiff.cli.flag_table import KINDS, Flag, choices, flags_of, names_of, read
from jaxdiff.errors import InputError
from jaxdiff.serialization import option_name, union_members

HELP_ALL = "--help-all"
HELP = ("-h", "--help", HELP_ALL)
QUIET = "--quiet"
HINTS = {
    "lr": "optimizer.learning-rate",
    "epochs": "training.num-steps",
    "epoch": "training.num-steps",
    "iterations": "training.num-steps",
    "max-steps": "training.num-steps",
    "steps": "training.num-steps",
    "bs": "training.batch-size",
    "resume": "workdir",
    "continue": "workdir",
    "resolution": "size",
    "image-size": "size",
    "output": "out",
    "o": "out",
    "n": "num",
    "cfg-scale": "guidance",
    "q": "quiet",
    "silent": "quiet",
    "v": "version",
}
"""Flags by words that other programs use for them."""
NOTES = {
    "resume": "; a run there goes on by itself",
    "continue": "; a run there goes on by itself",
    "epochs": ": an epoch takes (images / batch size) steps",
    "epoch": ": an epoch takes (images / batch size) steps",
}
"""Texts after a hint."""
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""Characters that text programs put in place of the hyphen."""


class Outcome(NamedTuple):
    """Result of parsing a command line.

    Attributes:
        options: the option classes; after an error, as far as they were read.
        left: words that belong to no flag.
        refusal: the error, or "".
        own: if True, an option class raised the error.
    """

    options: list[Any]
    left: list[str]
    refusal: str = ""
    own: bool = False


def check_words(args: Sequence[str]) -> None:
    """Checks for mistakes that tyro accepts.

    Raises:
        InputError: a flag appears twice, a value is empty, or a word begins with a dash
            that is not a hyphen.
    """
    given: dict[str, str] = {}
    for group in groups_of(args):
        flag, values = flag_of(group)
        for word in group:
            if word and word[0] in _DASHES:
                raise InputError(
                    f"{word!r} must begin with a hyphen, got {word[0]!r}. Type "
                    f"{'--' if word[1:2].isalpha() else '-'}{word.lstrip(_DASHES)}"
                )
        if "" in values:
            raise InputError(
                f"{f'{flag}: ' if flag else ''}a value must not be empty. Give one, or "
                "leave it out (is a shell variable empty?)."
            )
        # --no-clip and --clip set the same field; an underscore counts as a hyphen.
        name = re.sub(r"(^--|\.)no-", r"\1", flag.replace("_", "-"))
        if name and name in given:
            raise InputError(
                f"{name} must appear once, got {given[name]!r} and "
                f"{' '.join(group)!r}. Remove one."
            )
        given[name] = " ".join(group)


def explain(outcome: Outcome, args: Sequence[str]) -> str:
    """Returns the error of a command line: the mistake, the value and the remedy.

    Args:
        outcome: the result of parsing.
        args: the words of the command line.
    """
    groups = groups_of(args)
    flags = flags_of(outcome.options)
    if outcome.left and not outcome.refusal:
        return _unrecognized(outcome, groups, flags)
    given: dict[str, tuple[str, Any]] = {}
    for name, values in map(flag_of, groups):
        flag = flags.get(name.replace("_", "-"))
        if flag is None:
            continue
        try:
            value = read(values, flag.hint)
        except ValueError:
            return f"{name} takes {_expected(flag.hint)}, {_got(values, flag.hint)}"
        if not union_members(flag.hint):
            given[name] = flag.path, not value if flag.negated else value
    if outcome.own:
        names = " and ".join(_to_blame(outcome, given))
        return f"{names}: {outcome.refusal}" if names else outcome.refusal
    # For any other error, return the text of tyro without its box.
    boxless = re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯|]|-{3,}", " ", outcome.refusal)
    return " ".join(boxless.split())


def _to_blame(outcome: Outcome, given: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """Yields the flags without which the error of the option classes would change."""
    if _refusal(outcome.options, dict(given.values())) == outcome.refusal:
        for name in given:
            others = [place for other, place in given.items() if other != name]
            if _refusal(outcome.options, dict(others)) != outcome.refusal:
                yield name


def _refusal(options: Sequence[Any], values: Mapping[str, Any]) -> str:
    """Returns the error that option classes raise for values by path, or ""."""
    try:
        for option in options:
            _changed(option, values)
    except InputError as error:
        return str(error)
    return ""


def _changed(option: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """Returns the option class with new values, given by path."""
    changes = {}
    for field in dataclasses.fields(option):
        value, path = getattr(option, field.name), f"{prefix}{field.name}"
        if path in values:
            changes[field.name] = values[path]
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _changed(value, values, f"{path}.")
    return dataclasses.replace(option, **changes)


def _unrecognized(
    outcome: Outcome, groups: list[list[str]], flags: Mapping[str, Flag]
) -> str:
    """Returns the error for words that belong to no flag."""
    word = next(filter(_is_flag, outcome.left), outcome.left[0])
    if not _is_flag(word):
        name = next(name for name, values in map(flag_of, groups) if word in values)
        flag = flags.get(name.replace("_", "-"))
        if flag is not None:
            takes = _expected(flag.hint)
            return f"unrecognized argument {word!r} after {name}, which takes {takes}"
        first = "--workdir" if "--workdir" in flags else next(iter(flags))
        return (
            f"unrecognized argument {word!r}. Name the option before its value, as in "
            f"{first} {word}"
        )
    name = word.partition("=")[0]
    what = f"unrecognized option {name}"
    for choice, members, present in choices(outcome.options):
        path = f"--{choice}.".replace("_", "-")
        field = name.removeprefix(path).removeprefix("no-").replace("-", "_")
        owners = _owners(members, field)
        if name.startswith(path) and owners:
            chosen = option_name(type(present))
            return f"{what} with {path[:-1]} {chosen}. Choose {' or '.join(owners)}"
    known = {flag.lstrip("-"): flag for flag in [*flags, *HELP, QUIET, "--version"]}
    if hint := _hint(name, outcome, list(known)):
        return f"{what}. Perhaps you meant {hint}"
    # Compare without the leading hyphens, which all flags share.
    close = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), known, n=1)
    return f"{what}. Perhaps you meant {known[close[0]]}" if close else what


def _hint(name: str, outcome: Outcome, known: Sequence[str]) -> str:
    """Returns the flags whose last parts a wrong flag means, or ""."""
    word = name.lstrip("-").replace("_", "-")
    wanted = HINTS.get(word, word)
    flags = [f"--{flag}" for flag in known if f".{flag}".endswith(f".{wanted}")]
    if not flags:
        for choice, members, _ in choices(outcome.options):
            field = wanted.replace("-", "_")
            owners = _owners(members, field)
            if owners:
                path = f"--{choice}".replace("_", "-")
                flags.append(f"{path}.{wanted} with {path} {owners[0]}")
    return " or ".join(flags[:3]) + NOTES.get(word, "") if flags else ""


def _owners(members: Sequence[type[Any]], field: str) -> list[str]:
    """Returns the names of the option classes that have a field."""
    return [option_name(m) for m in members if field in m.__dataclass_fields__]


def _expected(hint: Any) -> str:
    """Returns the kind of value that a flag takes, such as "an INT"."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if names := names_of(hint):
        return f"one of {', '.join(names)}"
    if hint is bool:
        return "no value"
    if get_origin(hint) is not tuple:
        return " or ".join(KINDS.get(kind) or _expected(kind) for kind in kinds)
    if names := names_of(kinds[0]):
        return f"one or more of {', '.join(names)}"
    words = {**KINDS, bool: "a True|False"}
    one = "|".join(words[kind].split()[1] for kind in get_args(kinds[0]) or kinds[:1])
    return f"{one} {one} ..." if kinds[-1] is Ellipsis else " ".join(len(kinds) * [one])


def _got(values: list[str], hint: Any) -> str:
    """Returns the value that the flag got instead, with a remedy if there is one."""
    if not values:
        return "got no value"
    got = f"got {' '.join(values)!r}"
    if close := difflib.get_close_matches(values[0], names_of(hint), n=1):
        return f"{got}. Perhaps you meant {close[0]}"
    scan_steps = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    if scan_steps and any(mark in got for mark in ",[("):
        return f"{got}. Separate the values with spaces only"
    return got


def groups_of(args: Sequence[str]) -> list[list[str]]:
    """Returns groups of words: each flag with its values.

    Words before the first flag are a group of their own.
    """
    found: list[list[str]] = []
    for word in args:
        if not found or _is_flag(word):
            found.append([])
        found[-1].append(word)
    return found


def flag_of(group: list[str]) -> tuple[str, list[str]]:
    """Returns the flag of a group, or "" for none, and its values."""
    if not _is_flag(group[0]):
        return "", group
    flag, equals, value = group[0].partition("=")
    return flag, [value, *group[1:]] if equals else group[1:]


def _is_flag(word: str) -> bool:
    """Returns True for a flag, False for a value such as a negative number."""
    return bool(re.match(r"-+[^\W\d]|--$", word)) and word != "-inf"
