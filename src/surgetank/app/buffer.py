"""`tank.buffer`: how full the buffer is, whether it is sound, and to which database it belongs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from surgetank.buffer.binding import Bindable, Binding
from surgetank.buffer.coordination import Backlog
from surgetank.buffer.identity import Identified
from surgetank.buffer.upkeep import Upkeep
from surgetank.model import Advice, BufferDepth


class Shown(Identified, Bindable, Backlog, Upkeep, Protocol):
    """What is shown of a buffer."""


class BufferState:
    """The buffer of an engine, from outside. Methods raise `BufferUnavailable`."""

    def __init__(self, buffer: Shown) -> None:
        self._buffer = buffer

    @property
    def name(self) -> str:
        """Where it is."""
        return self._buffer.name

    def depth(self) -> BufferDepth:
        """How much waits, in all and by stream, against the limits."""
        return self._buffer.depth()

    def advices(self) -> Sequence[Advice]:
        """What the server that it is in is set to that loses what was accepted, or refuses it
        early."""
        return self._buffer.advices()

    def check(self) -> None:
        """Read all of it. Raises `BufferCorrupt` when it is damaged."""
        self._buffer.check()

    def binding(self) -> Binding | None:
        """The database that it belongs to; None while it has not met one."""
        return self._buffer.binding()
