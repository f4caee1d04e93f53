"""Tallies: reports of one kind that are counted instead of accepted one by one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from surgetank.model import Record


@dataclass(frozen=True, slots=True)
class Tally:
    """Reports of one kind that were folded: the newest one and how many they were."""

    partition: str
    key: bytes
    value: bytes
    count: int


class Tallies(Protocol):
    """Counts reports, as durable as entries; `Snapshot.tallies` shows what was not sent yet.

    A tally becomes an entry in the step in which it goes: it is never lost, and never sent twice.
    """

    def tally(
        self, stream: str, partition: str, key: bytes, value: bytes, *, count: int = 1
    ) -> None:
        """Count a report that is alike to one before: the newest value of a key is kept, and how
        many there were.

        As durable as an entry; a tally is small and takes no room of the limits. Raises
        `BufferUnavailable`.
        """
        ...

    def try_tally(self, stream: str, partition: str, key: bytes, value: bytes) -> bool:
        """`tally` unless another process holds the buffer just now, or a network is in between;
        whether it was done."""
        ...

    def send_tallies(
        self, stream: str, entry_of: Callable[[Tally], Record], *, older_s: float
    ) -> int:
        """Make an entry of each tally that was begun so long ago, in the same step in which it
        goes; how many.

        Raises `BufferFull`, `BufferUnavailable`: what was not sent stays counted.
        """
        ...
