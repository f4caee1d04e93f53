"""How long threads live: what `checkpointer.ttl` of a `langgraph.json` and the field `ttl` of a
thread say. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

TtlStrategy = Literal["delete", "keep_latest"]
MAX_MINUTES = 100 * 366 * 24 * 60.0
MAX_SWEEP = 100_000
_KEYS = ("strategy", "default_ttl", "sweep_interval_minutes", "sweep_limit")


@dataclass(frozen=True, slots=True)
class ThreadTtl:
    """A thread's time to live, from what was last done with it, and what becomes of it then: all of
    it goes, or all states but the newest."""

    minutes: float
    strategy: TtlStrategy = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lifetimes:
    """What threads get that name no time themselves (None: they live for ever), how often those
    whose time is over are looked for, and how many are dealt with each time."""

    default: ThreadTtl | None = None
    every_s: float = 300.0
    most: int = 1000


def lifetimes_of(said: Any) -> Lifetimes:
    """From `checkpointer.ttl`. Raises `ValueError`, which says what is wrong."""
    if not isinstance(said, Mapping):
        raise ValueError("it is no object")  # noqa: TRY004 - of a file, not of a caller
    for key in said:
        if key not in _KEYS:
            raise ValueError(f"{key!r} is not known; there are {', '.join(_KEYS)}")
    strategy = said.get("strategy", "delete")
    if strategy not in get_args(TtlStrategy):
        raise ValueError(f"'strategy' is none of {', '.join(get_args(TtlStrategy))}")
    usual = Lifetimes()
    minutes = _number(said, "default_ttl", MAX_MINUTES)
    every = _number(said, "sweep_interval_minutes", MAX_MINUTES)
    most = _number(said, "sweep_limit", MAX_SWEEP)
    if most is not None and most != int(most):
        raise ValueError("'sweep_limit' is no whole number")
    return Lifetimes(
        default=ThreadTtl(minutes, strategy) if minutes is not None else None,
        every_s=every * 60 if every is not None else usual.every_s,
        most=int(most) if most is not None else usual.most,
    )


def _number(said: Mapping[str, Any], key: str, most: float) -> float | None:
    value = said.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 < value <= most:
        raise ValueError(f"{key!r} is no number above 0 and up to {most:g}")
    return float(value)
