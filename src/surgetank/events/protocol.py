"""The event log beside the buffer: what a tail, a replay and a banner are read from.
`sqlite.py` is one, `redis_log.py` another.

It is bounded (by count and age) and says so: whoever asks for what is gone gets a `Gap`, never a
silent hole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from surgetank.events.types import Forwarded, Gap, Incident, NewEvent, Original, RunEvent


class EventLog(Protocol):
    """An ordered log of events, shared by threads and processes.

    - What `publish` returned is seen by every reader of every process, in the order of `id`.
    - `seq` counts within a thread without holes; neither number is ever given twice.
    - An incident is raised once over all processes, until it is cleared.
    """

    @property
    def over_network(self) -> bool:
        """Whether each call may wait for a network: event loops then make it on a thread."""
        ...

    def publish(self, events: Sequence[NewEvent]) -> list[RunEvent]:
        """Write events; those of one thread all or none. Raises `BufferUnavailable`."""
        ...

    def forward(self, rows: Sequence[Forwarded], position: str, *, anew: bool = False) -> int:
        """Write the events of rows of the audit that were not forwarded before, and the position
        after them once all are written: how many. `anew`: the chains are others now. Each is
        written once, however often it is repeated.

        A chain's rows come in their order. Raises `BufferUnavailable`.
        """
        ...

    def forward_position(self) -> str | None:
        """The position of the last `forward`."""
        ...

    def forwarded(self, chains: Sequence[int]) -> dict[int, int]:
        """The last row of each of these chains that was forwarded, while it is remembered (two
        days)."""
        ...

    def tail(
        self, after_id: int, *, limit: int = 1000, max_bytes: int | None = None
    ) -> tuple[Gap | None, list[RunEvent]]:
        """Events of all threads after `after_id`, in order, and the gap before them if some are
        gone.

        A page ends with the event that reaches `max_bytes` (of the stored events; none: no limit).
        """
        ...

    def thread_events(
        self,
        thread_id: str | None,
        after_seq: int = 0,
        *,
        limit: int = 1000,
        max_bytes: int | None = None,
    ) -> tuple[Gap | None, list[RunEvent]]:
        """Events of one thread after `after_seq`, in order, and the gap before them if some are
        gone; as `tail`."""
        ...

    def last_id(self) -> int:
        """The newest event's id; 0 before the first."""
        ...

    def before_last(self, count: int) -> int:
        """The number after which the newest `count` events are, or all if there are fewer."""
        ...

    def last_seq(self, thread_id: str | None) -> int:
        """The newest event's number within a thread; 0 before the first."""
        ...

    def raise_incident(self, incident: Incident) -> bool:
        """True when this is new, or graver than what was told before; False when it has been told
        already. How many threads it concerns is kept in either case."""
        ...

    def clear_incident(self, key: str) -> Incident | None:
        """End an incident; it is returned to exactly one caller."""
        ...

    def incidents(self) -> list[Incident]:
        """What is going on, oldest first."""
        ...

    def keep_originals(self, originals: Sequence[Original]) -> None:
        """Keep what was replaced in projections, for a limited time."""
        ...

    def originals(self, *, thread_id: str | None = None, limit: int = 500) -> list[Original]:
        """What was replaced and has not expired, newest first."""
        ...

    def forget_thread(self, thread_id: str) -> None:
        """Remove a thread's events, incidents and originals, for it is deleted. Its numbers are not
        given again."""
        ...

    def forget_lines(self, thread_id: str, numbers: Sequence[int]) -> None:
        """Remove the events that told these lines of a thread's log live."""
        ...

    def erase(self, threads: Iterable[str], words: Sequence[str]) -> None:
        """Remove threads with their numbers, and what concerns no thread and holds one of the
        words. Other threads' events are their users'."""
        ...

    def size_bytes(self) -> int:
        """What it takes where it is stored."""
        ...

    def scrub(self) -> bool:
        """Leave no byte of what was removed in the files; false when others always were in the
        way."""
        ...

    def maintain(self) -> None:
        """Forget what is too old or too much."""
        ...

    def close(self) -> None:
        """Close files and connections. Idempotent."""
        ...
