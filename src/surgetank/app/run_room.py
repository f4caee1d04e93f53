"""What the runs of one engine share: the log that they send to, and who is woken when one is
accepted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from surgetank.events.streams import StreamLog
from surgetank.workflows.handout import Slots, slot_for
from surgetank.workflows.runs import NewRun

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


class RunRoom:
    """Made with the engine; its log is opened when it is first used, or is there already."""

    def __init__(self, open_log: Callable[[], StreamLog], is_there: Callable[[], bool]) -> None:
        self._open_log = open_log
        self._is_there = is_there
        self._lock = threading.Lock()
        self._streams: StreamLog | None = None
        self._wakers: list[Callable[[bool], None]] = []
        self._slots: dict[Slots, Callable[[], object]] = {}
        self._emptied: set[str] = set()

    @property
    def streams(self) -> StreamLog:
        """The stream log. Raises `BufferUnavailable`, `BufferCorrupt`."""
        with self._lock:
            if self._streams is None:
                self._streams = self._open_log()
            return self._streams

    def _if_there(self) -> StreamLog | None:
        return self.streams if self._streams is not None or self._is_there() else None

    def forget_thread(self, thread_id: str) -> None:
        """Remove what the runs of a thread sent, unless only its state goes."""
        if thread_id not in self._emptied and (log := self._if_there()) is not None:
            log.forget_thread(thread_id)

    async def empty(self, saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
        """Delete the state of a thread of a run without one. What the run sent stays for readers."""
        self._emptied.add(thread_id)
        try:
            await saver.adelete_thread(thread_id)
        finally:
            self._emptied.discard(thread_id)

    def scrub(self) -> bool:
        """Leave no byte of what was removed."""
        return (log := self._if_there()) is None or log.scrub()

    def maintain(self) -> None:
        """Forget what is too old or too much."""
        if (log := self._streams) is not None:
            log.maintain()

    def hand_to(self, slots: Slots, begun: Callable[[], object]) -> Callable[[], None]:
        """Keep slots for runs that are accepted in this process at this worker, and call `begun`
        when one has begun there; gives what ends it."""
        with self._lock:
            self._slots[slots] = begun

        def end() -> None:
            with self._lock:
                del self._slots[slots]

        return end

    def begun(self, slots: Slots) -> None:
        """A run has begun in its slot, and nobody has to look for it."""
        with self._lock:
            tell = self._slots.get(slots)
        if tell is not None:
            tell()

    def slot_for(self, new: NewRun) -> Slots | None:
        """Where a slot is kept for a run, if it can begin in this process at once."""
        with self._lock:
            slots = list(self._slots)
        return slot_for(new, slots)

    def wake_with(self, wake: Callable[[bool], None]) -> Callable[[], None]:
        """Call `wake` when a run is accepted in this process, with whether others are to end by
        that; gives what ends it."""
        with self._lock:
            self._wakers.append(wake)

        def end() -> None:
            with self._lock:
                self._wakers.remove(wake)

        return end

    def wake(self, *, cancels: bool = True) -> None:
        """Tell the workers of this process that there is something to do; `cancels`: runs were
        asked to end."""
        with self._lock:
            wakers = list(self._wakers)
        for wake in wakers:
            wake(cancels)

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            streams, self._streams = self._streams, None
        if streams is not None:
            streams.close()
