"""Option classes from command-line flags; the only file that imports tyro.

Every field is a flag, `--training.num-steps 1000`. A field with a choice of option
classes is chosen by name, `--schedule cosine`, and the flags of its fields are those of
what was chosen, `--schedule.offset 0.01`.
"""

import ast
import contextlib
import dataclasses
import difflib
import json
import re
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_type_hints

from jaxdiff.config import from_dict, union_members
from jaxdiff.errors import InputError

_LONGEST = 10_000  # letters of an option: longer ones could overflow Python's parser


def parse(
    options: Sequence[Any], args: list[str], prog: str, description: str
) -> list[Any]:
    """Reads flags over option classes; prints help or mistakes and exits.

    Args:
        options: instances of frozen dataclasses, whose fields are the flags.
        args: the command line.
        prog: the command's name, for help and mistakes.
        description: what it does, for help.

    Returns:
        The instances with the flags' values in them.
    """
    import tyro

    # The names first, again until what they choose opens no other choice.
    options = list(options)
    while True:
        names = _names(options)
        chosen = tyro.cli(
            type(names), default=names, args=args, add_help=False,
            return_unknown_args=True, prog=prog,
        )[0]  # fmt: skip
        if chosen == names:
            break
        options = [_replaced(option, vars(chosen)) for option in options]

    parts = [names, *options]
    unnamed = tyro.conf.arg(name="")
    together: Any = dataclasses.make_dataclass(
        "Together",
        [(_field(p), Annotated[type(p), unnamed]) for p in parts],
    )
    result = tyro.cli(
        together, default=together(*parts), args=args,
        config=(tyro.conf.AvoidSubcommands,), prog=prog, description=description,
    )  # fmt: skip
    return list(vars(result).values())[1:]


def parse_option(text: str, union: Any, what: str) -> Any:
    """An option class by its name and, after a colon, its fields.

    >>> from jaxdiff.samplers import SamplerOptions
    >>> parse_option("dpm-solver:order=3,eta=1", SamplerOptions, "sampler").order
    3

    Args:
        text: such as "ddim", "ddim:eta=0.5" or "times:times=[999,500,0]".
        union: the union of option classes to choose from.
        what: what it chooses, for mistakes.

    Raises:
        InputError: the name or a field is unknown, or a value does not fit.
    """
    if len(text) > _LONGEST:
        raise InputError(f"{what} is {len(text)} letters long; give {_LONGEST} at most")
    name, _, rest = text.partition(":")
    members = {option_name(member): member for member in union_members(union)}
    if name not in members:
        close = difflib.get_close_matches(name, members, n=1)
        hint = f"perhaps you meant {close[0]!r}? " if close else ""
        raise InputError(
            f"unknown {what} {name!r}; {hint}There are: {', '.join(members)}"
        )
    fields = re.findall(r"([\w-]+)=(\[[^]]*\]|[^,]*)", rest)
    if ",".join(f"{field}={value}" for field, value in fields) != rest:
        raise InputError(
            f"{what} {text!r}: write its options as {name}:option=value,option=value"
        )
    hints = get_type_hints(members[name])
    data = {}
    for field, value in fields:
        key = field.replace("-", "_")
        if key not in hints:
            known = ", ".join(hint.replace("_", "-") for hint in hints)
            raise InputError(f"{what} {name!r} has no option {field!r}; it has {known}")
        if union_members(hints[key]):
            inner = parse_option(value, hints[key], field)
            data[key] = {"type": type(inner).__name__}
        else:
            data[key] = _value(value)
    try:
        return from_dict(members[name], data, f"{what} {text!r}")
    except InputError as error:
        place = f" @ {members[name].__name__}"
        raise InputError(str(error).removesuffix(place)) from None


def _value(text: str) -> Any:
    """A value as Python or JSON has it, or else as text."""
    # The parsers give up on what is nested too deep in several ways.
    gives_up = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as "invalid escape sequence"
        with contextlib.suppress(*gives_up):
            return ast.literal_eval(text)
    with contextlib.suppress(*gives_up):
        return json.loads(text)
    return text


def option_name(cls: type | str) -> str:
    """The name that chooses an option class: `FixedSmall` is "fixed-small"."""
    name = cls if isinstance(cls, str) else cls.__name__
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


def _names(options: Sequence[Any]) -> Any:
    """A dataclass instance with a field for each choice: the chosen class's name."""
    import tyro

    fields: list[Any] = []
    for option in options:
        for path, members, value in _choices(option):
            names = Literal[tuple(map(option_name, members))]  # type: ignore[valid-type]
            flag = tyro.conf.arg(
                name=path, help=(type(value).__doc__ or "").split("\n")[0]
            )
            default = dataclasses.field(default=option_name(type(value)))
            fields.append((_field_name(path), Annotated[names, flag], default))
    return dataclasses.make_dataclass("Names", fields)()


def _choices(option: Any, prefix: str = "") -> list[tuple[str, tuple[type, ...], Any]]:
    """Path, members and present value of every choice below an option class."""
    found = []
    hints = get_type_hints(type(option))
    for field in dataclasses.fields(option):
        value, path = getattr(option, field.name), f"{prefix}{field.name}"
        members = union_members(hints[field.name])
        if members:
            found.append((path, members, value))
        if dataclasses.is_dataclass(value):
            found += _choices(value, f"{path}.")
    return found


def _replaced(option: Any, names: dict[str, str], prefix: str = "") -> Any:
    """The option class with the members that were chosen, at their defaults."""
    changes = {}
    hints = get_type_hints(type(option))
    for field in dataclasses.fields(option):
        value, path = getattr(option, field.name), f"{prefix}{field.name}"
        present = option_name(type(value))
        wanted = names.get(_field_name(path), present)
        if wanted != present:
            members = {option_name(m): m for m in union_members(hints[field.name])}
            changes[field.name] = members[wanted]()
        elif dataclasses.is_dataclass(value):
            changes[field.name] = _replaced(value, names, f"{path}.")
    return dataclasses.replace(option, **changes)


def _field(option: Any) -> str:
    """A field for a whole option class; tyro shows it: "Error parsing experiment"."""
    return option_name(type(option)).replace("-", "_")


def _field_name(path: str) -> str:
    return path.replace(".", "__")
