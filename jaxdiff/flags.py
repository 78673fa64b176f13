"""Option classes from command-line flags; the only file that imports tyro.

Every field is a flag, `--training.num-steps 1000`. A field with a choice of option
classes is chosen by name, `--schedule cosine`, and the flags of its fields are those of
what was chosen, `--schedule.offset 0.01`.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_type_hints

from jaxdiff.config import union_members


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
