"""Option classes to plain data and back: the only file that imports cattrs.

A configuration read from a file is data, never code: unknown fields and types are
refused by name.
"""

import dataclasses
from typing import Any, TypeVar, get_type_hints

from jaxdiff.errors import InputError

Options = TypeVar("Options")


def to_dict(options: Any) -> dict[str, Any]:
    """The options as nested dicts of plain data; a union's member by its `type`."""
    return _converter(type(options)).unstructure(options)


def from_dict(cls: type[Options], data: dict[str, Any]) -> Options:
    """The options of such a dict.

    Raises:
        InputError: a field is unknown, missing, or of the wrong type or range.
    """
    from cattrs import transform_error

    try:
        return _converter(cls).structure(data, cls)
    except Exception as error:
        reasons = "; ".join(transform_error(error, path=cls.__name__))
        raise InputError(f"the configuration cannot be read: {reasons}") from error


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[str]:
    """The fields in which two configurations differ: "path: old, not new" each."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a!r}, not {b!r}")
    return found


def union_members(hint: Any) -> tuple[type, ...]:
    """The option classes of a union of them; () for any other type."""
    members = getattr(hint, "__args__", ())
    return members if all(map(dataclasses.is_dataclass, members)) else ()


def _converter(cls: type) -> Any:
    """A strict converter that knows every union of options below `cls`."""
    from cattrs.preconf.json import make_converter
    from cattrs.strategies import configure_tagged_union

    converter = make_converter(forbid_extra_keys=True)

    def register(cls: Any) -> None:
        for hint in get_type_hints(cls).values():
            members = union_members(hint)
            for member in members or (
                (hint,) if dataclasses.is_dataclass(hint) else ()
            ):
                register(member)
            if members:
                configure_tagged_union(hint, converter, tag_name="type")

    register(cls)
    return converter
