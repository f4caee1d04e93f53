"""SELECT for everybody: confined callers in a child, trusted ones in this process, over the same sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from surgetank.exceptions import QuotaExceeded
from surgetank.streams.tables.query.cancelling import Cancellation
from surgetank.streams.tables.query.parameters import Parameters
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.process import Answer, Limits
from surgetank.streams.tables.query.sources import Scope, Sources
from surgetank.table_settings import TableSettings

if TYPE_CHECKING:
    from surgetank.streams.tables.query.trusted import TrustedQueries
    from surgetank.streams.tables.reader import TableReader

MOST_TEXT = 256 * 1024  # bytes of a statement


@dataclass(frozen=True, slots=True)
class Runner:
    """Who runs a statement: `user` is confined and waits in turn with others of this name; None is
    trusted. `cancellation` ends it before its time, unless it is trusted."""

    scope: Scope
    user: str | None = None
    limits: Limits | None = None
    cancellation: Cancellation | None = None


def limits_of(settings: TableSettings) -> Limits:
    """What a query of a caller who is not trusted may take."""
    return Limits(
        time_s=settings.sql_time_limit,
        rows=settings.sql_rows,
        bytes=settings.sql_bytes,
        memory_bytes=settings.sql_memory,
    )


def pool_of(settings: TableSettings) -> QueryPool:
    """The pool that these settings describe; its children are started by the first query."""
    return QueryPool(
        settings.sql_processes, limits=limits_of(settings), waiting=settings.sql_waiting
    )


class Queries:
    """Runs SELECTs. For any number of threads."""

    def __init__(
        self, reader: TableReader | None, pool: QueryPool, trusted: TrustedQueries
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._trusted = trusted

    def select(self, text: str, runner: Runner, parameters: Parameters | None = None) -> Answer:
        """The answer of one SELECT.

        Raises `InvalidRequest` (`StatementRefused` with the position), `QuotaExceeded` for what
        takes more than it may, `ColdStateUnavailable`, and what the scope raises.
        """
        with self.sources(runner, parameters) as sources:
            return self.run(text, runner, sources, parameters)

    @contextmanager
    def sources(self, runner: Runner, parameters: Parameters | None = None) -> Iterator[Sources]:
        """The sources of one query, for who wants to know what it read."""
        with Sources(self._reader, runner.scope, parameters) as sources:
            yield sources

    def run(
        self,
        text: str,
        runner: Runner,
        sources: Sources,
        parameters: Parameters | None = None,
    ) -> Answer:
        """As `select`, over sources of the caller's."""
        if len(text) > MOST_TEXT:
            raise QuotaExceeded(
                f"A statement may have {MOST_TEXT >> 10} KB, and this one has {len(text) >> 10}.",
                remedy="give long values as parameters.",
            )
        if runner.user is None:
            return self._trusted.run(text, sources=sources, parameters=parameters)
        answer = self._pool.run(
            text,
            user=runner.user,
            tables=sources.rows,
            parameters=parameters,
            limits=runner.limits,
            cancellation=runner.cancellation,
        )
        return replace(answer, stale=sources.stale)

    def close(self) -> None:
        """End all children, and close what is kept. Idempotent."""
        self._pool.close()
        self._trusted.close()
