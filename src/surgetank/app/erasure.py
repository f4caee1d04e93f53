"""Erasing all of a user's data: their threads as wholes, their lines, what errors and jobs say of
them, their tokens.

In steps, each of which can be repeated: a row in PostgreSQL remembers whose threads it is about, so
that an erasure that was killed, or waits for files that are still read, goes on by itself
(`Erasure.go_on`, in the background). At last the files are rewritten, because a deleted row's bytes
stay in its page. What can't be reached from here (archives, backups, other buffers) is named in the
report.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.buffer.binding import Fence
from surgetank.buffer.coordination import Parking
from surgetank.buffer.log import Log, Snapshot
from surgetank.buffer.spilling import Spilling
from surgetank.buffer.upkeep import Erasing
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import jsontext, limits
from surgetank.events.protocol import EventLog
from surgetank.exceptions import Conflict, SurgetankError
from surgetank.model import FlushJob
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import CheckpointRecord
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.checkpoints.maintenance import append_thread_deletion
from surgetank.streams.errors import groups
from surgetank.streams.errors.groups import ErrorReport
from surgetank.telemetry import log
from surgetank.workflows.store.scope import Scope, range_of

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts

SQL, ACCESS = queries("app/erasure.sql"), queries("server/access/threads.sql")
_ALWAYS = (
    "PostgreSQL's write-ahead log and its archives, replicas that lag, and backups of the database",
    "backups, snapshots and copies of the home folder and of the fallback location",
    "log files of the application, and alerts that were sent",
)
_WAITING = "rows of tables that wait on other hosts which share the bucket: erase the user again when they are flushed"
_REPLICAS = "rows of tables in replicas of other hosts: for a second, and where one is stopped until it starts"
_COPIES = "copies of table files on those hosts, for ten minutes"
_ON_SERVER = (
    "the Redis server's snapshots, copies of its files, replicas that lag; and its append-only file where the "
    "buffer's user may not run BGREWRITEAOF"
)
_ROUNDS = 5
_LOCK_S = 10
_AGAIN_S = 300.0  # between two attempts in the background


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What was removed, by kind; `unfinished` says what keeps it from being completed (it goes on
    in the background), `out_of_reach` what can't be removed from here.
    """

    state: str
    threads: int
    removed: dict[str, int] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    out_of_reach: tuple[str, ...] = _ALWAYS

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(slots=True)
class _Progress:
    """The row in PostgreSQL."""

    subject: bytes
    threads: set[str]
    words: set[str]
    removed: dict[str, int]

    def count(self, kind: str, number: int) -> None:
        if number > 0:
            self.removed[kind] = self.removed.get(kind, 0) + number


class ErasedBuffer(Log, Parking, Fence, Erasing, Spilling, Protocol):
    """What an erasure goes through: what waits, is parked, is kept, or was spilled."""


