"""Upkeep of a buffer: damage that was found, data that must go for good, space that is given back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from surgetank.exceptions import BufferUnavailable
from surgetank.model import Advice, Damage


class Damages(Protocol):
    """What was found damaged. It is written down where it was found, so that it is told even if
    that process dies."""

    def damage(self, *, new: bool = False) -> list[Damage]:
        """What was found damaged and can't be given back, oldest first; with `new` only what was
        not announced yet."""
        ...

    def damage_announced(self, ids: Sequence[int]) -> None:
        """The operators were told of these damages."""
        ...


class Erasing(Protocol):
    """Data that must go for good."""

    def erase(self, partitions: Iterable[str], words: Sequence[str]) -> tuple[int, list[str]]:
        """Remove all that is kept of partitions of which nothing waits, in every stream, and what
        jobs say with one of the words in it. Returns how many went and the names of those that
        still wait, which stay.
        """
        ...

    def scrub(self) -> bool:
        """Leave no byte of what was removed in the files; false when others always were in the
        way."""
        ...


class Upkeep(Damages, Erasing, Protocol):
    """What is done to a buffer off its callers' path."""

    def maintain(self, *, thorough: bool = True) -> None:
        """Housekeeping off the callers' path: give space back, forget kept entries that are old
        enough; if `thorough`, also forget old notes and jobs.
        """
        ...

    def taken_away(self) -> BufferUnavailable | None:
        """Why nothing more is accepted: what the buffer is stored in was taken away under this
        process, or is a server that does not answer. None while it is there. Asks now.
        """
        ...

    def advices(self) -> Sequence[Advice]:
        """What the server that it is stored in is set to that loses what was accepted, or refuses it
        early. As it was when that was seen last: at the start, and now and then."""
        ...

    def check(self) -> None:
        """Read everything; raises `BufferCorrupt` if any of it is damaged."""
        ...

    def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...
