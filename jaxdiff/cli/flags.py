"""Option classes from command-line flags; the only file that imports tyro.

Every field is a flag, `--training.num-steps 1000`. A field with a choice of option
classes is chosen by name, `--schedule cosine`, and the flags of its fields are those of
what was chosen, `--schedule.offset 0.01`.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import json
import re
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_type_hints

from jaxdiff.checks import bounds_of
from jaxdiff.cli.flag_errors import (
    HELP,
    Outcome,
    check_words,
    explain,
    flag_of,
    groups_of,
)
from jaxdiff.cli.flag_table import choices
from jaxdiff.errors import InputError, require
from jaxdiff.serialization import from_dict, option_name, union_members

_LONGEST = 10_000  # letters of an option: longer ones could overflow Python's parser


def parse(
    options: Sequence[Any], args: list[str], prog: str, description: str
) -> list[Any]:
    """Reads flags over option classes; prints help and exits.

    Args:
        options: instances of frozen dataclasses, whose fields are the flags.
        args: the command line.
        prog: the command's name, for help and mistakes.
        description: what it does, for help.

    Returns:
        The instances with the flags' values in them.

    Raises:
        InputError: a flag or a value is none of theirs.
    """
    words = [word for word in args if word not in HELP]
    if words == args:
        check_words(args)
    outcome = _read(options, args, prog, description)
    if outcome.refusal or outcome.left:
        reason = explain(outcome, words)
        raise InputError(reason if outcome.own else f"{reason}; see {prog} --help")
    return outcome.options


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """A flag's value as it stands on a command line that is not read yet, or None."""
    for group in groups_of(args):
        name, values = flag_of(group)
        if name == flag and values:
            return values[0]
    return None


def _read(
    options: Sequence[Any], args: list[str], prog: str, description: str
) -> Outcome:
    """Reads flags, or tells why they are refused; prints help and exits."""
    tyro = require("tyro")
    options = list(options)
    said = io.StringIO()
    registry = _bounds_in_help(tyro)
    try:
        with contextlib.redirect_stderr(said):
            # The names first, again until what they choose opens no other choice.
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
            result, left = tyro.cli(
                together, default=together(*parts), args=args,
                return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,),
                prog=prog, description=description, registry=registry,
            )  # fmt: skip
    except InputError as error:
        return Outcome(options, [], str(error), own=True)
    except SystemExit as stop:
        if not stop.code:
            raise
        # tyro prints what an option class raises, and exits while it handles it.
        reason: BaseException | None = stop
        while reason is not None and not isinstance(reason, InputError):
            reason = reason.__context__
        own = reason is not None
        return Outcome(options, [], str(reason) if own else said.getvalue(), own)
    return Outcome(list(vars(result).values())[1:], left)


def _bounds_in_help(tyro: Any) -> Any:
    """Rules of tyro's that show a field's bounds beside its default value."""
    registry = tyro.constructors.ConstructorRegistry()
    read: list[Any] = []  # the class that tyro's own rule reads now

    @registry.struct_rule
    def rule(info: Any) -> Any:
        if not dataclasses.is_dataclass(info.type) or info.type in read:
            return None
        read.append(info.type)
        spec = registry.get_struct_spec(info)
        read.pop()
        fields = tuple(
            dataclasses.replace(field, type=_with_bounds(tyro, field.type))
            for field in spec.fields
        )
        return dataclasses.replace(spec, fields=fields)

    return registry


def _with_bounds(tyro: Any, hint: Any) -> Any:
    """A field's type, with its bounds for tyro's help: "(default: 1; at least 1)"."""
    bounds = bounds_of(hint)
    if not bounds:
        return hint

    def words(default: str) -> str:
        return f"(default: {default}; {bounds})"

    return Annotated[hint, tyro.conf.arg(help_behavior_hint=words)]


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
        close = difflib.get_close_matches(name.lower(), members, n=1)
        hint = f"perhaps you meant {close[0]!r}? " if close else ""
        raise InputError(
            f"unknown {what} {name!r}; {hint}There are: {', '.join(members)}"
        )
    fields = re.findall(r"([\w-]+)=(\[[^]]*\]|[^,]*)", rest)
    if ",".join(f"{field}={value}" for field, value in fields) != rest:
        raise InputError(
            f"{what} {text!r}: write its options as {name}:option=value,option=value"
        )
    kinds = get_type_hints(members[name])
    hints = {f.name: kinds[f.name] for f in dataclasses.fields(members[name])}
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


def _names(options: Sequence[Any]) -> Any:
    """A dataclass instance with a field for each choice: the chosen class's name."""
    tyro = require("tyro")
    fields: list[Any] = []
    for path, members, value in choices(options):
        names = Literal[tuple(map(option_name, members))]  # type: ignore[valid-type]
        about = (type(value).__doc__ or "").split("\n")[0]
        flag = tyro.conf.arg(name=path, help=about)
        default = dataclasses.field(default=option_name(type(value)))
        fields.append((_field_name(path), Annotated[names, flag], default))
    return dataclasses.make_dataclass("Names", fields)()


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