class Erasure:
    """Erases users on one buffer and its database. `flush` flushes everything and returns the job
    that went worst."""

    def __init__(
        self,
        buffer: ErasedBuffer,
        events: EventLog,
        database: Database,
        *,
        owner_key: str,
        forget_events: Callable[[str], None],
        scrub_streams: Callable[[], bool],
        flush: Callable[[], FlushJob],
        clean_spills: Callable[[], object],
        server_log: Path | None,
        other_saver: bool,
        store_named: bool = False,
        erase_tables: Callable[[str], tuple[int, int]] = lambda _: (0, 0),
        beyond: Sequence[str] = (),
    ) -> None:
        self._buffer = buffer
        self._events = events
        self._database = database
        self._key = owner_key
        self._forget_events = forget_events
        self._scrub_streams = scrub_streams
        self._flush = flush
        self._clean_spills = clean_spills
        self._server_log = server_log
        self._other_saver = other_saver
        self._store_named = store_named
        self._erase_tables = erase_tables
        on_server = [_ON_SERVER] if buffer.over_network else []
        self._beyond = (*_ALWAYS, *beyond, *on_server)

    def erase(self, user: str, by: str = "application") -> ErasureReport:
        """Erase a user's data. Idempotent; killed on the way, it goes on when it is called again.
        The audit says who (`by`) began it.

        Raises `DatabaseUnavailable` (nothing was begun, or it stays `running`), `EntryRejected` for
        a name that can't be one.
        """
        limits.check_names(user, [("$.user", user)])
        progress = self._begin(user, by)
        unfinished: list[str] = []
        for _ in range(_ROUNDS):
            unfinished = self._remove(user, progress)
            # what was written meanwhile is removed in another round
            if unfinished or not self.threads_of(user):
                break
        unfinished += self._remove_from_tables(user, progress)
        unfinished += self._rewrite()
        if unfinished:
            self._note(progress)
        else:
            self._finish(progress)
        log.info("user_erased", threads=len(progress.threads), unfinished=len(unfinished))
        return ErasureReport(
            "running" if unfinished else "completed", len(progress.threads), dict(progress.removed),
            tuple(unfinished), (*self._beyond, *self._elsewhere(user)),
        )  # fmt: skip

    def go_on(self, *, after_s: float = _AGAIN_S) -> list[ErasureReport]:
        """Go on with what was begun through this buffer, is not finished, and was not tried for so
        long. Raises as `erase`."""
        reports: list[ErasureReport] = []
        while found := self._run("claim", buffer_id=self._buffer.id, after_s=after_s):
            (row,) = found
            named = [word for word in row["words"] if _subject(word) == bytes(row["subject"])]
            reports += map(self.erase, named)
        return reports

    # -- the row

    def _begin(self, user: str, by: str) -> _Progress:
        subject = _subject(user)
        (row,) = self._run(
            "begin", subject=subject, user=user, buffer_id=self._buffer.id, actor=by, origin=acting_from.get()
        )  # fmt: skip
        return _Progress(subject, set(row["threads"]), set(row["words"]), dict(row["removed"]))

    def _note(self, progress: _Progress) -> None:
        self._run(
            "note",
            subject=progress.subject,
            threads=sorted(progress.threads),
            words=sorted(progress.words),
            removed=Jsonb(progress.removed),
        )

    def _finish(self, progress: _Progress) -> None:
        self._run("finish", subject=progress.subject, removed=Jsonb(progress.removed))
        self._rewrite_table("erasures")

    # -- finding

    def threads_of(self, user: str) -> set[str]:
        """The user's threads, by the rule of `server.access.visibility`: the first owner that is
        named counts."""
        hot: dict[str, tuple[str | None, bool]] = {}
        with self._buffer.snapshot() as snapshot:
            for name in snapshot.partitions(envelope.STREAM):
                hot[name] = self._hot_owner(snapshot, name)
        candidates = {row["thread_id"] for row in self._run("owned", user=user, key=self._key)}
        names = sorted(candidates | {name for name, (owner, _) in hot.items() if owner == user})
        cold: dict[str, str | None] = {}
        with (
            self._database.asking(patient=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            for row in cursor.execute(
                ACCESS["owners"], {"threads": names, "key": self._key}
            ).fetchall():
                if row["there"]:
                    cold[row["thread_id"]] = row["owner"]
        found: set[str] = set()
        for name in names:
            owner, deleted = hot.get(name, (None, False))
            if not deleted and cold.get(name) is not None:
                owner = cold[name]
            if owner == user or (owner is None and name not in cold and name in candidates):
                found.add(name)
        return found

    def _hot_owner(self, snapshot: Snapshot, name: str) -> tuple[str | None, bool]:
        """The first owner that hot checkpoints name, and whether what is cold is about to be
        deleted."""
        thread = HotThread(snapshot, name)
        for ns, checkpoint_id in sorted(thread.ids(None), key=lambda at: (bool(at[0]), at[1])):
            found = thread.find(ns, checkpoint_id)
            metadata = (
                jsontext.loads(CheckpointRecord.unpack(found.value).metadata_json or b"{}")
                if found
                else {}
            )
            if (value := metadata.get(self._key)) is not None:
                return str(value), thread.cold_is_deleted
        return None, thread.cold_is_deleted

    # -- removing

    def _remove(self, user: str, progress: _Progress) -> list[str]:
        """One round; what is not finished."""
        self._forget_events("")  # errors that were only counted become entries
        job = self._flush()  # what waits is in the database then, where it is found by what it says
        progress.threads |= self.threads_of(user)
        threads = sorted(progress.threads)
        words = self._run("error_words", threads=threads, user=user, key=self._key)
        progress.words |= {row["word"] for row in words if row["word"]}
        self._note(progress)
        # Before the deletion, which takes away by what they are found.
        arguments = {
            "user": user,
            "key": self._key,
            "threads": threads,
            "words": sorted(progress.words),
        }
        progress.count("texts of errors", self._execute(SQL["errors"], arguments))
        for thread in threads:
            append_thread_deletion(self._buffer, thread, forget_events=self._forget_events)
        self._forget_parked_errors(set(threads), user)
        self._remove_rows(user, progress, threads)
        job = self._flush()
        self._clean_spills()
        partitions, waiting = self._buffer.erase(threads, sorted(progress.words | progress.threads))
        progress.count("partitions of the buffer", partitions)
        self._events.erase(threads, sorted(progress.words | progress.threads))
        if waiting:
            said = job.result.message or "; ".join(job.warnings) or "another worker holds them"
            return [
                (
                    f"{len(waiting)} threads could not be deleted in the database yet: "
                    f"{str(said)[:500]}"
                )
            ]
        self._remove_names(progress, threads)
        return []

    def _remove_from_tables(self, user: str, progress: _Progress) -> list[str]:
        try:
            rows, pending = self._erase_tables(user)
        except Conflict as error:  # the files are in another home's folder
            return [f"{error.what} Erase the user there as well"]
        progress.count("rows of tables", rows)
        if not pending:
            return []
        kept = f"{pending} old files of tables are kept for a quarter of an hour, for who is reading them"
        return [f"{kept}; it is finished in the background then"]

    def _remove_rows(self, user: str, progress: _Progress, threads: list[str]) -> None:
        arguments = {"user": user, "key": self._key, "threads": threads}
        lines = self._run("lines", **arguments)
        progress.count("lines of logs", len(lines))
        by_thread: dict[str, list[int]] = {}
        for line in lines:
            by_thread.setdefault(line["thread_id"], []).append(line["seq"])
        for thread, numbers in by_thread.items():
            self._events.forget_lines(thread, numbers)
        for name, kind in (
            ("error_people", "names in errors"), ("answers", "kept answers"),
            ("tokens", "tokens"), ("token_people", "names in tokens"),
            ("run_people", "names in runs"),
            ("approval_people", "names in approvals"), ("audit_people", "names in the audit"),
            ("audit_threads", "names in the audit"), ("rates", "counts of runs"), ("webhooks", "webhooks"),
            ("webhook_people", "names in webhooks"), ("assistants", "assistants"), ("crons", "crons"),
            ("analyst_users", "names given to analysts"), ("table_owners", "owners of tables"),
        ):  # fmt: skip
            progress.count(kind, self._execute(SQL[name], arguments))
        progress.count(
            "items of the store", self._execute(SQL["store_items"], self._in_store(user))
        )

    def _in_store(self, user: str) -> dict[str, Any]:
        """The user's part of the store; with the scope `named` also what has their name."""
        path = f"{Scope.below(user).root[0]}."
        return {
            **range_of(path),
            **Scope.naming(user).bounds,
            "named": self._store_named,
        }

    def _remove_names(self, progress: _Progress, threads: list[str]) -> None:
        """Rows of any table that name the threads: how far they were written, that they were
        deleted ..."""
        for row in self._run("naming_threads"):
            table, column = (
                sql.Identifier("surgetank", row["table_name"]),
                sql.Identifier(row["column_name"]),
            )
            named = sql.SQL(" WHERE {} = ANY (%(threads)s)").format(column)
            if row["by_buffer"]:
                named += sql.SQL(" AND buffer_id = %(buffer_id)s")
            change = sql.SQL("DELETE FROM {}").format(table)
            # how far retention has looked: it begins again
            if row["column_name"] == "last_thread_id":
                change = sql.SQL("UPDATE {} SET {} = NULL").format(table, column)
            arguments = {"threads": threads, "buffer_id": self._buffer.id}
            progress.count("rows that name threads", self._execute(change + named, arguments))

    def _forget_parked_errors(self, threads: set[str], user: str) -> None:
        for parked in self._buffer.parked(stream=groups.STREAM):
            entry = self._buffer.parked_entry(parked.id)
            items = [groups.unpack_or_show("", r.value) for r in entry.records] if entry else []
            if any(
                isinstance(i, ErrorReport)
                and (i.thread_id in threads or i.context.get(self._key) == user)
                for i in items
            ):
                self._buffer.discard_parked([parked.id])

    # -- rewriting

    def _rewrite(self) -> list[str]:
        """Write the files anew; what could not be."""
        unfinished: list[str] = []
        self._buffer.forget_kept(all_=True)  # errors and lines that were acknowledged a moment ago
        for what, rewritten in (
            ("buffer", self._buffer.scrub()),
            ("event log", self._events.scrub()),
            ("stream log", self._scrub_streams()),
        ):
            if not rewritten:
                unfinished.append(
                    f"the {what}'s file is always in use: what was removed could not be emptied out of it"
                )
        left = [file.name for file in self._buffer.spill_files() if file.records]
        if left:
            unfinished.append(
                f"spill files hold what waits for the database: {', '.join(left[:10])}"
            )
        if self._server_log is not None and self._server_log.exists():
            # the server appends: it goes on at the new end
            with self._server_log.open("r+b") as file:
                file.truncate(0)
        for row in self._run("tables"):
            problem = self._rewrite_table(row["table_name"])
            unfinished += [problem] if problem else []
        return unfinished

    def _rewrite_table(self, name: str) -> str | None:
        table = sql.Identifier("surgetank", name)
        try:
            # not to wait for ever for somebody who holds it
            with self._database.asking(patient=True) as connection:
                connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_S}s'".encode())
                connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table))
            with self._database.long_statements() as connection:
                connection.execute(sql.SQL("VACUUM (FULL, ANALYZE) {}").format(table))
        except SurgetankError as error:
            return f"the table {name} could not be rewritten: {error.what}"
        return None

    def _elsewhere(self, user: str) -> Iterable[str]:
        for what, query in (
            (
                "the planner's statistics (pg_statistic), until PostgreSQL rewrites them",
                "VACUUM FULL pg_catalog.pg_statistic",
            ),
            ("the old files of rewritten tables, until PostgreSQL's next checkpoint", "CHECKPOINT"),
        ):  # fmt: skip
            try:
                with self._database.long_statements() as connection:
                    connection.execute(query.encode())
            except SurgetankError:
                yield what
        others = [row["buffer_id"] for row in self._run("other_buffers", buffer_id=self._buffer.id)]
        if others:
            yield f"other buffers of this database, where it has to be run as well: {', '.join(others[:20])}"
        if self._run("store_named", **self._in_store(user)):
            yield "what graphs keep in the store, in namespaces that name the user: they delete it"
        if self._other_saver:
            yield "checkpoints that another saver keeps, unless they were in this buffer"

    # -- queries

    def _run(self, name: str, **arguments: Any) -> list[dict[str, Any]]:
        with (
            self._database.asking(patient=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            cursor.execute(SQL[name], arguments)
            return cursor.fetchall() if cursor.description is not None else []

    def _execute(self, query: Any, arguments: dict[str, Any]) -> int:
        with self._database.asking(patient=True) as connection:
            return max(0, connection.execute(query, arguments).rowcount)


def _subject(user: str) -> bytes:
    return hashlib.sha256(user.encode()).digest()


def erasure_of(parts: Parts, flush: Callable[[], FlushJob], *, other_saver: bool) -> Erasure:
    """The erasure on an open engine's parts."""
    hosts = _REPLICAS if parts.settings.buffer_is_shared else _WAITING
    return Erasure(
        parts.buffer,
        parts.reporting.events,
        parts.database,
        owner_key=parts.settings.owner_key,
        forget_events=parts.reporting.forget_thread,
        scrub_streams=parts.run_room.scrub,
        flush=flush,
        clean_spills=parts.spills.clean,
        server_log=parts.embedded.log_path if parts.embedded is not None else None,
        other_saver=other_saver,
        store_named=parts.settings.store_scope == "named",
        erase_tables=parts.erase_tables,
        beyond=() if parts.settings.tables_url is None else (hosts, _COPIES),
    )
