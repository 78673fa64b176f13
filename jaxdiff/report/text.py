"""Options and numbers as text, for the terminal and the page."""

from typing import Any


def reached(step: int, end: int) -> str:
    """Returns the progress of a run as text."""
    word = ", finished" if step >= end else ""
    return f"step {step:,} of {end:,} ({step / end:.0%}){word}"


def plain(value: Any) -> str:
    """Returns options in one line, without the braces and quotes of JSON."""
    if isinstance(value, dict):
        rest = dict(value)
        name = rest.pop("type", None)
        parts = [f"{key}={plain(v)}" for key, v in rest.items()]
        return f"{name or ''}({', '.join(parts)})" if name else ", ".join(parts)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return number(value)


def number(value: Any) -> str:
    """Returns a number as text for reading, and anything else unchanged."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
