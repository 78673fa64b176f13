"""Option classes to plain data and back; the only file that imports cattrs.

A configuration file is data, never code. Unknown fields and types are errors, which
name the field.
"""

import dataclasses
import re
from functools import lru_cache
from types import NoneType, UnionType
from typing import (
    Any,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxdiff.checks import bare, field_types, is_finite, make_plain
from jaxdiff.errors import InputError, require, shown
from jaxdiff.names import CLASSES

Options = TypeVar("Options")


def to_dict(options: Any) -> dict[str, Any]:
    """Returns the options as nested dicts of plain data.

    A member of a union has its class name under the key `type`.
    """
    cls: Any = type(options)
    return _converter(cls).unstructure(options)


def from_dict(
    cls: type[Options],
    data: dict[str, Any],
    what: str = "the configuration cannot be read",
) -> Options:
    """Restores the options from such a dict.

    A missing field takes its default, so that the files of older versions still load.

    Args:
        cls: option class.
        data: nested dicts, as `to_dict` returns them.
        what: beginning of the error message.

    Raises:
        InputError: a field is unknown, or has a wrong type or range.
    """
    cattrs = require("cattrs")
    hint: Any = cls
    try:
        return _converter(hint).structure(with_new_names(data), cls)
    except Exception as error:
        reasons = "; ".join(cattrs.transform_error(error, cls.__name__, _reason))
        raise InputError(f"{what}: {reasons}") from error


def check_plain(options: Any, prefix: str = "") -> None:
    """Checks that a configuration file can hold nested options.

    Values that stand for plain ones, such as NumPy numbers, are replaced by these.

    Raises:
        InputError: a field has a value of another type, an object of a class that its
            union lacks, or a number that is not finite in float32.
    """
    cls: Any = type(options)
    make_plain(options)
    for name, hint in field_types(cls).items():
        value, path = getattr(options, name), f"{prefix}{name}"
        members = union_members(hint) or ((hint,) if _is_options(hint) else ())
        if type(value) in members:
            check_plain(value, f"{path}.")
        elif members:
            raise InputError(_other_object(path, value, members))
        elif isinstance(value, float) and not is_finite(value):
            raise InputError(f"{path} must be a finite float32, got {value:g}")
        elif not _fits(value, hint):
            raise InputError(f"{path} must be {_described(hint)}, got {shown(value)}")


def _is_options(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _other_object(path: str, value: Any, members: tuple[type, ...]) -> str:
    """Returns the message for an object that is not one of the union's options."""
    names = ", ".join(member.__name__ for member in members)
    message = f"{path} must be an object of {names}, got "
    if value in members:
        return f"{message}the class. Write {value.__name__}()."
    return (
        f"{message}{shown(type(value).__name__)}. A run folder records options of "
        "these classes only. Pass parts of your own to jaxdiff.Model, training.fit and "
        "sample."
    )


def _fits(value: Any, hint: Any) -> bool:
    """Returns True if a value has a plain type, such as `tuple[int, ...]`."""
    hint = bare(hint)
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, kind) for kind in kinds)
    if origin is Literal:
        return any(type(value) is type(kind) and value == kind for kind in kinds)
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(v, kinds[0]) for v in value)
    if hint is NoneType:
        return value is None
    return type(value) is hint or (hint is float and type(value) is int)


_KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}


def _described(hint: Any) -> str:
    """Returns the values of a plain type in words."""
    hint = bare(hint)
    origin, kinds = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_described, kinds))
    if origin is Literal:
        return f"one of {', '.join(map(repr, kinds))}"
    if origin is tuple:
        return f"a tuple, each entry {_described(kinds[0])}"
    return _KINDS.get(hint, "None")


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> list[str]:
    """Returns the fields that differ in two configurations, as "path: old, not new"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(f"{prefix}{name}: {a!r}, not {b!r}")
    return found


def union_members(hint: Any) -> tuple[type, ...]:
    """Returns the option classes in a union; () for any other type."""
    members = getattr(hint, "__args__", ())
    return members if all(map(dataclasses.is_dataclass, members)) else ()


def option_name(cls: type | str) -> str:
    """Returns the name that chooses an option class: `FixedSmall` is "fixed-small".

    A class can set another name as its `FLAG`.
    """
    if not isinstance(cls, str):
        flag: str = getattr(cls, "FLAG", "")
        return flag or option_name(cls.__name__)
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "-", cls).lower()


def with_new_names(data: Any) -> Any:
    """Returns plain data in which old names of option classes are replaced."""
    if isinstance(data, dict):
        new = {key: with_new_names(value) for key, value in data.items()}
        if isinstance(new.get("type"), str):
            new["type"] = CLASSES.get(new["type"], new["type"])
        return new
    return [with_new_names(v) for v in data] if isinstance(data, list) else data


@lru_cache
def _converter(cls: type) -> Any:
    """Returns a strict converter for `cls` and for every union of options below it."""
    strategies = require("cattrs.strategies")
    converter = require("cattrs.preconf.json").make_converter(forbid_extra_keys=True)
    for plain in (bool, int, float, str):
        converter.register_structure_hook(plain, _same_type)
    converter.register_structure_hook_factory(_is_tuple, _tuple_hook)
    converter.register_structure_hook_func(_is_literal, _one_of)

    def register(cls: Any) -> None:
        for hint in get_type_hints(cls).values():
            members = union_members(hint)
            nested = filter(dataclasses.is_dataclass, (hint, *get_args(hint)))
            for member in members or nested:
                register(member)
            if members:
                strategies.configure_tagged_union(hint, converter, tag_name="type")
                converter.register_structure_hook(hint, _checked(converter, hint))

    register(cls)
    return converter


def _checked(converter: Any, hint: Any) -> Any:
    """Returns the union's hook, preceded by a check of the tag."""
    inner = converter.get_structure_hook(hint)
    names = [member.__name__ for member in union_members(hint)]

    def structure(value: Any, _: Any) -> Any:
        tag = value.get("type") if isinstance(value, dict) else value
        if tag not in names:
            raise InputError(
                f"type must be one of {', '.join(names)}, got {shown(tag)}"
            )
        return inner(value, hint)

    return structure


def _is_tuple(hint: Any) -> bool:
    return get_origin(hint) is tuple


def _tuple_hook(hint: Any, converter: Any) -> Any:
    inner = converter.get_structure_hook(list[hint.__args__[0]])

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, list):
            raise InputError(f"expected a list, got {shown(value)}")
        return tuple(inner(value, list[hint.__args__[0]]))

    return structure


def _is_literal(hint: Any) -> bool:
    return get_origin(hint) is Literal


def _one_of(value: Any, hint: Any) -> Any:
    """Returns the value if it is one of the choices; cattrs would take True for 1."""
    for choice in get_args(hint):
        if type(value) is type(choice) and value == choice:
            return value
    choices = ", ".join(map(repr, get_args(hint)))
    raise InputError(f"expected one of {choices}, got {shown(value)}")


def _same_type(value: Any, cls: Any) -> Any:
    """Returns the value if it has this type; cattrs would call `cls(value)`."""
    if type(value) is int and abs(value) >= 2**63:
        raise InputError(f"numbers must fit into 64 bits, got {shown(value)}")
    if type(value) is float and not is_finite(value):
        raise InputError(f"numbers must be finite in float32, got {value:g}")
    if type(value) is cls or (cls is float and type(value) is int):
        return cls(value)
    raise InputError(f"expected {cls.__name__}, got {shown(value)}")


def _reason(error: BaseException, cls: type | None) -> str:
    if isinstance(error, InputError):
        return str(error)
    return require("cattrs.v").format_exception(error, cls)
