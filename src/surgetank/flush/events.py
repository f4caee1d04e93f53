"""What a flush reports: one union of frozen records, given to one callable.

`flush` knows no channel and no stream: it calls the listener that it was given, on the flushing
thread, after the buffer has recorded what happened. A listener must be quick. `Listeners` makes
several of them one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from surgetank.model import Failure, FlushJob, Fork, ParkedEntry, PartitionOutcome

_FAILURES_KEPT = 100


@dataclass(frozen=True, slots=True)
class PartitionFailed:
    """A partition could not be flushed; its entries stay in the buffer and are retried."""

    job: FlushJob
    outcome: PartitionOutcome
    failure: Failure


@dataclass(frozen=True, slots=True)
class PartitionRecovered:
    """A partition that had failed is flushed again."""

    job: FlushJob
    outcome: PartitionOutcome


@dataclass(frozen=True, slots=True)
class EntryParked:
    """One entry was refused by the sink and set aside."""

    job: FlushJob
    entry: ParkedEntry


@dataclass(frozen=True, slots=True)
class ValuesReplaced:
    """Values were replaced in the projections of what was flushed."""

    job: FlushJob
    outcome: PartitionOutcome


@dataclass(frozen=True, slots=True)
class PartitionForked:
    """Two buffers wrote to one partition, the flushed one without knowing of the other. Nothing was
    lost."""

    job: FlushJob
    fork: Fork


@dataclass(frozen=True, slots=True)
class JobFinished:
    """A job ended; its record says how."""

    job: FlushJob


FlushEvent = (
    PartitionFailed
    | PartitionRecovered
    | EntryParked
    | ValuesReplaced
    | PartitionForked
    | JobFinished
)
FlushListener = Callable[[FlushEvent], None]


def outcome_events(job: FlushJob, outcome: PartitionOutcome) -> list[FlushEvent]:
    """What there is to report of one partition, in this order: what was set aside, what was
    replaced, how it ended."""
    events: list[FlushEvent] = [EntryParked(job, entry) for entry in outcome.parked_entries]
    if outcome.values_replaced:
        events.append(ValuesReplaced(job, outcome))
    if outcome.fork is not None:
        events.append(PartitionForked(job, outcome.fork))
    if outcome.failure is not None:
        events.append(PartitionFailed(job, outcome, outcome.failure))
    elif outcome.recovered:
        events.append(PartitionRecovered(job, outcome))
    return events


class ListenerFailure(NamedTuple):
    """A listener that raised: which, at what kind of event, and with what."""

    listener: str
    event: str
    error: str


class Listeners:
    """Several listeners as one. One that raises never stops another: its failure is kept, and shown
    in the status."""

    def __init__(self, *listeners: FlushListener) -> None:
        self._listeners = listeners
        self._failures: deque[ListenerFailure] = deque(maxlen=_FAILURES_KEPT)
        self._lock = threading.Lock()  # several flushes report at once, and the status reads

    def add(self, listener: FlushListener) -> None:
        """Report to this one as well, from now on."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def __call__(self, event: FlushEvent) -> None:
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - isolation is the promise; the failure is kept and shown
                failure = ListenerFailure(_name(listener), type(event).__name__, repr(error))
                with self._lock:
                    self._failures.append(failure)

    @property
    def failures(self) -> Sequence[ListenerFailure]:
        """The latest failures of listeners, oldest first."""
        with self._lock:
            return tuple(self._failures)


def _name(listener: FlushListener) -> str:
    return str(getattr(listener, "__qualname__", type(listener).__name__))
