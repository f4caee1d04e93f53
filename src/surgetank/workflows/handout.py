"""Runs that are accepted in the process of a worker with room are its own from the same commit on: they
begin without a second commit and without a look at the queue.

A slot is reserved before the acceptance, by the id of the run, so that a worker never takes more than
it may, and never takes a run for one that it lost.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from surgetank.workflows.functions import Functions
from surgetank.workflows.runs import NewRun, Run, Strategy

_WAIT_FOR_OTHERS = (Strategy.INTERRUPT, Strategy.ROLLBACK)


@dataclass(slots=True)
class UnderWay:
    """A run that a worker runs."""

    run: Run
    task: asyncio.Task[None] | None = None  # until the loop has begun it
    functions: Functions | None = None  # until its task has begun
    begun: bool = False  # its thread was taken, and nodes may be run
    cancelled: bool = False
    lost: bool = False
    ending: bool = False  # how it ended is being recorded, and then told: nobody may cut that off

    def cut(self, lost: bool) -> None:
        """It is to end, or somebody else has it. On the loop, where it is known whether it has come to
        its end meanwhile."""
        if not self.ending:
            self.lost, self.cancelled = lost, not lost
            # A task that is cancelled before its first step never runs: its run would be under way for
            # ever. It ends itself when it begins.
            if self.task is not None and self.functions is not None:
                self.task.cancel()


class Slots:
    """The slots that are kept at the worker of this name, from `open` to `close`. Safe to use from
    several threads.

    `takes` says whether it may take a run before all others, beside so many that have slots;
    `begin` begins one on the worker's loop, soon; `lost` is told of one that may be the worker's.
    """

    def __init__(
        self,
        worker: str,
        takes: Callable[[NewRun, int], bool],
        begin: Callable[[Run], None],
        lost: Callable[[], None],
    ) -> None:
        self.worker = worker
        self._takes = takes
        self._begin = begin
        self._lost = lost
        self._lock = threading.Lock()
        self._kept: set[uuid.UUID] = set()
        self._closed = True

    def open(self) -> None:
        """Keep slots from now on."""
        with self._lock:
            self._closed = False

    def close(self) -> None:
        """Keep none any more; who has one is told by `take`."""
        with self._lock:
            self._closed = True

    def keep(self, new: NewRun) -> bool:
        """Keep a slot for a run that is about to be accepted. False where there is none for it."""
        with self._lock:
            known = new.run_id in self._kept
            if self._closed or known or not self._takes(new, len(self._kept)):
                return False
            self._kept.add(new.run_id)
            return True

    def take(self, run: Run) -> bool:
        """Begin the run in its slot. False when the worker has ended meanwhile: it is to be given
        back."""
        with self._lock:
            self._kept.discard(run.run_id)
            if not self._closed:
                self._begin(run)
            return not self._closed

    def free(self, run_id: uuid.UUID, *, unsure: bool = False) -> None:
        """No run comes; `unsure`: it may be this worker's nevertheless."""
        if unsure:
            self._lost()
        with self._lock:
            self._kept.discard(run_id)

    @property
    def kept(self) -> Collection[uuid.UUID]:
        """For which runs slots are kept."""
        with self._lock:
            return set(self._kept)


def slot_for(new: NewRun, workers: Sequence[Slots]) -> Slots | None:
    """Where a slot is kept for a run that can begin at once."""
    if new.after_s > 0 or new.strategy in _WAIT_FOR_OTHERS:
        return None
    return next((slots for slots in workers if slots.keep(new)), None)
