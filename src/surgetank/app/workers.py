"""`tank.workers`: which processes flush, run graphs or serve, what they hold, and how fast they are."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import dict_row

from surgetank.app.presence import SQL, Presence, Report, Role
from surgetank.database.pool import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerProcess:
    """A process that works with this database, as it said last.

    `roles`: `flush`, `runs` or `serve`. `state`: `working`, `stopping` (told to end, and finishing), or
    `silent`: it said nothing for three beats, so it was killed or is cut off. What a silent one held is
    taken over by the others. `partitions` are leased by it, `runs` are under way, `followers` are
    connections with live events. Speeds are over the last minute. `since` and `seen_at` are seconds since
    the epoch by the database's clock, `silent_s` is how long ago it said something.
    """

    id: str
    node: str
    host: str
    pid: int
    roles: tuple[str, ...]
    state: Literal["working", "stopping", "silent"]
    since: float
    seen_at: float
    silent_s: float
    runs: int
    partitions: int
    followers: int
    entries_per_s: float
    runs_per_s: float
    buffer_id: str
    version: str


class Workers:
    """The processes of all hosts that work with this database. Those that were killed are listed for
    a day."""

    def __init__(self, database: Database, presence: Presence) -> None:
        self._database = database
        self._presence = presence

    def __call__(self) -> builtins.list[WorkerProcess]:
        """The same as `list`."""
        return self.list()

    def list(self) -> builtins.list[WorkerProcess]:
        """All of them, silent ones last. Raises `DatabaseUnavailable`."""
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return [_process(row) for row in cursor.execute(SQL["list"]).fetchall()]

    def role(self, name: str, report: Report, *, claims_as: str | None = None) -> Role:
        """A service: between its start and its stop this process is listed with the role. `report`
        gives numbers of what it holds."""
        return self._presence.role(name, report, claims_as=claims_as)


def _process(row: Mapping[str, Any]) -> WorkerProcess:
    silent, report = row["silent"], row["report"]
    return WorkerProcess(
        id=str(row["worker_id"]),
        node=row["node"],
        host=row["host"],
        pid=row["pid"],
        roles=tuple(row["roles"]),
        state="silent" if silent else "stopping" if row["stopping"] else "working",
        since=row["since"],
        seen_at=row["beat_at"],
        silent_s=max(0.0, row["silent_s"]),
        runs=row["runs"],
        # The leases of a silent one have run out.
        partitions=0 if silent else int(report.get("partitions", 0)),
        followers=0 if silent else int(report.get("followers", 0)),
        entries_per_s=0.0 if silent else float(report.get("entries_per_s", 0.0)),
        runs_per_s=0.0 if silent else float(report.get("runs_per_s", 0.0)),
        buffer_id=row["buffer_id"],
        version=row["version"],
    )
