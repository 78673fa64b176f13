"""What is wrong with a command line, in one line: `flags` asks when tyro refuses it.

tyro prints its reason in boxes, and gives no other account of it. So the words are
checked once more, against a table of the flags.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, get_args, get_origin

from jaxdiff.cli.flag_table import KINDS, Flag, choices, flags_of, names_of, read
from jaxdiff.errors import InputError
from jaxdiff.serialization import option_name, union_members

HELP = ("-h", "--help")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What text programs make of the hyphen."""


class Outcome(NamedTuple):
    """What came of a command line.

    Attributes:
        options: the option classes; where the line is refused, as far as it was read.
        left: the words that no flag took.
        refusal: why it is refused, or "".
        own: whether an option class refuses it, in its own words.
    """

    options: list[Any]
    left: list[str]
    refusal: str = ""
    own: bool = False


def check_words(args: Sequence[str]) -> None:
    """Refuses what tyro would take: a flag given twice, and what the shell left.

    Raises:
        InputError: a flag is there twice, a value is empty, or a hyphen is none.
    """
    given: dict[str, str] = {}
    for group in groups_of(args):
        flag, values = flag_of(group)
        for word in group:
            if word and word[0] in _DASHES:
                raise InputError(
                    f"{word!r} begins with {word[0]!r}, which is no hyphen: type "
                    f"{'--' if word[1:2].isalpha() else '-'}{word.lstrip(_DASHES)}"
                )
        if "" in values:
            raise InputError(
                f"{f'{flag} has ' if flag else ''}an empty value: give one, or leave "
                "it out (is a variable of the shell empty?)"
            )
        # --no-clip is --clip too, and the underscore is a hyphen.
        name = re.sub(r"(^--|\.)no-", r"\1", flag.replace("_", "-"))
        if name and name in given:
            raise InputError(
                f"{name} is given twice, as {given[name]!r} and {' '.join(group)!r}: "
                "give it once"
            )
        given[name] = " ".join(group)


def explain(outcome: Outcome, args: Sequence[str]) -> str:
    """What is wrong, which value, what to do.

    Args:
        outcome: what came of the line.
        args: the line.
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
            return f"{name} takes {_expected(flag.hint)}; {_got(values, flag.hint)}"
        if not union_members(flag.hint):
            given[name] = flag.path, not value if flag.negated else value
    if outcome.own:
        names = " and ".join(_to_blame(outcome, given))
        return f"{names}: {outcome.refusal}" if names else outcome.refusal
    # What tyro may refuse besides: its own words, without their box.
    boxless = re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯|]|-{3,}", " ", outcome.refusal)
    return " ".join(boxless.split())


def _to_blame(outcome: Outcome, given: Mapping[str, tuple[str, Any]]) -> Iterator[str]:
    """The flags without which the option classes would give another answer."""
    if _refusal(outcome.options, dict(given.values())) == outcome.refusal:
        for name in given:
            others = [place for other, place in given.items() if other != name]
            if _refusal(outcome.options, dict(others)) != outcome.refusal:
                yield name


def _refusal(options: Sequence[Any], values: Mapping[str, Any]) -> str:
    """Why option classes refuse values, given by path; "" where they do not."""
    try:
        for option in options:
            _changed(option, values)
    except InputError as error:
        return str(error)
    return ""


def _changed(option: Any, values: Mapping[str, Any], prefix: str = "") -> Any:
    """The option class with the values, given by path."""
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
    """What to do about words that no flag took."""
    word = next(filter(_is_flag, outcome.left), outcome.left[0])
    if not _is_flag(word):
        name = next(name for name, values in map(flag_of, groups) if word in values)
        flag = flags.get(name.replace("_", "-"))
        if flag is not None:
            takes = _expected(flag.hint)
            return f"unrecognized argument {word!r} after {name}, which takes {takes}"
        first = next(iter(flags))
        return (
            f"unrecognized argument {word!r}; a value goes with an option, as in "
            f"{first} {word}"
        )
    name = word.partition("=")[0]
    what = f"unrecognized option {name}"
    for choice, members, present in choices(outcome.options):
        path = f"--{choice}.".replace("_", "-")
        field = name.removeprefix(path).removeprefix("no-").replace("-", "_")
        owners = [option_name(m) for m in members if field in m.__dataclass_fields__]  # type: ignore[attr-defined]
        if name.startswith(path) and owners:
            chosen = option_name(type(present))
            return (
                f"{what} with {path[:-1]} {chosen}; it goes with {' or '.join(owners)}"
            )
    # Without the hyphens, which all have in common.
    known = {flag.lstrip("-"): flag for flag in [*flags, *HELP]}
    close = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), known, n=1)
    return f"{what}; perhaps you meant {known[close[0]]}" if close else what


def _expected(hint: Any) -> str:
    """What a flag takes: "an INT"."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if names := names_of(hint):
        return f"one of {', '.join(names)}"
    if hint is bool:
        return "no value"
    if get_origin(hint) is not tuple:
        return " or ".join(KINDS.get(kind) or _expected(kind) for kind in kinds)
    one = KINDS[kinds[0]].split()[1]
    return f"{one} {one} ..." if kinds[-1] is Ellipsis else " ".join(len(kinds) * [one])


def _got(values: list[str], hint: Any) -> str:
    """What it was given instead."""
    if not values:
        return "got no value"
    got = f"got {' '.join(values)!r}"
    if close := difflib.get_close_matches(values[0], names_of(hint), n=1):
        return f"{got}, perhaps you meant {close[0]}"
    scan_steps = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    if scan_steps and any(mark in got for mark in ",[("):
        return f"{got}: put spaces between them, and no other marks"
    return got


def groups_of(args: Sequence[str]) -> list[list[str]]:
    """Each flag with the words after it; what is before the first by itself."""
    found: list[list[str]] = []
    for word in args:
        if not found or _is_flag(word):
            found.append([])
        found[-1].append(word)
    return found


def flag_of(group: list[str]) -> tuple[str, list[str]]:
    """The flag of a group, "" for none, and its values."""
    if not _is_flag(group[0]):
        return "", group
    flag, equals, value = group[0].partition("=")
    return flag, [value, *group[1:]] if equals else group[1:]


def _is_flag(word: str) -> bool:
    """Whether it is a flag, and no negative number."""
    return bool(re.match(r"-+[^\W\d]|--$", word)) and word != "-inf"
