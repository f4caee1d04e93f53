"""`tank.buffer`: how full the buffer is, whether it is sound, and to which database it belongs."""

from __future__ import annotations

from surgetank.buffer.binding import Binding
from surgetank.buffer.protocol import Buffer
from surgetank.model import BufferDepth


class BufferState:
    """The buffer of an engine, from outside. Methods raise `BufferUnavailable`."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer

    @property
    def name(self) -> str:
        """Where it is."""
        return self._buffer.name

    def depth(self) -> BufferDepth:
        """How much waits, in all and by stream, against the limits."""
        return self._buffer.depth()

    def check(self) -> None:
        """Read all of it. Raises `BufferCorrupt` when it is damaged."""
        self._buffer.check()

    def binding(self) -> Binding | None:
        """The database that it belongs to; None while it has not met one."""
        return self._buffer.binding()
