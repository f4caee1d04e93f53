"""What a flusher of one stream is to those who schedule, show and repeat flushes. `StreamFlusher` is one for the
entries of the buffer; a stream that is kept elsewhere brings its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol

from surgetank.flush.breaker import CircuitBreaker
from surgetank.model import FlushJob


class Flusher(Protocol):
    """Flushes one stream. Safe for several threads at once."""

    @property
    def stream(self) -> str:
        """The stream's name."""
        ...

    @property
    def breaker(self) -> CircuitBreaker:
        """What is known of its sink."""
        ...

    @property
    def sink(self) -> Any:
        """What it flushes into: at least `name` and `ping()` (see `sinks.protocol.Sink`)."""
        ...

    @property
    def holding(self) -> int:
        """How many partitions it has leased now."""
        ...

    def run_if_due(self, stop: threading.Event) -> FlushJob | None:
        """Flush what crossed a threshold of its policy; None when nothing did or the breaker is
        open."""
        ...

    def run(
        self,
        trigger: str,
        *,
        partition: str | None = None,
        only: Sequence[str] | None = None,
        up_to_seq: int | None = None,
        retry_of: str | None = None,
        stop: threading.Event | None = None,
    ) -> FlushJob:
        """Flush everything that waits (of one partition, or of `only` some), also what is not due
        yet, in one job."""
        ...

    def run_ended(self, partitions: Sequence[str], stop: threading.Event) -> FlushJob:
        """Flush what waits of these partitions, whose runs have ended, in one job."""
        ...
