"""Forgetting old log lines, resolved errors, expired items of the store and progress in the
database: in small pieces, by one process at a time."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.telemetry import log

SQL = queries("notify/retention.sql")
_PROGRESS = (
    "forget_progress",
    "forget_earlier_progress",
)  # kept for 90 days: buffers keep their side for 30
_PROGRESS_EVERY_S = 86_400.0
_PIECE = 5000
_PIECES = 20
_HOURS_KEEP_S = 400 * 86_400.0


class Retention:
    """Deletes what is older than its limit; a limit of 0 keeps for ever."""

    def __init__(self, database: Database, *, logs_keep_s: float, errors_keep_s: float) -> None:
        self._database = database
        self._limits = {
            "forget_logs": logs_keep_s,
            "forget_errors": errors_keep_s,
            "forget_hours": _HOURS_KEEP_S,
        }
        self._progress_at = float("-inf")

    def run(self, now: float) -> dict[str, int]:
        """One piece of each kind; how many rows went. Raises what the database raises."""
        gone: dict[str, int] = {}
        with self._database.asking(patient=True) as connection:
            row = connection.execute(SQL["claim_retention"]).fetchone()
            if row is None or not row[0]:
                return {}
            for name, limit in self._limits.items():
                if limit:
                    cursor = connection.execute(SQL[name], {"before": now - limit, "limit": _PIECE})
                    gone[name] = max(0, cursor.rowcount)
            gone["forget_store_items"] = self._forget_store_items(connection)
            if not 0 <= now - self._progress_at < _PROGRESS_EVERY_S:
                for name in _PROGRESS:
                    gone[name] = max(
                        0, connection.execute(queries("sinks/fence.sql")[name]).rowcount
                    )
                self._progress_at = now
        if any(gone.values()):
            log.info("retention", **gone)
        return gone

    def _forget_store_items(self, connection: Connection[Any]) -> int:
        """Their number isn't known from a limit of ours, so several pieces may go at once."""
        total = 0
        for _ in range(_PIECES):
            gone = max(0, connection.execute(SQL["forget_store_items"], {"limit": _PIECE}).rowcount)
            total += gone
            if gone < _PIECE:
                break
        return total
