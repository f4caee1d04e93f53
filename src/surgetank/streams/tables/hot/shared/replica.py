"""A host's replica of the hot rows: a file that has done every step of the log up to one, each
step in its turn.

A step is a call of one of the store's own parts. While it is done, the file gives it the time and
the chance that the step says, and one transaction for several steps: so every replica comes to the
same rows and numbers."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.definitions import definition_json, definition_of
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.shared.log import Position

OWN = ("hot_replica", "hot_results")  # of this file alone
SCRIPT = """
CREATE TABLE IF NOT EXISTS hot_replica (
    id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL, n INTEGER NOT NULL DEFAULT 0,
    mark BLOB NOT NULL DEFAULT x'', scrubs INTEGER NOT NULL DEFAULT 0, generation INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS hot_results (n INTEGER PRIMARY KEY, mark BLOB NOT NULL, result BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS hot_definitions (id INTEGER PRIMARY KEY, definition TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS hot_runs (table_id INTEGER PRIMARY KEY, run TEXT NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class _Step:
    connection: sqlite3.Connection
    at: float
    rng: random.Random
    run: str


class _OfThread(threading.local):
    step: _Step | None = None


class ReplicaFile(HotFile):
    """`HotFile`, for the steps of a log. `define` has a definition written by a step."""

    def __init__(
        self,
        path: Path,
        segments: SegmentFiles,
        *,
        max_bytes: int,
        before_write: Callable[[], None],
        clock: Callable[[], float],
        define: Callable[[str], int],
    ) -> None:
        super().__init__(
            path, segments, max_bytes=max_bytes, durability="process", before_write=before_write,
            clock=clock, rng=random.SystemRandom(), more=SCRIPT,
        )  # fmt: skip
        self._thread = _OfThread()
        self._define = define
        self._layouts: dict[int, Layout] = {}  # by the number of their definition
        self._numbers: dict[str, int] = {}
        self._generation = 0
        with super().write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO hot_replica (id, name) VALUES (1, ?)", (uuid4().hex,)
            )
            (self.name,) = connection.execute("SELECT name FROM hot_replica").fetchone()

    # -- a step

    @contextmanager
    def step(
        self, connection: sqlite3.Connection, *, at: float, seed: int, run: str
    ) -> Iterator[None]:
        """What this thread does now is a step: all of it, or nothing."""
        connection.execute("SAVEPOINT step")
        self._thread.step = _Step(connection, at, random.Random(seed), run)  # noqa: S311 - no secret
        try:
            yield
            connection.execute("RELEASE step")
        except BaseException:
            connection.execute("ROLLBACK TO step")
            connection.execute("RELEASE step")
            raise
        finally:
            self._thread.step = None

    def read(self) -> AbstractContextManager[sqlite3.Connection]:
        step = self._thread.step
        return super().read() if step is None else nullcontext(step.connection)

    def write(self) -> AbstractContextManager[sqlite3.Connection]:
        step = self._thread.step
        return super().write() if step is None else nullcontext(step.connection)

    def clock(self) -> float:
        step = self._thread.step
        return super().clock() if step is None else step.at

    def insert(self, layout: Layout, size: int, row: tuple[object, ...]) -> int | None:  # noqa: ARG002
        return None  # a row on its own is a step as well

    def _begins(self, connection: sqlite3.Connection, table_id: int) -> bool:
        """Each run of the server has origins of its own: what it may have lost of the run before
        had numbers that are not given again."""
        step = self._thread.step
        assert step is not None
        row = connection.execute(
            "SELECT run FROM hot_runs WHERE table_id = ?", (table_id,)
        ).fetchone()
        if row is not None and row[0] == step.run:
            return False
        connection.execute(
            "INSERT INTO hot_runs (table_id, run) VALUES (?, ?)"
            " ON CONFLICT (table_id) DO UPDATE SET run = excluded.run",
            (table_id, step.run),
        )
        return True

    def _chance(self) -> random.Random:
        step = self._thread.step
        assert step is not None
        return step.rng

    def committed(self, table_id: int, first: int) -> None:
        pass  # it is not, before all steps of the transaction are done

    # -- definitions

    def prepare(self, table: Table) -> Layout:
        if self._thread.step is not None:
            with self.write() as connection:
                self._create(connection, table)
            return Layout(table)
        return self.layout(self.number_of(table))

    def number_of(self, table: Table) -> int:
        """The number of a definition: of the first step that said it."""
        text = definition_json(table)
        known = self._numbers.get(text)
        if known is None:
            with self.read() as connection:
                row = connection.execute(
                    "SELECT id FROM hot_definitions WHERE definition = ?", (text,)
                ).fetchone()
            known = self._numbers[text] = row[0] if row is not None else self._define(text)
        return known

    def define(self, text: str) -> int:
        """As a step: number a definition, and see that the file has its tables. Raises `NotFound`
        for a table that was dropped."""
        with self.write() as connection:
            self._create(connection, definition_of(text))
            connection.execute(
                "INSERT OR IGNORE INTO hot_definitions (definition) VALUES (?)", (text,)
            )
            (number,) = connection.execute(
                "SELECT id FROM hot_definitions WHERE definition = ?", (text,)
            ).fetchone()
        return int(number)

    def layout(self, number: int) -> Layout:
        """How rows of a definition are packed."""
        known = self._layouts.get(number)
        if known is None:
            with self.read() as connection:
                (text,) = connection.execute(
                    "SELECT definition FROM hot_definitions WHERE id = ?", (number,)
                ).fetchone()
            known = self._layouts[number] = Layout(definition_of(text))
        return known

    def there(self, number: int) -> Layout:
        """The same, in a step. Raises `NotFound` for a table that was dropped."""
        layout = self.layout(number)
        with self.write() as connection:
            self.refuse_dropped(connection, layout.table)
        return layout

    # -- where it is

    def position(self, connection: sqlite3.Connection) -> Position:
        """Up to where all steps are done."""
        n, mark, generation = connection.execute(
            "SELECT n, mark, generation FROM hot_replica"
        ).fetchone()
        if generation != self._generation:  # another process began again from a copy
            self.forget_known()
            self._generation = generation
        return Position(n, mark)

    def where(self) -> Position:
        """The same, now."""
        with super().read() as connection:
            return self.position(connection)

    def reach(self, connection: sqlite3.Connection, at: Position) -> None:
        """All steps up to this one are done."""
        connection.execute("UPDATE hot_replica SET n = ?, mark = ?", (at.n, at.mark))

    def began_again(self, connection: sqlite3.Connection, at: Position) -> None:
        """The file has another state, which a copy had."""
        connection.execute(
            "UPDATE hot_replica SET n = ?, mark = ?, generation = generation + 1, scrubs = 1",
            (at.n, at.mark),
        )

    def forget_known(self) -> None:
        """What is known of the file in memory may not be so any more."""
        self._layouts.clear()
        self._numbers.clear()
        self.mapped.forget()

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """One write transaction for several steps."""
        return super().write()
