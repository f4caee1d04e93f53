"""What a transaction did, counted per thread."""

from __future__ import annotations

from dataclasses import dataclass, field

from surgetank.model import Replacement


@dataclass(slots=True)
class Tally:
    """Rows, bytes and replaced values of one thread, and what the buffer is to note with it."""

    rows: int = 0
    size: int = 0
    replaced: list[Replacement] = field(default_factory=list)
    forget: list[bytes] = field(default_factory=list)
    buried: dict[bytes, bytes] = field(default_factory=dict)

    def count(self, size: int) -> None:
        """One more row."""
        self.rows += 1
        self.size += size
