"""The table of flags of option classes: their types, and their values as words."""

import contextlib
import dataclasses
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxdiff.serialization import option_name, union_members

KINDS = {int: "an INT", float: "a FLOAT", str: "a TEXT", Path: "a PATH"}


class Flag(NamedTuple):
    """Flag of an option field.

    Attributes:
        path: path of the field, such as "training.num_steps".
        hint: type of the field.
        negated: if True, the flag turns the field off, as --no-clip does.
    """

    path: str
    hint: Any
    negated: bool = False


def flags_of(options: Sequence[Any]) -> dict[str, Flag]:
    """Returns every flag of option classes, by name."""
    found = {}
    for path, hint, value in _fields(options):
        if union_members(hint) or not dataclasses.is_dataclass(value):
            flag = flag_name(path)
            found[flag] = Flag(path, hint)
            if hint is bool:
                negated = re.sub(r"(--|\.)(?=[^.]+$)", r"\1no-", flag)
                found[negated] = Flag(path, hint, negated=True)
    return found


def flag_name(path: str) -> str:
    """Returns the flag of a field; a name like from_, for a word of Python, is --from.

    >>> flag_name("prior_steps"), flag_name("from_")
    ('--prior-steps', '--from')
    """
    return f"--{path}".removesuffix("_").replace("_", "-")


def choices(options: Sequence[Any]) -> Iterator[tuple[str, tuple[type, ...], Any]]:
    """Yields path, members and present value of every choice in option classes."""
    for path, hint, value in _fields(options):
        if union_members(hint):
            yield path, union_members(hint), value


def owners_of(
    options: Sequence[Any], paths: Collection[str], prefix: str = ""
) -> Iterator[tuple[type, str]]:
    """Yields class and name of the fields at `paths`, and of the fields above them."""
    for option in options:
        for field in dataclasses.fields(option):
            value, path = getattr(option, field.name), f"{prefix}{field.name}"
            # A choice is a field of another class, whose name holds the path.
            path = path.replace("__", ".")
            if any(one == path or one.startswith(f"{path}.") for one in paths):
                yield type(option), field.name
                if dataclasses.is_dataclass(value):
                    yield from owners_of([value], paths, f"{path}.")


def names_of(hint: Any) -> dict[str, Any]:
    """Returns the words that a flag chooses from, with their values; {} for others."""
    if get_origin(hint) is Literal:
        return {str(value): value for value in get_args(hint)}
    return {option_name(member): member for member in union_members(hint)}


def read(values: list[str], hint: Any) -> Any:
    """Converts a flag's words to a value of its type.

    Raises:
        ValueError: the words do not fit the type.
    """
    kinds = get_args(hint)
    if hint is bool and not values:
        return True
    if names := names_of(hint):
        (word,) = values
        if word not in names:
            raise ValueError(word)
        return names[word]
    if get_origin(hint) in (Union, UnionType):
        if NoneType in kinds and values == ["None"]:
            return None
        for kind in kinds:
            with contextlib.suppress(ValueError):
                return read(values, kind)
    elif get_origin(hint) is tuple:
        if kinds[-1] is Ellipsis:
            kinds = len(values) * kinds[:1]
        pairs = zip(values, kinds, strict=True)
        return tuple(_one_of(word, kind) for word, kind in pairs)
    elif hint in KINDS:
        (word,) = values
        return hint(word)
    raise ValueError(values)


def _one_of(word: str, kind: Any) -> Any:
    """Converts one of several words; True and False are words here."""
    if kind is bool and word in ("True", "False"):
        return word == "True"
    return read([word], kind)


def _fields(options: Sequence[Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields path, type and value of every field in option classes."""
    for option in options:
        hints = get_type_hints(type(option))
        for field in dataclasses.fields(option):
            value, path = getattr(option, field.name), f"{prefix}{field.name}"
            yield path, hints[field.name], value
            if dataclasses.is_dataclass(value):
                yield from _fields([value], f"{path}.")
