"""Keeping a replica up to the log, and having a step done: put into the log, and done here in its
turn."""

from __future__ import annotations

import secrets
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ormsgpack

from surgetank.exceptions import BufferUnavailable, SurgetankError
from surgetank.sqlite.scrub import scrub
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot.shared import forms
from surgetank.streams.tables.hot.shared.copies import Copies, CopyGone
from surgetank.streams.tables.hot.shared.log import (
    BEGINS_WITH_COPY,
    GOES_ON,
    Entry,
    Position,
    SharedLog,
)
from surgetank.streams.tables.hot.shared.replica import ReplicaFile
from surgetank.streams.tables.hot.shared.steps import Body, Outcome, Steps
from surgetank.telemetry import log

_RESULTS = 10_000  # that are kept for other processes of this replica
_TRIES = 5


class Applying:
    """One process's view of the log. Safe for several threads."""

    def __init__(
        self,
        shared: SharedLog,
        file: ReplicaFile,
        copies: Copies,
        on_problem: Callable[[SurgetankError], None],
    ) -> None:
        self._log, self._file, self._copies = shared, file, copies
        self._on_problem = on_problem
        self.steps = Steps(file)
        self._lock = threading.Lock()  # one thread brings the replica up
        self._waited: dict[bytes, Outcome | None] = {}  # marks of steps that threads here wait for

    def do(self, kind: str, *given: Any, grows: bool = False) -> Any:
        """Have a step done: its result. Raises what it is refused for, and `BufferUnavailable`,
        `BufferFull`; after `BufferUnavailable` it may have been done."""
        body = Body(kind, given, self._file.clock(), secrets.randbits(60), self._file.name)
        packed, mark = body.packed(), self._log.new_mark()
        self._waited[mark] = None
        try:
            for _ in range(_TRIES):
                at = self._file.where()
                stands, n, run = self._log.append(at, packed, mark, grows=grows)
                if stands == GOES_ON:
                    return self._result(at, Entry(n, packed, mark, run))
                self.catch_up()
            raise self._behind()
        finally:
            self._waited.pop(mark, None)

    def catch_up(self) -> None:
        """Do all steps that are in the log by now."""
        with self._lock:
            self._bring_up(None)

    def _result(self, at: Position, entry: Entry) -> Any:
        with self._lock:
            outcome = self._waited.get(entry.mark)
            if outcome is None:
                if at.n + 1 == entry.n:  # nothing stands between: it need not be read
                    self._apply([entry])
                outcome = self._waited.get(entry.mark)
            if outcome is None:
                self._bring_up(entry.n)
                outcome = self._waited.get(entry.mark)
        outcome = outcome or self._kept(entry)
        if outcome.refusal is not None:
            raise forms.refusal_of(outcome.refusal)
        return outcome.result

    def _kept(self, entry: Entry) -> Outcome:
        """What another process of this replica has done for us."""
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT result FROM hot_results WHERE n = ? AND mark = ?", (entry.n, entry.mark)
            ).fetchone()
        if row is None:
            raise BufferUnavailable(
                f"What became of step {entry.n} of the hot rows of tables is not known: it may have been done.",
                remedy="read what is there, then repeat it if it is missing.",
            )
        return Outcome(*ormsgpack.unpackb(row[0]))

    def _bring_up(self, to: int | None) -> None:
        tries = 0
        while True:
            at = self._file.where()
            if to is not None and at.n >= to:
                return
            stands, newest, entries = self._log.after(at)
            if stands == GOES_ON:
                if not entries and at.n >= newest:
                    return
                self._apply(entries)
                continue
            tries += 1
            if tries > _TRIES:
                raise self._behind()
            self._begin_again(at, stands)

    def _apply(self, entries: Sequence[Entry]) -> None:
        """Do steps that follow what is done; those that another process has done are left out."""
        done: dict[bytes, Outcome] = {}
        with self._file.transaction() as connection:
            at = self._file.position(connection)
            for entry in entries:
                if entry.n <= at.n:
                    continue
                if entry.n != at.n + 1:
                    break
                body, outcome = self.steps.do(connection, entry)
                if entry.mark in self._waited:
                    done[entry.mark] = outcome
                elif body is not None and body.replica == self._file.name:
                    _keep(connection, entry, outcome)
                at = Position(entry.n, entry.mark)
            self._file.reach(connection, at)
        for mark, outcome in done.items():
            if mark in self._waited:
                self._waited[mark] = outcome

    def _begin_again(self, at: Position, stands: int) -> None:
        """What comes next is not in the log: begin with a copy. Where the log went back, what it
        has not any more is lost, but where it has nothing at all: then it goes on from this
        replica."""
        name, upto = self._log.copy()
        if stands != BEGINS_WITH_COPY:
            if not name and self._seed(at):
                return
            error = BufferUnavailable(
                f"The server {self._log.name} has lost steps of the hot rows of tables: what was accepted "
                f"last, up to step {at.n}, may be missing.",
                remedy="insert again what is missing; see what the server's durability is (docs: run on Redis).",
            )
            log.error("table_log_went_back", server=self._log.name, number=at.n)
            self._on_problem(error)
        with suppress(CopyGone), self._file.transaction() as connection:
            now = self._file.position(connection)
            if now != at:
                return  # another process was quicker
            mark = self._copies.load(connection, name)
            self._file.began_again(connection, Position(upto, mark))
        self._file.forget_known()

    def _seed(self, at: Position) -> bool:
        if self._log.after(Position())[1] > 0:
            return False
        name, made = self._copies.make()
        if made == at and self._log.seed(name, made):
            return True
        self._copies.remove(name)
        return False

    def scrub(self) -> None:
        """No byte of what was erased on another host is left in this replica. Tried again later
        where somebody reads."""
        with self._file.read() as connection:
            (due,) = connection.execute("SELECT scrubs FROM hot_replica").fetchone()
        if due and scrub(self._file.path, kind=TABLES, patience_s=1.0):
            self._file.mapped.forget()
            with self._file.transaction() as connection:
                connection.execute("UPDATE hot_replica SET scrubs = 0")

    @staticmethod
    def _behind() -> BufferUnavailable:
        return BufferUnavailable(
            "The hot rows of tables can't be brought up to those of the other hosts.",
            remedy="try again; if it stays so, see the storage of tables and the Redis server.",
        )


def _keep(connection: sqlite3.Connection, entry: Entry, outcome: Outcome) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO hot_results (n, mark, result) VALUES (?, ?, ?)",
        (entry.n, entry.mark, ormsgpack.packb([outcome.result, outcome.refusal])),
    )
    if entry.n % 256 == 0:
        connection.execute("DELETE FROM hot_results WHERE n <= ?", (entry.n - _RESULTS,))
