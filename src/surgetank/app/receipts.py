"""The receipt: waits until all that was accepted of a thread is in the database, or says what
hinders it.

It believes the buffer alone: an entry leaves it only after the database has it. What is accepted
after the call began is not waited for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from surgetank.encode.limits import check_names
from surgetank.events.types import timestamp
from surgetank.exceptions import NotSaved
from surgetank.model import PartitionState

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts

_SOON_S = 0.005
_LATER_S = 0.1


class _Receipt:
    """What of a thread had been accepted at one moment, and whether it has arrived."""

    def __init__(self, parts: Parts, thread_id: str, timeout_s: float) -> None:
        check_names(thread_id, [("$.thread_id", thread_id)])
        self._parts = parts
        self._thread = thread_id
        self._timeout_s = timeout_s
        self._deadline = time.monotonic() + timeout_s
        self._pause_s = _SOON_S
        self._streams = parts.streams.of_threads
        self._up_to = {stream: parts.buffer.last_seq(stream, thread_id) for stream in self._streams}
        if parts.scheduler.running:
            for stream, last in self._up_to.items():
                if last:
                    parts.scheduler.run_ended(stream, thread_id)

    def pause_s(self) -> float | None:
        """How long to wait before the next look; None when everything has arrived. Raises
        `NotSaved`."""
        waiting = [
            stream for stream, last in self._up_to.items() if last and self._waits(stream, last)
        ]
        parked = [
            entry
            for stream in self._streams
            for entry in self._parts.buffer.parked(stream=stream, partition=self._thread)
        ]
        if parked:
            ids = tuple(entry.id for entry in parked)
            shown = ", ".join(map(str, ids[:20]))
            raise NotSaved(
                f"{len(ids)} of the entries of {self._thread!r} were refused by the database and "
                f"set aside"
                f" (parked: {shown}): {parked[0].failure.message}",
                thread_id=self._thread,
                parked=ids,
                failure=parked[0].failure,
                since=parked[0].parked_at,
                remedy=f"see `surgetank parked show {ids[0]}`, mend the reason, then `surgetank "
                f"parked retry`.",
            )
        if not waiting:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._overdue(waiting)
        self._pause_s = min(self._pause_s * 1.5, _LATER_S)
        return min(self._pause_s, left)

    def _waits(self, stream: str, last: int) -> bool:
        return bool(self._parts.buffer.waiting(stream, up_to_seq=last, partition=self._thread))

    def _overdue(self, waiting: list[str]) -> NotSaved:
        states = [self._parts.buffer.state(stream, self._thread) for stream in waiting]
        known = [state for state in states if state is not None]
        failing = next((state for state in known if state.failure is not None), None)
        entries = sum(state.entries for state in known)
        reason, remedy = self._reason(failing, waiting)
        return NotSaved(
            f"{entries} entries of {self._thread!r} are not in the database after "
            f"{self._timeout_s:g} s: {reason}",
            thread_id=self._thread, waiting=entries, failure=failing.failure if failing else None,
            since=failing.failing_since if failing else None, remedy=remedy,
        )  # fmt: skip

    def _reason(self, failing: PartitionState | None, waiting: list[str]) -> tuple[str, str]:
        if failing is not None and failing.failure is not None:
            since = f" since {timestamp(failing.failing_since)}" if failing.failing_since else ""
            remedy = (
                failing.failure.remedy
                or "nothing is lost: it is tried again by itself; see `surgetank status`."
            )
            return f"flushing it has failed{since} ({failing.failure.message})", remedy
        sink = self._parts.sink_status(waiting[0])
        if sink.breaker != "closed":
            return (
                f"{sink.address} can't be reached ({sink.last_error})",
                "nothing is lost: it is tried again by itself; see `surgetank status`.",
            )
        if not self._parts.scheduler.running:
            return (
                "this process doesn't flush, and no worker has taken it yet",
                "run `surgetank worker`, or call flush().",
            )
        return (
            "the flush has not come to it yet",
            "wait longer; see `surgetank status` for how much waits.",
        )


@dataclass(frozen=True, slots=True)
class Accepted:
    """What of a thread had been accepted at one moment: the last number in each stream."""

    thread_id: str
    last: Mapping[str, int]


class Arrivals:
    """Tells of many threads whether what was accepted of them is in the database. Nobody waits for
    it: they are flushed together, soon, where this process flushes."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def accepted(self, thread_id: str) -> Accepted:
        """All that was accepted of a thread until now."""
        parts = self._parts
        lasts = {
            stream: parts.buffer.last_seq(stream, thread_id) for stream in parts.streams.of_threads
        }
        if parts.scheduler.running:
            for stream, last in lasts.items():
                if last:
                    parts.scheduler.run_ended(stream, thread_id, awaited=False)
        return Accepted(thread_id, lasts)

    def arrived(self, accepted: Sequence[Accepted]) -> list[bool]:
        """Of each, whether all of it has arrived, and nothing of its thread was set aside."""
        threads = {each.thread_id for each in accepted}
        waiting = {
            stream: self._parts.buffer.first_waiting(stream, threads)
            for stream in self._parts.streams.of_threads
        }
        return [
            all(
                waiting[stream].get(each.thread_id, last + 1) > last
                for stream, last in each.last.items()
            )
            for each in accepted
        ]


def wait_saved(parts: Parts, thread_id: str, timeout_s: float) -> None:
    """Wait on this thread. Raises `NotSaved`."""
    receipt = _Receipt(parts, thread_id, timeout_s)
    while (pause := receipt.pause_s()) is not None:
        time.sleep(pause)


async def await_saved(parts: Parts, thread_id: str, timeout_s: float) -> None:
    """Wait on the event loop, which goes on meanwhile. Raises `NotSaved`."""
    receipt = _Receipt(parts, thread_id, timeout_s)
    while (pause := receipt.pause_s()) is not None:  # noqa: ASYNC110
        await asyncio.sleep(pause)  # the buffer is another process's too, and tells nobody
