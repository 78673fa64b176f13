"""The one error a user's mistake raises."""

import importlib
from collections.abc import Sequence
from typing import Any

from jaxdiff.names import lazy


class InputError(ValueError):
    """A mistake in what the user gave: one line with what, which value, what to do.

    The command line prints the line and exits with code 2; any other exception is a
    defect of the library and keeps its traceback.

    What a value, a file's name or another library brings into the message can have line
    breaks, or characters that command a terminal: they are written as escapes, and a
    message of more than 5,000 letters is cut.
    """

    def __init__(self, message: str):
        if len(message) > 5000:
            message = f"{message[:4997]}..."
        escaped = (c if c.isprintable() else repr(c)[1:-1] for c in message)
        super().__init__("".join(escaped))


def shown(value: Any) -> str:
    """A value of any type and size, for a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep, or thousands of digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def first_few(parts: Sequence[str]) -> str:
    """The first three of several reasons, and how many more there are."""
    more = [f"and {len(parts) - 3} more"] if len(parts) > 3 else []
    return "; ".join([*parts[:3], *more])


class NonFiniteError(FloatingPointError):
    """The loss or the gradient of a step is not a finite number: training stopped.

    Attributes:
        step: the state's number after that step.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step


def require(module: str) -> Any:
    """An optional package, or a module in one; they wait until they are needed."""
    package = module.partition(".")[0]
    try:
        importlib.import_module(package)
        return importlib.import_module(module)
    except ImportError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{package} cannot be imported ({reason}); "
            "run: pip install 'jaxdiff[experiments]'"
        ) from error


def first_line(error: BaseException) -> str:
    """What an error says, cut to one line."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


__getattr__ = lazy(__name__, renamed={"NonFinite": "jaxdiff.errors.NonFiniteError"})
