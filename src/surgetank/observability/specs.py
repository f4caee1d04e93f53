"""What a metric is, and how a reader gives its values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: its kind (`gauge`, `counter`, `histogram`), what it says, and its labels."""

    kind: str
    help: str
    labels: tuple[str, ...] = ()


Value = tuple[tuple[str, ...], float]  # label values, and the number


def from_zero(
    expected: Iterable[tuple[str, ...]], found: Mapping[tuple[str, ...], float]
) -> list[Value]:
    """Counters begin at 0 before the first event: `increase()` misses the first one of a series
    that begins at 1."""
    return sorted({**dict.fromkeys(expected, 0), **found}.items())
