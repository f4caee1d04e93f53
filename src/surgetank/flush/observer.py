"""Who is told what a flush did. `flush` knows no channel: it reports to the observer that it was given.

An observer must not raise and must be quick; it is called on the flushing thread, after the buffer
has recorded what happened.
"""

from __future__ import annotations

from typing import Protocol

from surgetank.model import FlushJob, Fork, ParkedEntry, PartitionOutcome


class FlushObserver(Protocol):
    """Receives the outcomes of flushing."""

    def partition_failed(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """A partition could not be flushed; its entries stay in the buffer and are retried."""
        ...

    def entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        """One entry was refused by the sink and set aside."""
        ...

    def values_replaced(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """Values were replaced in the projections of what was flushed."""
        ...

    def thread_forked(self, job: FlushJob, fork: Fork) -> None:
        """Two buffers wrote to one thread, the flushed one without knowing of the other. Nothing was lost."""
        ...

    def partition_recovered(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        """A partition that had failed is flushed again."""
        ...

    def job_finished(self, job: FlushJob) -> None:
        """A job ended; its record says how."""
        ...


class Observers:
    """Several observers as one; one that raises never stops another (its failure is kept in `failures`)."""

    def __init__(self, *observers: FlushObserver) -> None:
        self._observers: list[FlushObserver] = list(observers)
        self.failures: list[tuple[str, str]] = []

    def add(self, observer: FlushObserver) -> None:
        """Tell this one as well, from now on."""
        self._observers.append(observer)

    def _tell(self, method: str, *arguments: object) -> None:
        for observer in tuple(self._observers):
            try:
                getattr(observer, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - isolation is the promise; the failure is kept and shown
                self.failures = [*self.failures[-99:], (type(observer).__name__, f"{method}: {error!r}")]

    def partition_failed(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        self._tell("partition_failed", job, outcome)

    def entry_parked(self, job: FlushJob, entry: ParkedEntry) -> None:
        self._tell("entry_parked", job, entry)

    def values_replaced(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        self._tell("values_replaced", job, outcome)

    def thread_forked(self, job: FlushJob, fork: Fork) -> None:
        self._tell("thread_forked", job, fork)

    def partition_recovered(self, job: FlushJob, outcome: PartitionOutcome) -> None:
        self._tell("partition_recovered", job, outcome)

    def job_finished(self, job: FlushJob) -> None:
        self._tell("job_finished", job)
