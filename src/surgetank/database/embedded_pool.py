"""Connections to the embedded PostgreSQL: whoever needs it while it is gone starts it again."""

from __future__ import annotations

from typing import Any

from surgetank.database.deadline import BoundedConnection
from surgetank.database.embedded import EmbeddedPostgres
from surgetank.database.migrate import MigratedDatabase
from surgetank.database.reviver import Reviver
from surgetank.exceptions import DatabaseUnavailable

_START_S = 10.0  # what a start takes, with recovery after a crash


class EmbeddedDatabase(MigratedDatabase):
    """The pool of an embedded server."""

    def __init__(self, embedded: EmbeddedPostgres, **settings: Any) -> None:
        super().__init__(embedded.url, **settings)
        self._reviver = Reviver(embedded)

    def _connect(self) -> BoundedConnection:
        try:
            return super()._connect()
        except DatabaseUnavailable:
            if not self._reviver.revive(max(self._timeout_s, _START_S)):
                raise
            return super()._connect()
