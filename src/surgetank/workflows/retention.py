"""Forgetting old runs and workflows, threads of stateless runs, and old rows of the audit; and sealing
the audit: in small pieces, by one process at a time.
"""

from __future__ import annotations

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import DatabaseUnavailable
from surgetank.settings import Settings
from surgetank.telemetry import log
from surgetank.workflows.audit import Audit

SQL = queries("workflows/retention.sql")
_PIECE = 500
_PIECES = 20  # of one kind at once
_EVERY_S = 300.0
_AGAIN_S = 30.0


class RunRetention:
    """Deletes what is older than its limit; a limit of 0 keeps for ever. `run_if_due` for one
    thread."""

    def __init__(
        self,
        database: Database,
        *,
        runs_keep_s: float,
        stateless_keep_s: float,
        audit_keep_s: float,
        actor: str,
    ) -> None:
        self._database = database
        self._audit = Audit(database)
        self._limits = {"forget_workflows": runs_keep_s, "forget_stateless": stateless_keep_s}
        self._audit_keep_s = audit_keep_s
        self._actor = actor
        self._ran_at = float("-inf")

    def run_if_due(self, now: float) -> None:
        """`run`, every five minutes. A database that is away is no trouble of its own (who flushes
        tells of it): it is asked again half a minute later."""
        if 0 <= now - self._ran_at < _EVERY_S:
            return
        self._ran_at = now
        try:
            self.run(now)
        except DatabaseUnavailable as error:
            self._ran_at = now - _EVERY_S + _AGAIN_S
            log.info("retention_of_runs_put_off", error=error.what)

    def run(self, now: float) -> dict[str, int]:
        """Forget what is too old, some of it, and seal the audit; how many rows went."""
        gone = {
            name: self._forget(name, now - keep_s)
            for name, keep_s in self._limits.items()
            if keep_s
        }
        gone["forget_rates"] = self._piece("forget_rates", now)
        if self._audit_keep_s:
            gone["audit"] = self._prune(now - self._audit_keep_s)
        if any(gone.values()):
            log.info("retention_of_runs", **gone)
        self._audit.seal(at_most_every_s=_EVERY_S * 0.8)
        return gone

    def _forget(self, name: str, before: float) -> int:
        gone = 0
        for _ in range(_PIECES):
            piece = self._piece(name, before)
            gone += piece
            if piece < _PIECE:
                break
        return gone

    def _piece(self, name: str, before: float) -> int:
        with self._database.asking(patient=True) as connection:
            row = connection.execute(SQL["claim"]).fetchone()
            if row is None or not row[0]:
                return 0
            cursor = connection.execute(SQL[name], {"before": before, "limit": _PIECE})
            return max(0, cursor.rowcount)

    def _prune(self, before: float) -> int:
        gone = 0
        for _ in range(_PIECES):
            piece = self._audit.prune(before, most=_PIECE, actor=self._actor)
            gone += piece
            if piece == 0:
                break
        return gone


def retention_of_runs(database: Database, settings: Settings) -> RunRetention:
    """The retention that the settings ask for."""
    return RunRetention(
        database,
        runs_keep_s=settings.runs_keep,
        stateless_keep_s=settings.stateless_keep,
        audit_keep_s=settings.audit_keep,
        actor=settings.node,
    )
