"""Option classes from command-line flags; the only file that imports tyro.

Every field is a flag: `--training.num-steps 1000`. A field that is a union of option
classes takes a name: `--schedule cosine`. The fields of the chosen class are then flags
too: `--schedule.offset 0.01`.
"""

import ast
import contextlib
import dataclasses
import difflib
import io
import json
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

from jaxdiff.cli.flag_errors import (
    HELP,
    HELP_ALL,
    Outcome,
    check_words,
    explain,
    flag_of,
    groups_of,
)
from jaxdiff.cli.flag_table import choices, flags_of
from jaxdiff.cli.help_text import Terminal, print_help, rules_of_help
from jaxdiff.errors import InputError, require
from jaxdiff.serialization import from_dict, option_name, union_members

SHELLS = ("bash", "zsh", "fish")
"""Shells with completion."""
_NO_SOURCE = {"help": ""}
"""Metadata of a field without which tyro looks for its text in a source file."""
_LONGEST = 10_000  # characters: longer options could overflow Python's parser


def parse(
    options: Sequence[Any],
    args: list[str],
    prog: str,
    description: str,
    daily: Collection[str] = (),
    usage: str = "",
) -> list[Any]:
    """Parses flags into option classes. With --help, prints the help and exits.

    Args:
        options: instances of frozen dataclasses; their fields are the flags.
        args: the words of the command line.
        prog: name of the command, for the help and for errors.
        description: text at the top of the help.
        daily: fields that --help prints, such as "training.num_steps"; --help-all
            prints all. () prints all with either.
        usage: the command line in the help, by default `prog` with options.

    Returns:
        The instances with the values of the flags.

    Raises:
        InputError: a flag is unknown, or a value does not fit.
    """
    words = [word for word in args if word not in HELP]
    if words == args:
        check_words(args)
    asks = [] if words == args else ["--help"]
    shown = daily if asks and HELP_ALL not in args else ()
    usage = usage or f"{prog} [OPTIONS]"
    outcome = _read(options, words + asks, prog, description, shown, usage)
    if outcome.refusal or outcome.left:
        reason = explain(outcome, words)
        raise InputError(reason if outcome.own else f"{reason}. See {prog} --help")
    return outcome.options


def value_of(flag: str, args: Sequence[str]) -> str | None:
    """Returns the value of a flag on a command line before parsing, or None."""
    for group in groups_of(args):
        name, values = flag_of(group)
        if name == flag and values:
            return values[0]
    return None


def _read(
    options: Sequence[Any],
    args: list[str],
    prog: str,
    description: str,
    shown: Collection[str],
    usage: str,
) -> Outcome:
    """Parses flags and returns the outcome. With --help, prints the help and exits."""
    tyro = require("tyro")
    options = list(options)
    said, help_text = io.StringIO(), Terminal()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(help_text):
            # Parse the choices first; repeat, because a chosen class may add choices.
            while True:
                names = _names(options)
                chosen = tyro.cli(
                    type(names), default=names, args=args, add_help=False,
                    return_unknown_args=True, prog=prog,
                )[0]  # fmt: skip
                if chosen == names:
                    break
                options = [_replaced(option, vars(chosen)) for option in options]
            parts = [*options, names]
            together = _together(parts)
            registry = rules_of_help(tyro, parts, shown, together)
            result, left = tyro.cli(
                together, default=together(), args=args,
                return_unknown_args=True, config=(tyro.conf.AvoidSubcommands,),
                prog=prog, description="", registry=registry,
            )  # fmt: skip
    except InputError as error:
        return Outcome(options, [], str(error), own=True)
    except SystemExit as stop:
        if not stop.code:
            _, _, flags = help_text.getvalue().partition("\n")
            print_help(description, usage, flags.lstrip("\n"))
            if shown:
                count = len(flags_of(options))
                print(f"These flags are for daily use. {HELP_ALL} prints all {count}.")
            raise
        # tyro prints the error of an option class, and exits while handling it.
        reason: BaseException | None = stop
        while reason is not None and not isinstance(reason, InputError):
            reason = reason.__context__
        own = reason is not None
        return Outcome(options, [], str(reason) if own else said.getvalue(), own)
    return Outcome(list(vars(result).values())[:-1], left)


