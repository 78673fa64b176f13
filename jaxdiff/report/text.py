"""Options and numbers as text, for a terminal and for the page."""

from typing import Any


def reached(step: int, end: int) -> str:
    """How far a run is, in words."""
    word = ", finished" if step >= end else ""
    return f"step {step:,} of {end:,} ({step / end:.0%}){word}"


def plain(value: Any) -> str:
    """Options in one line, without the braces and quotes of JSON."""
    if isinstance(value, dict):
        rest = dict(value)
        name = rest.pop("type", None)
        parts = [f"{key}={plain(v)}" for key, v in rest.items()]
        return f"{name or ''}({', '.join(parts)})" if name else ", ".join(parts)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(plain, value)) + "]"
    return number(value)


def number(value: Any) -> str:
    """A number to read; anything else as it is."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
