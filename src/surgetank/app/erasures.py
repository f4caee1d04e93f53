"""`tank.erasures`: which users are or were erased from this database, and how far that is."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import dict_row

from surgetank.database.pool import Database
from surgetank.database.queries import queries

SQL = queries("app/erasure.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureState:
    """One erasure. `state` is `running` or `completed`; `removed` counts what is gone, by kind.

    `subject` is the SHA-256 of the user's name. The name itself is there while it runs, and the number of `threads`
    that are left.
    """

    subject: str
    state: str
    user_name: str | None
    threads: int
    removed: Mapping[str, int]
    started_at: datetime
    finished_at: datetime | None
    tried_at: datetime


class Erasures:
    """The erasures of a database. Methods raise `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, *, limit: int = 100) -> list[ErasureState]:
        """All of them, newest first."""
        return self._states(None, limit)

    def of(self, user: str) -> ErasureState | None:
        """That of a user, if there is one."""
        return next(iter(self._states(hashlib.sha256(user.encode()).digest(), 1)), None)

    def _states(self, subject: bytes | None, limit: int) -> list[ErasureState]:
        arguments: dict[str, Any] = {"subject": subject, "limit": limit}
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return [ErasureState(**row) for row in cursor.execute(SQL["states"], arguments)]
