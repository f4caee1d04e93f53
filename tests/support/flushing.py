"""A flusher with a real buffer, a sink in memory and a clock that stands still."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

from support.buffers import FakeClock
from support.memory_sink import MemorySink
from surgetank.buffer.protocol import Buffer
from surgetank.buffer.sqlite.buffer import SQLiteBuffer
from surgetank.flush.breaker import CircuitBreaker
from surgetank.flush.events import (
    EntryParked,
    FlushEvent,
    JobFinished,
    Listeners,
    PartitionFailed,
    PartitionRecovered,
)
from surgetank.flush.job import Clockwork, StreamFlusher
from surgetank.flush.policy import RetryPolicy, StreamPolicy
from surgetank.model import FlushJob, ParkedEntry, PartitionOutcome, Record

DUE_AT_ONCE = StreamPolicy(entries=1, age_s=0.0)


@dataclass
class Told:
    """A listener that keeps what was reported."""

    failed: list[PartitionOutcome] = field(default_factory=list)
    parked: list[ParkedEntry] = field(default_factory=list)
    recovered: list[PartitionOutcome] = field(default_factory=list)
    jobs: list[FlushJob] = field(default_factory=list)

    def on_flush(self, event: FlushEvent) -> None:
        match event:
            case PartitionFailed(outcome=outcome):
                self.failed.append(outcome)
            case EntryParked(entry=entry):
                self.parked.append(entry)
            case PartitionRecovered(outcome=outcome):
                self.recovered.append(outcome)
            case JobFinished(job=job):
                self.jobs.append(job)
            case _:
                pass  # nothing that these tests ask for


class Plant:
    """One buffer and one sink, and flushers between them."""

    def __init__(self, folder: Path, sink: MemorySink | None = None) -> None:
        self.clock = FakeClock()
        self.path = folder / "buffer.db"
        self.buffer = SQLiteBuffer(self.path, clock=self.clock)
        self.sink = sink or MemorySink()
        self.told = Told()
        self._ids = count(1)

    def __enter__(self) -> Plant:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.buffer.close()

    def flusher(
        self,
        *,
        stream: str = "s",
        policy: StreamPolicy = DUE_AT_ONCE,
        buffer: Buffer | None = None,
        node: str = "node-1",
        breaker: CircuitBreaker | None = None,
        **options: Any,  # whatever else `StreamFlusher` takes
    ) -> StreamFlusher:
        """A new flusher: nothing in it knows of the ones before."""
        clockwork = Clockwork(
            self.clock, random=lambda: 1.0, new_id=lambda: f"job-{next(self._ids)}"
        )
        options = {
            "retry": RetryPolicy(base_s=1.0, max_s=60.0, fatal_s=300.0),
            "clockwork": clockwork,
            **options,
        }
        return StreamFlusher(
            stream,
            buffer or self.buffer,
            options.pop("sink", self.sink),
            policy=policy,
            breaker=breaker or CircuitBreaker(self.clock, threshold=2, base_s=1.0, max_s=15.0),
            listener=options.pop("listener", None) or Listeners(self.told.on_flush),
            node=node,
            **options,
        )

    def put(
        self, partition: str, value: bytes = b"v", *, key: bytes = b"k", stream: str = "s"
    ) -> int:
        """Append one entry of one record."""
        return self.buffer.append(stream, partition, [Record(key, value)])

    def waiting(self) -> dict[str, int]:
        """How many entries wait, by partition."""
        return {s.partition: s.entries for s in self.buffer.states()}
