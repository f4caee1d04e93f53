"""The stream log: what runs send while they run, kept so that a reader who comes back goes on where
it was. `sqlite_streams.py` is one, `redis_streams.py` another.

Numbers count within a thread, without holes, over all its runs. What is gone is said (`gap`), never
skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

END = "end"  # the event after which a run sends nothing


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a run: `data` is JSON. `at` is seconds since the epoch."""

    seq: int
    run_id: str
    event: str
    data: bytes
    at: float


@dataclass(frozen=True, slots=True)
class StreamPage:
    """Events in order. `gap`: everything up to this number is gone, and the reader had not seen it
    all.

    `last` is the newest number of the thread.
    """

    events: tuple[StreamEvent, ...]
    last: int
    gap: int | None = None


@dataclass(frozen=True, slots=True)
class StreamGroup:
    """Events that an attempt of a run sends: their names and their data as JSON."""

    thread_id: str
    run_id: str
    events: Sequence[tuple[str, bytes]]
    attempt: int

    @property
    def ends(self) -> bool:
        """Whether the run's end is among them."""
        return any(event == END for event, _ in self.events)

    @property
    def size(self) -> int:
        """Bytes of its data."""
        return sum(len(data) for _, data in self.events)


@dataclass(frozen=True, slots=True)
class Written:
    """A group that this process wrote: `newest` is `StreamLog.newest` since then, `before` what it
    was before that transaction. `ended`: its run sends nothing more."""

    thread_id: str
    before: int
    newest: int
    ended: bool


class StreamLog(Protocol):
    """An ordered log of what runs send, shared by threads and processes.

    What `append_all` returned for is seen by every reader. Events of a run that has not ended stay;
    those of an ended one stay for a while, bounded by time and bytes.
    """

    @property
    def over_network(self) -> bool:
        """Whether each call may wait for a network: event loops then make it on a thread."""
        ...

    def append_all(self, groups: Sequence[StreamGroup]) -> list[int | None]:
        """Write the groups, those of one thread all or none: for each the number of its last event;
        None, and nothing of it is written, when a later attempt of its run writes."""
        ...

    def try_append_all(self, groups: Sequence[StreamGroup]) -> list[int | None] | None:
        """`append_all` for an event loop: None, and nothing written, where it would have to wait
        longer than some milliseconds for another thread or process, or at all for a network.
        Then `append_all` on a thread."""
        ...

    def read(
        self,
        thread_id: str,
        *,
        run_id: str | None = None,
        after: int = 0,
        limit: int = 500,
        max_bytes: int = 2 * 1024 * 1024,
    ) -> StreamPage:
        """Events of a thread, or of one run, after a number. A page ends with the event that
        reaches `max_bytes`."""
        ...

    def has_ended(self, run_id: str) -> bool:
        """Whether the run has sent its `end`."""
        ...

    def last(self, run_id: str, most: int = 2) -> Sequence[StreamEvent]:
        """The newest events of a run, in their order."""
        ...

    def newest(self) -> int:
        """A number that grows whenever something is written."""
        ...

    def listen(self, heard: Callable[[Written], None]) -> Callable[[], None]:
        """Call `heard` for each group that this process writes, on its thread; gives what ends
        it."""
        ...

    def forget_thread(self, thread_id: str) -> None:
        """Remove a thread's events. Its numbers are not given again."""
        ...

    def forget_run(self, run_id: str) -> None:
        """Remove a run's events, for it is rolled back."""
        ...

    def size_bytes(self) -> int:
        """What it takes where it is stored."""
        ...

    def maintain(self) -> None:
        """Forget what is too old or too much."""
        ...

    def scrub(self) -> bool:
        """Leave no byte of what was removed in the files; false when others always were in the
        way."""
        ...

    def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...
