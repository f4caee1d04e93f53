"""A replica's state as a file of the shared storage: a host that has nothing, or was away for
long, begins with it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from surgetank.streams.tables.hot.shared.log import Position
from surgetank.streams.tables.hot.shared.replica import OWN, ReplicaFile

_AT_ONCE = 5000


class CopyGone(Exception):
    """A newer copy took its place meanwhile."""


class Copies:
    """Copies in a location of tables (`cold/location.py`); what is being made is beside the
    replica."""

    def __init__(self, file: ReplicaFile, location: Any) -> None:
        self._file, self._location = file, location

    def make(self) -> tuple[str, Position]:
        """Store the replica's state: the name of the copy, and where it is."""
        temporary = self._file.path.with_name(f"{self._file.path.name}-{uuid4().hex}.tmp")
        try:
            with self._file.read() as source, closing(sqlite3.connect(temporary)) as target:
                at = self._file.position(source)
                target.execute("PRAGMA synchronous = OFF")
                temporary.chmod(0o600)
                copy_tables(source, target)
                target.execute("CREATE TABLE copy_mark (mark BLOB NOT NULL)")
                target.execute("INSERT INTO copy_mark VALUES (?)", (at.mark,))
                target.commit()
            name = f"hot/{at.n}-{uuid4().hex}.copy"
            with temporary.open("rb") as made:
                self._location.store(name, lambda file: shutil.copyfileobj(made, file))
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        return name, at

    def load(self, connection: sqlite3.Connection, name: str) -> bytes:
        """Let the replica have the state of a copy; an empty one for no name. The mark of its last
        step. Raises `CopyGone`."""
        if not name:
            copy_tables(None, connection)
            return b""
        try:
            return self._load(connection, name)
        except FileNotFoundError:
            raise CopyGone from None
        except sqlite3.OperationalError as error:
            if "unable to open" not in str(error):
                raise
            raise CopyGone from None

    def _load(self, connection: sqlite3.Connection, name: str) -> bytes:
        with self._location.held({name: 0}) as paths:
            paths[name].stat()  # a folder does not say whether it is there
            uri = f"{Path(paths[name]).absolute().as_uri()}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as source:
                copy_tables(source, connection)
                (mark,) = source.execute("SELECT mark FROM copy_mark").fetchone()
        self._location.distrust(name)  # what a user has erased is in it, too
        return bytes(mark)

    def remove(self, name: str) -> None:
        """A copy that nobody begins with any more."""
        self._location.unlink([name])


def copy_tables(source: sqlite3.Connection | None, target: sqlite3.Connection) -> None:
    """Let all tables of hot rows in `target` be as they are in `source`."""
    for name, _ in _tables(target):
        if _is_base(name):
            target.execute(f"DELETE FROM {name}")
        else:
            target.execute(f"DROP TABLE {name}")
    if source is None:
        return
    there = {name for name, _ in _tables(target)}
    for name, statements in _tables(source):
        if name not in there:
            for statement in statements:
                target.execute(statement)
        cursor = source.execute(f"SELECT * FROM {name}")
        marks = ", ".join("?" * len(cursor.description))
        names = ", ".join(column for column, *_ in cursor.description)
        while rows := cursor.fetchmany(_AT_ONCE):
            target.executemany(f"INSERT INTO {name} ({names}) VALUES ({marks})", rows)
    for name, seq in source.execute("SELECT name, seq FROM sqlite_sequence").fetchall():
        target.execute("DELETE FROM sqlite_sequence WHERE name = ?", (name,))
        target.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (name, seq))


def _tables(connection: sqlite3.Connection) -> list[tuple[str, list[str]]]:
    """The tables of hot rows, and the statements that make each with its indexes."""
    found: dict[str, list[str]] = {}
    for name, sql in connection.execute(
        "SELECT tbl_name, sql FROM sqlite_master WHERE type IN ('table', 'index') AND sql IS NOT NULL"
        " AND tbl_name GLOB 'hot_*' ORDER BY type DESC, name"
    ):
        if name not in OWN:
            found.setdefault(name, []).append(sql)
    return list(found.items())


def _is_base(name: str) -> bool:
    """Whether it is not a user table's own."""
    return not name.removeprefix("hot_rows_").removeprefix("hot_keys_").isdigit()
