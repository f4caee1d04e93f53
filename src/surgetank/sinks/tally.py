"""What a transaction did, counted per thread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from surgetank.model import Replacement

_NOTHING: Mapping[bytes, bytes] = MappingProxyType({})


@dataclass(slots=True)
class Tally:
    """Rows, bytes and replaced values of one thread, and what the buffer is to note with it."""

    rows: int = 0
    size: int = 0
    replaced: tuple[Replacement, ...] = ()
    forget: tuple[bytes, ...] = ()
    buried: Mapping[bytes, bytes] = field(default_factory=lambda: _NOTHING)

    def count(self, size: int) -> None:
        """One more row."""
        self.rows += 1
        self.size += size
