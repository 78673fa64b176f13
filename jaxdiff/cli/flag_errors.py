"""What is wrong with a command line, in one line: `flags` asks when tyro refuses it.

tyro tells it in boxes, and gives no other account of it. So what is to blame is found
by reading the line once more without each of its flags.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from jaxdiff.errors import InputError
from jaxdiff.serialization import option_name, union_members

HELP = ("-h", "--help")
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212"
"""What text programs make of the hyphen."""
_KINDS = {int: "an INT", float: "a FLOAT", str: "a TEXT", Path: "a PATH"}


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


def explain(
    outcome: Outcome, args: Sequence[str], read: Callable[[list[str]], Outcome]
) -> str:
    """What is wrong, which value, what to do.

    Args:
        outcome: what came of the line.
        args: the line.
        read: reads another line.
    """
    groups = groups_of(args)
    flags = dict(_flags(outcome.options))
    if outcome.left and not outcome.refusal:
        return _unrecognized(outcome, groups, flags)
    to_blame = []
    for i, group in enumerate(groups):
        rest = [word for g in groups[:i] + groups[i + 1 :] for word in g]
        without = read(rest)
        # Where words are left over it chose what their flags belong to.
        if without.refusal != outcome.refusal and not without.left:
            to_blame.append(flag_of(group))
    if outcome.own:
        names = " and ".join(flag for flag, _ in to_blame)
        return f"{names}: {outcome.refusal}" if names else outcome.refusal
    for flag, values in to_blame:
        hint = flags.get(flag.replace("_", "-"))
        members = [option_name(member) for member in union_members(hint)]
        if hint is not None and not (len(values) == 1 and values[0] in members):
            return f"{flag} takes {_expected(hint)}; {_got(values, hint)}"
    # What tyro may refuse besides: its own words, without their box.
    boxless = re.sub(r"\x1b\[[0-9;]*m|[─│╭╮╰╯|]|-{3,}", " ", outcome.refusal)
    return " ".join(boxless.split())


def _unrecognized(
    outcome: Outcome, groups: list[list[str]], flags: dict[str, Any]
) -> str:
    """What to do about words that no flag took."""
    word = next(filter(_is_flag, outcome.left), outcome.left[0])
    if not _is_flag(word):
        group = next(g for g in groups if word in g)
        flag, _ = flag_of(group)
        if flag.replace("_", "-") in flags:
            takes = _expected(flags[flag.replace("_", "-")])
            return f"unrecognized argument {word!r} after {flag}, which takes {takes}"
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
    negated = [
        re.sub(r"(^--|.*\.)", r"\1no-", flag, count=1)
        for flag, hint in flags.items()
        if hint is bool
    ]
    # Without the hyphens, which all have in common.
    known = {flag.lstrip("-"): flag for flag in [*flags, *negated, *HELP]}
    close = difflib.get_close_matches(name.lstrip("-").replace("_", "-"), known, n=1)
    return f"{what}; perhaps you meant {known[close[0]]}" if close else what


def _expected(hint: Any) -> str:
    """What a flag takes: "an INT"."""
    kinds = [kind for kind in get_args(hint) or (hint,) if kind is not type(None)]
    if names := [option_name(member) for member in union_members(hint)]:
        return f"one of {', '.join(names)}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if hint is bool:
        return "no value"
    if get_origin(hint) is not tuple:
        return " or ".join(_KINDS.get(kind) or _expected(kind) for kind in kinds)
    one = _KINDS[kinds[0]].split()[1]
    return f"{one} {one} ..." if kinds[-1] is Ellipsis else " ".join(len(kinds) * [one])


def _got(values: list[str], hint: Any) -> str:
    """What it was given instead."""
    if not values:
        return "got no value"
    got = f"got {' '.join(values)!r}"
    names = [option_name(member) for member in union_members(hint)]
    names = names or list(get_args(hint) if get_origin(hint) is Literal else ())
    if close := difflib.get_close_matches(values[0], map(str, names), n=1):
        return f"{got}, perhaps you meant {close[0]}"
    scan_steps = any(get_origin(kind) is tuple for kind in (hint, *get_args(hint)))
    if scan_steps and any(mark in got for mark in ",[("):
        return f"{got}: put spaces between them, and no other marks"
    return got


def choices(
    options: Sequence[Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[type, ...], Any]]:
    """Path, members and present value of every choice below option classes."""
    for path, hint, value in _fields(options, prefix):
        if union_members(hint):
            yield path, union_members(hint), value


def _flags(options: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Every flag, and its type."""
    for path, hint, value in _fields(options):
        if union_members(hint) or not dataclasses.is_dataclass(value):
            yield f"--{path}".replace("_", "-"), hint


def _fields(options: Sequence[Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Path, type and value of every field below option classes."""
    for option in options:
        hints = get_type_hints(type(option))
        for field in dataclasses.fields(option):
            value, path = getattr(option, field.name), f"{prefix}{field.name}"
            yield path, hints[field.name], value
            if dataclasses.is_dataclass(value):
                yield from _fields([value], f"{path}.")


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