def completion_script(commands: Mapping[str, Sequence[Any]], shell: str) -> str:
    """Returns a script of the program `jaxdiff` for a shell: completion with TAB.

    Args:
        commands: instances of the option classes of each command.
        shell: one of `SHELLS`.

    Raises:
        InputError: the shell is unknown.
    """
    if shell not in SHELLS:
        raise InputError(f"the shell must be one of {', '.join(SHELLS)}, got {shell!r}")
    tyro, script = require("tyro"), io.StringIO()
    classes = {
        name: _together([*options, _names(options)])
        for name, options in commands.items()
    }
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(script):
        tyro.extras.subcommand_cli_from_dict(
            classes, prog="jaxdiff", args=["--tyro-write-completion", shell, "-"],
            config=(tyro.conf.AvoidSubcommands,),
            registry=rules_of_help(tyro, (), (), object),
        )  # fmt: skip
    return script.getvalue()


def parse_option(text: str, union: Any, what: str) -> Any:
    """Returns an option class, given by name and, after a colon, its fields.

    >>> from jaxdiff.samplers import SamplerOptions
    >>> parse_option("dpm-solver:order=3,eta=1", SamplerOptions, "sampler").order
    3

    Args:
        text: name with options, such as "ddim", "ddim:eta=0.5" or
            "times:times=[999,500,0]".
        union: the union of option classes to choose from.
        what: name of the choice, for errors.

    Raises:
        InputError: the name or a field is unknown, or a value does not fit.
    """
    if len(text) > _LONGEST:
        raise InputError(f"{what} has {len(text)} characters. Give {_LONGEST} at most")
    name, _, rest = text.partition(":")
    members = {option_name(member): member for member in union_members(union)}
    if name not in members:
        close = difflib.get_close_matches(name.lower(), members, n=1)
        hint = f"Perhaps you meant {close[0]!r}. " if close else ""
        raise InputError(
            f"unknown {what} {name!r}. {hint}Choose one of {', '.join(members)}"
        )
    fields = re.findall(r"([\w-]+)=(\[[^]]*\]|[^,]*)", rest)
    if ",".join(f"{field}={value}" for field, value in fields) != rest:
        raise InputError(
            f"{what} {text!r} is malformed. Write {name}:option=value,option=value"
        )
    kinds = get_type_hints(members[name])
    hints = {f.name: kinds[f.name] for f in dataclasses.fields(members[name])}
    data = {}
    for field, value in fields:
        key = field.replace("-", "_")
        if key not in hints:
            known = ", ".join(hint.replace("_", "-") for hint in hints)
            raise InputError(
                f"{what} {name!r} has no option {field!r}. Choose one of {known}"
            )
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
    """Parses a value as Python or JSON; otherwise returns the text."""
    # The parsers raise several exceptions for deep nesting.
    gives_up = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as "invalid escape sequence"
        with contextlib.suppress(*gives_up):
            return ast.literal_eval(text)
    with contextlib.suppress(*gives_up):
        return json.loads(text)
    return text


def _names(options: Sequence[Any]) -> Any:
    """Returns a dataclass instance with a field per choice: the chosen class's name."""
    tyro = require("tyro")
    fields: list[Any] = []
    for path, members, value in choices(options):
        names = Literal[tuple(map(option_name, members))]  # type: ignore[valid-type]
        about = (type(value).__doc__ or "").split("\n")[0]
        flag = tyro.conf.arg(name=path, help=about)
        default = dataclasses.field(
            default=option_name(type(value)), metadata=_NO_SOURCE
        )
        fields.append((_field_name(path), Annotated[names, flag], default))
    return dataclasses.make_dataclass("Names", fields)()


def _together(parts: Sequence[Any]) -> Any:
    """Returns a dataclass whose fields are option classes, and `parts` its defaults."""
    unnamed = require("tyro").conf.arg(name="")
    fields = [
        (_field(part), Annotated[type(part), unnamed],
         dataclasses.field(default_factory=lambda part=part: part, metadata=_NO_SOURCE))  # type: ignore[misc]
        for part in parts
    ]  # fmt: skip
    return dataclasses.make_dataclass("Together", fields)


def _replaced(option: Any, names: dict[str, str], prefix: str = "") -> Any:
    """Returns the option class with the chosen members at their defaults."""
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
    """Returns a field name for an option class; tyro shows it in errors."""
    return option_name(type(option)).replace("-", "_")


def _field_name(path: str) -> str:
    return path.replace(".", "__")
