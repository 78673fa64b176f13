"""Help of a command: its place on the terminal, order of groups, text of a field."""

import dataclasses
import functools
import io
import os
import re
import shutil
import sys
import textwrap
import weakref
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any

from jaxdiff.checks import bounds_of
from jaxdiff.cli.flag_table import owners_of

_TEXTS: weakref.WeakKeyDictionary[type, dict[str, str | None]] = (
    weakref.WeakKeyDictionary()
)
_FIRST = ("data", "training", "sampling", "network", "upkeep")  # groups for daily use


class Terminal(io.StringIO):
    """Buffer that tyro formats the help for as for the standard output."""

    def __init__(self) -> None:
        super().__init__()
        self._shown = sys.stdout

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the standard output, which decides the style of boxes."""
        return (self._shown.encoding or "utf-8").lower()

    def isatty(self) -> bool:
        """Returns True for a terminal, where the help has colours, unless NO_COLOR."""
        return self._shown.isatty() and not os.environ.get("NO_COLOR")


def print_help(description: str, usage: str, flags: str = "") -> None:
    """Prints the help of a program or a command.

    Args:
        description: paragraphs, which are wrapped to the terminal except those that
            start with a space.
        usage: the command line.
        flags: the description of the flags.
    """
    print(f"usage: {usage}\n\n{_wrapped(description)}\n\n{flags}", end="")


def table(rows: Mapping[str, str]) -> str:
    """Returns names with their texts, wrapped into two columns."""
    return "\n".join(
        textwrap.fill(
            text, width=78, initial_indent=f"  {name:21}", subsequent_indent=" " * 23
        )
        for name, text in rows.items()
    )


def _wrapped(description: str) -> str:
    """Wraps a text to the terminal, except lines that start with a space."""
    width = shutil.get_terminal_size().columns
    paragraphs = re.split(r"\n(?: *\n)+", description.strip())
    return "\n\n".join(
        part if re.search(r"^ ", part, re.M) else textwrap.fill(part, width)
        for part in paragraphs
    )


def rules_of_help(
    tyro: Any, options: Sequence[Any], shown: Collection[str], together: type
) -> Any:
    """Returns rules for tyro that make the help of a class.

    They show the bounds of a field next to its default, join the lines of its text,
    put the groups for daily use first, and omit fields that are not in `shown`.
    """
    registry = tyro.constructors.ConstructorRegistry()
    owners = set(owners_of(options, shown))
    read: list[Any] = []  # the class that the rule of tyro reads now

    @registry.struct_rule
    def rule(info: Any) -> Any:
        if not dataclasses.is_dataclass(info.type) or info.type in read:
            return None
        read.append(info.type)
        spec = registry.get_struct_spec(info)
        read.pop()
        fields = [
            dataclasses.replace(
                field,
                type=_with_bounds(tyro, _named(tyro, field), field.default)
                if not shown
                or info.type is together
                or (info.type, field.name) in owners
                else tyro.conf.Suppress[_named(tyro, field)],
                helptext=functools.partial(_text_of, info.type, field),
            )
            for field in spec.fields
        ]
        fields.sort(
            key=lambda f: _FIRST.index(f.name) if f.name in _FIRST else len(_FIRST)
        )
        return dataclasses.replace(spec, fields=tuple(fields))

    return registry


def _text_of(cls: Any, field: Any) -> str | None:
    """Returns the text of a field in one line; tyro reads it from the source."""
    texts = _TEXTS.setdefault(cls, {})
    if field.name not in texts:
        text = field.helptext
        found: str | None = text() if callable(text) else text
        texts[field.name] = found and " ".join(found.split())
    return texts[field.name]


def _named(tyro: Any, field: Any) -> Any:
    """Returns a field's type, with the flag of a field such as from_ without _."""
    plain = field.name.removesuffix("_")
    if plain == field.name or plain.endswith("_"):  # tyro has names like __this__
        return field.type
    return Annotated[field.type, tyro.conf.arg(name=plain)]


def _with_bounds(tyro: Any, hint: Any, default: Any) -> Any:
    """Returns the type of a field with its bounds for the help of tyro.

    The help shows "(default: 1; at least 1)".
    """
    bounds = bounds_of(hint)
    if not bounds and default != ():
        return hint

    def words(default: str) -> str:
        return f"(default: {default or 'none'}{bounds and '; '}{bounds})"

    return Annotated[hint, tyro.conf.arg(help_behavior_hint=words)]
