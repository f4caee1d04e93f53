"""Reading a table of which half is hot, beside DuckDB on one Parquet file of the same rows, sorted by user: one user's
rows as that user, whose SQL runs in a child with nothing but these rows, and all rows as a trusted caller.

The rows came in batches; half of them were flushed. Then two of a hundred rows are updated, and that is flushed as
well: positions in files that are deleted, and new files. At last somebody's query takes all that it may, and another
user asks meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from bench.harness import BenchError, Recorder, Scale, Scene, timed
from bench.measures.tables_flush import TABLE, House, open_house, rows_of, user_called
from bench.peers import OURS
from surgetank.exceptions import QuotaExceeded
from surgetank.streams.tables.definition import SEQ, USER
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.process import Limits
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.query.trusted import TrustedQueries

TITLE = "Reading a table of which half is hot"
DUCKDB = "DuckDB, one sorted Parquet file"
ALONE = "nobody else asks"
_TIMES = 20  # of a query, in each round
_WARM = 5
_UPDATED = 50  # one of so many rows is updated
_ROWS_OF_USER = 5000
_COLUMNS = 'count(*) AS n, sum("count") AS s, max(value) AS m, min("at") AS t'
_HOSTILE = "SELECT count(*) FROM range(1000000000) a, range(1000000000) b"


class _Own:
    """A scope of one table; of one user, or of all."""

    def __init__(self, user: str | None) -> None:
        self._user = user

    def table(self, reference: Reference) -> Readable:  # noqa: ARG002
        return Readable(TABLE, self._user)

    def relation(self, reference: Reference) -> pa.Table | None:  # noqa: ARG002
        return None


def run(scene: Scene) -> Recorder:
    """One user's rows, all rows, all after updates, and one user beside a hostile one."""
    recorder = Recorder("tables_query")
    with (
        closing(QueryPool(limits=Limits(time_s=scene.scale.hostile_s))) as pool,
        closing(duckdb.connect()) as peer,
    ):
        for key in ("append-only", "updated"):
            folder = scene.home / key
            folder.mkdir()
            with open_house(scene, folder) as house:
                _fill(scene.scale, house, updated=key == "updated")
                asked = _Asked(
                    Queries(house.reader, pool, TrustedQueries(house.cold)),
                    peer,
                    _sorted_file(house, peer, folder / "plain.parquet"),
                )
                if key == "append-only":
                    _point(scene, recorder, asked)
                    _beside(scene, recorder, asked)
                _aggregate(scene, recorder, asked, key)
    return recorder


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who answers: ours, and DuckDB of the file `plain`."""

    queries: Queries
    peer: duckdb.DuckDBPyConnection
    plain: str

    def ours(self, user: str | None = None) -> list[dict[str, Any]]:
        """Of one user, confined; of all, trusted."""
        text = f"SELECT {_COLUMNS} FROM bench.facts"
        found: list[dict[str, Any]]
        found = self.queries.select(text, Runner(_Own(user), user)).table.to_pylist()
        return found

    def theirs(self, user: str | None = None) -> list[dict[str, Any]]:
        """The same, from the file."""
        text = f"SELECT {_COLUMNS} FROM {self.plain}"
        if user is not None:
            text += f" WHERE {USER} = ?"
        answer = self.peer.sql(text, params=[user] if user is not None else None)
        found: list[dict[str, Any]] = answer.to_arrow_table().to_pylist()
        return found

    def both(self, ours: list[float], theirs: list[float], user: str | None = None) -> None:
        """Both in turn. Raises `BenchError` where they differ."""
        mine = timed(ours, lambda: self.ours(user))
        same = timed(theirs, lambda: self.theirs(user))
        if mine != same:
            raise BenchError(f"{mine} instead of {same}")


def _users(scale: Scale) -> int:
    return max(2, scale.query_rows // _ROWS_OF_USER)


def _fill(scale: Scale, house: House, *, updated: bool) -> None:
    """Half of the rows are flushed, some of them updated, and half are hot."""
    half = scale.query_rows // 2
    for first in range(0, scale.query_rows, scale.query_batch):
        if half <= first < half + scale.query_batch:
            house.flush()
            if updated:
                _update(house, scale.query_rows // _UPDATED)
        rows = rows_of(scale.query_batch, users=_users(scale), first=first)
        house.hot.accept_arrow(TABLE, rows)


def _update(house: House, wanted: int) -> None:
    """Update so many rows of the files, and flush that."""
    rows = house.reader.read(TABLE)
    chosen = rows.take(pa.array(range(0, rows.num_rows, max(1, rows.num_rows // wanted))))
    names = [column.name for column in TABLE.columns]
    changes = [
        Change(row[USER], Op.UPDATE, tuple(row[name] for name in names), row[SEQ])
        for row in chosen.to_pylist()
    ]
    house.hot.accept(TABLE, changes)
    house.flush()


def _sorted_file(house: House, peer: duckdb.DuckDBPyConnection, path: Path) -> str:
    rows = house.reader.read(TABLE)
    peer.register("unsorted", rows)
    peer.execute(f"COPY (FROM unsorted ORDER BY {USER}, {SEQ}) TO '{path}' (FORMAT parquet)")
    peer.unregister("unsorted")
    return f"read_parquet('{path}')"


def _point(scene: Scene, recorder: Recorder, asked: _Asked) -> None:
    users = _users(scene.scale)
    label = f"one of {users:,} users' rows"
    for number, _ in scene.turns([OURS]):
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(_WARM):
            asked.both([], [], user_called((number * 31) % users))
        for at in range(_TIMES):
            asked.both(ours, theirs, user_called((number * 31 + at % 2) % users))
        recorder.add(number, OURS, "point", ours, label=label)
        recorder.add(number, DUCKDB, "point", theirs, label=label)


def _aggregate(scene: Scene, recorder: Recorder, asked: _Asked, key: str) -> None:
    label = f"{scene.scale.query_rows:,} rows, {key}"
    for number, _ in scene.turns([OURS]):
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(_TIMES):
            asked.both(ours, theirs)
        recorder.add(number, OURS, key, ours, label=label)
        recorder.add(number, DUCKDB, key, theirs, label=label)


def _beside(scene: Scene, recorder: Recorder, asked: _Asked) -> None:
    """One user asks alone, and then while somebody else takes all that he may."""
    user, hostile = user_called(0), Runner(_Own(user_called(1)), user_called(1))

    def ask(who: str, number: int, until: Callable[[], bool]) -> None:
        took: list[float] = []
        while not until() or len(took) < _WARM:
            timed(took, lambda: asked.ours(user))
        took.sort()
        recorder.add(number, who, "beside", took[-1 - len(took) // 100], label="p99 of a user")

    def attack() -> None:
        with suppress(QuotaExceeded):
            asked.queries.select(_HOSTILE, hostile)

    for number, _ in scene.turns([OURS]):
        end = time.monotonic() + scene.scale.hostile_s
        ask(ALONE, number, lambda end=end: time.monotonic() > end)  # type: ignore[misc]
        attacking = threading.Thread(target=attack)
        attacking.start()
        ask(OURS, number, lambda: not attacking.is_alive())  # noqa: B023 - asked before the next round
        attacking.join()
