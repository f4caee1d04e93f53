"""Times of so and so long as people write and read them. Pure."""

from __future__ import annotations

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def seconds_of(text: str, *, bare: bool = False) -> float:
    """The seconds of `90s`, `30m`, `1.5h`, `7d` or `2w`; with `bare` also of a number alone.

    The number is what `float` reads. Which ones make sense the caller knows: a negative or an
    endless time is not refused here. Raises `ValueError` when there is no number, or no unit.
    """
    number, unit = (text[:-1], text[-1]) if text[-1:] in UNITS else (text, "s")
    if bare or number != text:
        try:
            return float(number) * UNITS[unit]
        except ValueError:
            pass
    raise ValueError(f"{text!r} is no span of time")


def shown(seconds: float, *, digits: int = 0) -> str:
    """A time for people, in the unit that suits it; seconds with so many `digits` of a fraction."""
    if seconds < 120:
        return f"{seconds:.{digits}f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
