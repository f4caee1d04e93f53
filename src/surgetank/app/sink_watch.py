"""What is known of the sinks: whether they answer, and the breaker of whoever flushes into them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from surgetank.exceptions import ConfigurationError, DatabaseRefused, SurgetankError
from surgetank.flush.breaker import BreakerState
from surgetank.flush.flusher import Flusher
from surgetank.model import PartitionState
from surgetank.notify.health import observed_breaker
from surgetank.notify.report import SinkStatus


class Startable(Protocol):
    """A server that may not run."""

    def is_running(self) -> bool:
        """Whether it does."""
        ...


class SinkWatch:
    """Looks at the sinks of an engine's streams. `elsewhere` are those that are not flushed into
    the database."""

    def __init__(
        self,
        flushers: Callable[[], Mapping[str, Flusher]],
        addresses: Mapping[str, str],
        embedded: Startable | None,
        *,
        elsewhere: Collection[str],
        clock: Callable[[], float],
    ) -> None:
        self._flushers = flushers
        self._addresses = addresses
        self._embedded = embedded
        self._elsewhere = elsewhere
        self._clock = clock

    def statuses(
        self, *, ping: bool, failing: Sequence[PartitionState], flushes: bool
    ) -> list[SinkStatus]:
        """The state of every sink; what several streams share is asked once. `flushes`: this
        process's thread runs."""
        answers: dict[str, SinkStatus] = {}
        found = []
        for stream in self._flushers():
            at = self._addresses[stream]
            if at not in answers:
                answers[at] = (
                    self._ask(stream)
                    if ping
                    else SinkStatus(
                        stream=stream,
                        name="",
                        address=at,
                        breaker="",
                        retry_at=None,
                        last_error=None,
                    )
                )
            found.append(self._with_breaker(stream, answers[at], failing, flushes=flushes))
        return found

    def _ask(self, stream: str) -> SinkStatus:
        """Whether the stream's sink answers."""
        unknown = SinkStatus(
            stream=stream,
            name="",
            address=self._addresses[stream],
            breaker="",
            retry_at=None,
            last_error=None,
        )
        embedded = self._embedded if stream not in self._elsewhere else None
        if embedded is not None and not embedded.is_running():
            error = "the embedded PostgreSQL is not running (applications and `surgetank flush` start it)"
            return replace(unknown, reachable=False, last_error=error, stopped=True)
        try:
            return replace(unknown, reachable=True, version=self._flushers()[stream].sink.ping())
        except SurgetankError as problem:
            refused = isinstance(problem, (ConfigurationError, DatabaseRefused))
            return replace(unknown, reachable=False, last_error=problem.what, refused=refused)

    def _with_breaker(
        self, stream: str, asked: SinkStatus, failing: Sequence[PartitionState], *, flushes: bool
    ) -> SinkStatus:
        """The breaker is that of whoever flushes: this process, or another one that left its mark
        in the buffer."""
        flusher = self._flushers()[stream]
        view = flusher.breaker.view()
        state, retry_at, error = view.state.value, view.retry_at, view.last_error
        if not flushes and view.state is BreakerState.CLOSED:
            seen = observed_breaker(stream, failing, self._clock())
            state, retry_at, error = seen.breaker, seen.retry_at, seen.last_error
        return replace(
            asked, stream=stream, name=flusher.sink.name, breaker=state, retry_at=retry_at,
            last_error=asked.last_error or error,
        )  # fmt: skip
