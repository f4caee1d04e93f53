"""Tables beside SQLite: any order of statements, batches, flushes, failures, merges, erasures, crashes and races of
two of them. After each step every SELECT gives the same, of an application and of a user; what was flushed is the same
to another reader (DuckLake), now and as it was."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from support.lake import asking
from support.torture import SEEDS
from surgetank import Surgetank
from surgetank.app.sql import SqlCaller
from surgetank.exceptions import Conflict
from surgetank.streams.tables import insertion
from surgetank.streams.tables.cold import compaction, files, writing
from surgetank.streams.tables.cold.files import Folder
from surgetank.streams.tables.cold.manifest import Locked, Manifest
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.cold.upkeep import KEEPING
from surgetank.streams.tables.definition import SEQ, USER

pytestmark = pytest.mark.timeout(3600)
KINDS = {"notes": "USER", "loose": "USER", "rates": "SHARED", "ticks": "STREAM"}
KEYED = ("notes", "rates", "ticks")
FLUSHED = ("notes", "loose", "rates")
# A column that is added, and what rows have in it as text.
ADDED = (
    ("INT NOT NULL DEFAULT 7", "7"),
    ("TEXT", None),
    ("DECIMAL(8, 2) DEFAULT 1.5", "1.50"),
    ("TIMESTAMP DEFAULT '2024-01-02 03:04:05.678901'", "2024-01-02 03:04:05.678901"),
    ("DATE DEFAULT '2024-02-29'", "2024-02-29"),
    ("TIME DEFAULT '01:02:03.000004'", "01:02:03.000004"),
    ("UUID DEFAULT 'b41dfeed-0000-4000-8000-000000000001'", "b41dfeed-0000-4000-8000-000000000001"),
    ("BOOLEAN DEFAULT TRUE", "true"),
    ("INT[] DEFAULT [1, 2]", "[1, 2]"),
)
WHERES = ("id % 2 = 0", "n > 3", "s IS NULL OR s = 'b'", "id = 1", "1 = 1", "n BETWEEN 2 AND 5")
SETS = ("n = n + 1", "s = coalesce(s, '') || 'x'", "n = id, s = NULL", "s = 'b'")
CONFLICTS = {
    "refuse": "",
    "nothing": "ON CONFLICT DO NOTHING",
    "update": "ON CONFLICT (id) DO UPDATE SET n = excluded.n",
}
POINTS: dict[str, tuple[Any, str, bool]] = {  # what, and whether just after it
    "taken": ("hot", "take", True),
    "written": (Folder, "write", True),
    "before the commit": (Manifest, "locked", False),
    "in the commit": (Locked, "commit", True),
    "in a merge": (Locked, "replace", True),
    "committed": (FileTables, "write", True),
    "read": (FileTables, "live", False),
    "before the ack": ("hot", "ack", False),
    "acknowledged": ("hot", "ack", True),
}
USERS = st.sampled_from(["ann", "bob", "éva"])
TABLES = st.sampled_from(list(KINDS))
Row = tuple[Any, ...]


class Crash(BaseException):
    """The process ends here."""


@dataclass
class Before:
    """A snapshot, and what was in it."""

    table: str
    snapshot: int
    rows: list[Row] = field(default_factory=list)


class House:
    """One engine, one other reader, for all examples."""

    def __init__(self, folder: Path, url: str, ask: Callable[..., list[Any]]) -> None:
        self.ask = ask
        self.now = 1_800_000_000.0
        self.numbers = count(1)
        self.tank = Surgetank(
            home=folder / "home", database_url=url, flush_in_process=False, flush_on_close=False,
            clock=self.clock, retry_base=0.05, retry_max=0.2, breaker_max=0.2,
        ).open()  # fmt: skip

    def clock(self) -> float:
        self.now += 0.001
        return self.now


class Machine(RuleBasedStateMachine):
    def __init__(self, house: House) -> None:
        super().__init__()
        self.house, self.tank = house, house.tank
        self.namespace = f"n{next(house.numbers)}"
        self.model = sqlite3.connect(":memory:", isolation_level=None)
        self.added: dict[str, list[str]] = {name: [] for name in KINDS}
        self.history: list[Before] = []
        self.running = False
        self.patches = ExitStack()
        self.patches.enter_context(mock.patch.object(insertion, "SEGMENT_ROWS", 3))
        self.patches.enter_context(mock.patch.object(compaction, "_MOST_FILES", 1))
        self.tank.tables.create_namespace(self.namespace)
        for name, kind in KINDS.items():
            key = " PRIMARY KEY" if name in KEYED else " NOT NULL"
            self.sql(
                f"CREATE TABLE {self.of(name)} (id BIGINT{key}, n INT, s TEXT)"
                f" WITH (TYPE='{kind}', ACCESS_LEVEL='write')"
                if kind == "SHARED"
                else f"CREATE {kind} TABLE {self.of(name)} (id BIGINT{key}, n INT, s TEXT)"
                + (" WITH (TTL_SECONDS=100000000)" if kind == "STREAM" else "")
            )
            unique = ", PRIMARY KEY (_user, id)" if name in KEYED else ""
            self.model.execute(
                f"CREATE TABLE {name} (_user, id INTEGER, n INTEGER, s TEXT{unique})"
            )

    def of(self, name: str) -> str:
        return f"{self.namespace}.{name}"

    def sql(self, text: str, user: str | None = None, **more: Any) -> Any:
        return self.tank.sql(text, user=user, **more)[-1]

    def table(self, name: str) -> Any:
        return self.tank.tables.describe(self.of(name))

    def tables(self) -> Any:
        return self.tank.parts.tables.open()

    def teardown(self) -> None:
        try:
            self.as_a_confined_user()
        finally:
            self.patches.close()
            self.model.close()
            for name in KINDS:
                self.tank.tables.drop(self.of(name))
            self.house.tank = self.tank

    # -- statements

    @rule(
        name=TABLES, user=USERS, ids=st.lists(st.integers(0, 6), min_size=1, max_size=4),
        n=st.integers(0, 9), how=st.sampled_from([*CONFLICTS]), arrow=st.booleans(),
    )  # fmt: skip
    def insert(self, name: str, user: str, ids: list[int], n: int, how: str, arrow: bool) -> None:
        how = how if name in KEYED else "refuse"
        owner = user if KINDS[name] != "SHARED" else ""
        rows = [(each, n + at, "b" if at % 2 else None) for at, each in enumerate(ids)]
        values = ", ".join("(?, ?, ?, ?)" for _ in rows)
        flat = [value for row in rows for value in (owner, *row)]
        clause = CONFLICTS[how].replace("(id)", "(_user, id)")
        taken = False
        try:
            self.model.execute(
                f"INSERT INTO {name} (_user, id, n, s) VALUES {values} {clause}", flat
            )
        except sqlite3.IntegrityError:
            taken = True
        try:
            if arrow:
                columns = zip(*rows, strict=True)
                given = pa.table(
                    dict(zip(("id", "n", "s"), map(list, columns), strict=True)),
                    schema=pa.schema([("id", pa.int64()), ("n", pa.int32()), ("s", pa.string())]),
                )
                self.tank.tables.insert(
                    self.of(name), given, user=owner or None, on_conflict=how,  # type: ignore[arg-type]
                    updates=["n"] if how == "update" else (),
                )  # fmt: skip
            else:
                marks = ", ".join("(?, ?, ?)" for _ in rows)
                text = f"INSERT INTO {self.of(name)} (id, n, s) VALUES {marks} {CONFLICTS[how]}"
                self.sql(text, user, parameters=[value for row in rows for value in row])
        except Conflict:
            assert taken
        else:
            assert not taken

    @rule(
        name=TABLES,
        user=st.none() | USERS,
        change=st.sampled_from(SETS),
        where=st.sampled_from(WHERES),
    )
    def update(self, name: str, user: str | None, change: str, where: str) -> None:
        expected = self.model.execute(
            f"UPDATE {name} SET {change} WHERE ({where}){self.mine(name, user)}"
        )
        done = self.sql(f"UPDATE {self.of(name)} SET {change} WHERE {where}", user)
        assert done.affected == expected.rowcount

    @rule(name=TABLES, user=st.none() | USERS, where=st.sampled_from(WHERES[:4]))
    def delete(self, name: str, user: str | None, where: str) -> None:
        expected = self.model.execute(f"DELETE FROM {name} WHERE ({where}){self.mine(name, user)}")
        assert (
            self.sql(f"DELETE FROM {self.of(name)} WHERE {where}", user).affected
            == expected.rowcount
        )

    @rule(name=st.sampled_from(KEYED), user=USERS, old=st.integers(0, 6), new=st.integers(0, 6))
    def change_key(self, name: str, user: str, old: int, new: int) -> None:
        taken = False
        try:
            self.model.execute(
                f"UPDATE {name} SET id = {new} WHERE id = {old}{self.mine(name, user)}"
            )
        except sqlite3.IntegrityError:
            taken = True
        try:
            self.sql(f"UPDATE {self.of(name)} SET id = {new} WHERE id = {old}", user)
        except Conflict:
            assert taken
        else:
            assert not taken

    def mine(self, name: str, user: str | None) -> str:
        return f" AND _user = '{user}'" if user is not None and KINDS[name] != "SHARED" else ""

    @rule(name=TABLES, kind=st.sampled_from(ADDED))
    def add_a_column(self, name: str, kind: tuple[str, str | None]) -> None:
        declared, text = kind
        column = f"c{len(self.added[name])}"
        self.sql(f"ALTER TABLE {self.of(name)} ADD COLUMN {column} {declared}")
        default = "NULL" if text is None else f"'{text}'"
        self.model.execute(f"ALTER TABLE {name} ADD COLUMN {column} TEXT DEFAULT {default}")
        self.added[name].append(column)

    # -- what goes on behind them

    @rule(small=st.booleans())
    def flush(self, small: bool) -> None:
        hot = self.tables().hot
        take, most = hot.take, 100 if small else 64 * 1024**2

        def some(lease: Any, *, after: int = 0, **_: Any) -> Any:
            return take(lease, after=after, max_bytes=most)

        with mock.patch.object(hot, "take", some):
            assert self.tank.tables.flush().ok
        self.remember()

    def remember(self) -> None:
        """All is flushed: that is what the newest snapshots have."""
        waiting = {each.table.name for each in self.tables().hot.waiting()}
        for name in FLUSHED:
            if name in waiting:
                continue
            snapshot = self.tables().cold.live(self.table(name), stores=()).snapshot
            if snapshot and all(snapshot != each.snapshot for each in self.history):
                self.history.append(Before(name, snapshot, self.expected(name)))

    @rule(user=USERS)
    def flush_while_rows_of_a_user_fail(self, user: str) -> None:
        conform = files.conform

        def failing(table: Any, rows: pa.Table) -> pa.Table:
            if table.by_user and user in rows.column(USER).to_pylist():
                raise RuntimeError("nobody foresaw it")
            return conform(table, rows)

        with mock.patch.object(writing, "conform", failing):
            self.tank.tables.flush()

    @rule(name=st.sampled_from(FLUSHED))
    def compact(self, name: str) -> None:
        self.tables().cold.compact(self.table(name))

    @rule(history=st.booleans())
    def sweep(self, history: bool) -> None:
        kept = replace(KEEPING, grace_s=0.0, snapshots_s=KEEPING.snapshots_s if history else 0.0)
        with mock.patch.object(self.tables().cold, "_keeping", kept):
            self.tables().cold.sweep()
        if not history:
            self.history.clear()
        self.tables().hot.maintain()

    @rule(user=USERS)
    def erase(self, user: str) -> None:
        self.tables().erase_user(user)
        for name, kind in KINDS.items():
            if kind != "SHARED":
                self.model.execute(f"DELETE FROM {name} WHERE _user = ?", (user,))
        for each in self.history:
            each.rows = [row for row in each.rows if row[0] != user]

    @rule(seconds=st.sampled_from([1, 60]))
    def time_goes_on(self, seconds: int) -> None:
        self.house.now += seconds

    @rule(point=st.sampled_from([*POINTS]), merging=st.booleans())
    def crash(self, point: str, merging: bool) -> None:
        """Of a flush, or of a merge; the lease is left as it is."""

        def dies(*_: Any) -> None:
            raise Crash

        try:
            with (
                self.at(point, dies),
                mock.patch.object(self.tables().hot, "release"),
            ):
                if merging:
                    self.tables().cold.compact(self.table("notes"))
                else:
                    self.tank.tables.flush()
        except Crash:
            self.open_again()

    @rule()
    def open_again(self) -> None:
        self.tank.close()
        self.tank.open()

    # -- two at once

    @rule(
        first=st.sampled_from(["flush", "compact", "erase"]), point=st.sampled_from([*POINTS]),
        data=st.data(),
    )  # fmt: skip
    def meanwhile(self, first: str, point: str, data: st.DataObject) -> None:
        """Something is done while something else is between two steps."""
        user, name = data.draw(USERS), data.draw(st.sampled_from(FLUSHED))
        choices: dict[str, Callable[..., Any]] = {
            "flush": self.tank.tables.flush,
            "late flush": self.flush_of_another,
            "compact": lambda: self.tables().cold.compact(self.table(name)),
            "erase": lambda: self.erase(user),
            "insert": lambda: self.insert(name, user, [0, 5, 6], 1, "update", True),
            "update": lambda: self.update(name, None, "n = n + 1", "1 = 1"),
            "delete": lambda: self.delete(name, user, "id % 2 = 0"),
            "alter": lambda: self.add_a_column(name, ADDED[0]),
        }
        second = choices[data.draw(st.sampled_from([*choices]))]
        with self.at(point, second):
            if first == "flush":
                self.tank.tables.flush()
            elif first == "compact":
                self.tables().cold.compact(self.table(name))
            else:
                self.erase(data.draw(USERS))

    def flush_of_another(self) -> None:
        """The lease has run out, and somebody else has the table."""
        self.house.now += 60
        flusher = self.tables().flusher
        with mock.patch.object(flusher, "node", "another"):
            flusher.run("test")

    @rule(
        name=TABLES, user=st.none() | USERS,
        second=st.sampled_from(["flush", "compact", "flush and compact", "late flush"]),
    )  # fmt: skip
    def read_meanwhile(self, name: str, user: str | None, second: str) -> None:
        """A reader has seen the hot rows when they are flushed, or files are replaced."""

        def done() -> None:
            if "flush" in second:
                self.tank.tables.flush()
            if "compact" in second and name in FLUSHED:
                self.tables().cold.compact(self.table(name))

        with self.at("read", done):
            self.check(name, user)

    def at(self, point: str, what: Callable[..., Any]) -> Once:
        owner, name, after = POINTS[point]
        return Once(self.tables().hot if owner == "hot" else owner, name, what, after=after)

    # -- what is promised

    def expected(self, name: str, user: str | None = None) -> list[Row]:
        columns = ", ".join(["id", "n", "s", *self.added[name]])
        where = f"WHERE 1 = 1{self.mine(name, user)}"
        return sorted(
            self.model.execute(f"SELECT _user, {columns} FROM {name} {where}").fetchall(), key=repr
        )

    def check(self, name: str, user: str | None) -> None:
        casts = [f"CAST({each} AS VARCHAR)" for each in self.added[name]]
        owner = "_user" if KINDS[name] != "SHARED" else "''"
        shown = ", ".join([owner, "id", "n", "s", *casts])
        found = rows_of(self.sql(f"SELECT {shown} FROM {self.of(name)}", user))
        assert sorted(found, key=repr) == self.expected(name, user)

    @invariant()
    def every_select_gives_the_same(self) -> None:
        for name in KINDS:
            self.check(name, None)
        some = ("ann", "bob", "éva")[len(self.history) % 3]
        for name in KINDS:
            self.check(name, some)
            table = self.table(name)
            read = self.tables().reader.read(table, user=some, columns=["id", "n", "s"])
            rows = [(row.get(USER, ""), row["id"], row["n"], row["s"]) for row in read.to_pylist()]
            assert sorted(rows, key=repr) == sorted(
                (r[:4] for r in self.expected(name, some)), key=repr
            )
            assert len(set(read.column(SEQ).to_pylist())) == read.num_rows
            text = f"SELECT count(*), sum(n), count(s), max(id) FROM {{}} WHERE n > 2{self.mine(name, some)}"
            counted = rows_of(self.sql(text.format(self.of(name)), some))
            assert counted == self.model.execute(text.format(name)).fetchall()

    @rule()
    def another_reader(self) -> None:
        """What was flushed, as it is now and as it was."""
        asked = [*self.history]
        questions: list[tuple[str, str]] = []
        for each in asked:
            owner = "_user" if KINDS[each.table] != "SHARED" else "''"
            questions.append((
                "again" if not questions else "duckdb",
                f"SELECT {owner}, id, n, s FROM lake.{self.of(each.table)} AT (VERSION => {each.snapshot})",
            ))  # fmt: skip
        for each, rows in zip(asked, self.house.ask(*questions), strict=True):
            assert not isinstance(rows, str), rows
            expected = sorted((row[:4] for row in each.rows), key=repr)
            assert sorted(map(tuple, rows), key=repr) == expected, each.table

    def as_a_confined_user(self) -> None:
        for name in KINDS:
            caller = SqlCaller(user="ann")
            text = f"SELECT id, n, s FROM {self.of(name)}"
            found = rows_of(self.tank.sql.run(text, caller).done()[0])
            expected = [row[1:4] for row in self.expected(name, "ann")]
            assert sorted(found, key=repr) == sorted(expected, key=repr)


def rows_of(result: Any) -> list[Row]:
    return [tuple(row) for row in zip(*(c.to_pylist() for c in result.rows.columns), strict=True)]


class Once:
    """Something is done once, when a method is called, or has been."""

    def __init__(self, owner: Any, name: str, what: Callable[..., Any], *, after: bool) -> None:
        self.owner, self.name, self.after = owner, name, after
        self.what: Callable[..., Any] | None = what

    def __enter__(self) -> None:
        plain = getattr(self.owner, self.name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            what, self.what = self.what, None
            if not self.after and what is not None:
                what()
            result = plain(*args, **kwargs)
            if self.after and what is not None:
                what()
            return result

        self.patch = mock.patch.object(self.owner, self.name, wrapped)
        self.patch.start()

    def __exit__(self, *_: object) -> None:
        self.patch.stop()


def test_tables_are_as_sqlite_would_have_them(database_url: str, tmp_path: Path) -> None:
    with asking(database_url) as ask:
        house = House(tmp_path, database_url, ask)
        try:
            run_state_machine_as_test(
                lambda: Machine(house),  # type: ignore[arg-type]
                settings=settings(
                    max_examples=100 if len(SEEDS) > 2 else 2,
                    stateful_step_count=30,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            house.tank.close()
