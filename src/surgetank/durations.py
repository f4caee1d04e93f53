"""Times of so and so long as people write and read them. Pure."""

from __future__ import annotations

import re

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_WRITTEN = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?) ?([smhdw])?", re.ASCII)


def seconds_of(text: str, *, bare: bool = False) -> float:
    """The seconds of `90s`, `30m`, `1.5h`, `7d` or `2w`; with `bare` also of a number alone.

    Raises `ValueError`.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or (found[2] is None and not bare):
        raise ValueError(f"{text!r} is no span of time")
    return float(found[1]) * UNITS[found[2] or "s"]


def shown(seconds: float) -> str:
    """A time for people, in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
