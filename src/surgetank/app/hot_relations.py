"""What waits in the buffer of what agents did, as rows of the schema `system`.

The buffer is looked at before the database: what is flushed meanwhile is there then, and a row that is in both is
known by its key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from surgetank.buffer.log import Log, Snapshot
from surgetank.encode import jsontext
from surgetank.exceptions import QuotaExceeded
from surgetank.streams.checkpoints.cold import projection
from surgetank.streams.checkpoints.envelope import (
    OPERATION_KEY,
    STREAM,
    CheckpointRecord,
    read_structure,
)
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.errors.groups import ErrorGroup
from surgetank.streams.errors.store import SystemErrors
from surgetank.streams.logs import line as logs

if TYPE_CHECKING:
    from surgetank.app.hot_threads import HotPart
    from surgetank.app.threads import Threads

Row = Mapping[str, Any]
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # PostgreSQL's
_EPOCH_S = _EPOCH.timestamp()
MOST_ROWS = 100_000  # that wait, for one query
MOST_STATES = 1_000  # each is put together from buffer and database


@dataclass(slots=True)
class HotRows:
    """Rows by their key. A row is laid over the one of its key in the database. `needs` are the
    columns that are asked of the database for that; what it has of `deleted` threads is about to
    go, as are the rows with the keys in `gone`."""

    key: tuple[str, ...]
    needs: tuple[str, ...]
    rows: dict[tuple[Any, ...], dict[str, Any]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    gone: set[tuple[Any, ...]] = field(default_factory=set)
    newest: dict[str, str] = field(default_factory=dict)  # of each thread, in its root namespace

    def add(self, key: tuple[Any, ...], row: dict[str, Any]) -> None:
        """A row. Raises `QuotaExceeded` for more than one query is given."""
        self.rows[key] = row
        if len(self.rows) > MOST_ROWS:
            raise QuotaExceeded(
                f"More than {MOST_ROWS:,} of these rows wait in the buffer, too many for one query.",
                remedy="name a thread (WHERE thread_id = ...), or flush.",
            )

    def merged(self, cold: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The rows of the database with what is hot over them, then what is hot only."""
        left = dict(self.rows)
        for row in cold:
            key = tuple(row[name] for name in self.key)
            thread, over = row.get("thread_id"), left.pop(key, None)
            if over is None and (thread in self.deleted or key in self.gone):
                continue
            newest, known = self.newest.get(thread or ""), row.get("checkpoint_id") or ""
            if newest is not None and newest > known and "state" in row:
                row["state"] = None  # it is that of a newer one
            elif newest is not None and newest < known and self.key == ("thread_id",):
                over = None  # another buffer went on with the thread
            if over is not None and over.get("owner") is not None and thread not in self.deleted:
                over = {**over, "owner": row.get("owner") or over["owner"]}  # who was first
            yield row if over is None else {**row, **over}
        yield from left.values()


class HotRelations:
    """Reads them. States and owners of threads, which cost more, are read where somebody `wants`
    these columns."""

    def __init__(self, buffer: Log, threads: Threads, errors: SystemErrors) -> None:
        self._buffer = buffer
        self._threads = threads
        self._errors = errors

    def find(
        self, name: str, *, threads: Collection[str] | None, wants: Callable[[str], bool]
    ) -> HotRows | None:
        """What is hot of a relation, of some threads or of all; None where nothing can be."""
        match name:
            case "threads":
                return self._hot_threads(threads, wants)
            case "checkpoints":
                return self._checkpoints(threads, state=wants("state"))
            case "thread_logs":
                return self._lines(threads)
            case "system_errors":
                return self._groups(threads)
        return None

    def parts(self, threads: Collection[str] | None) -> dict[str, HotPart]:
        """The hot part of these threads, or of all: whose they are, and whether what the database
        has is about to go."""
        if threads is None:
            with self._buffer.snapshot() as snapshot:
                threads = snapshot.partitions(STREAM)
        with self._threads.hot().at_one_moment() as one:
            return {name: one(name).part() for name in threads}

    # -- by relation

    def _hot_threads(
        self, threads: Collection[str] | None, wants: Callable[[str], bool]
    ) -> HotRows:
        found = HotRows(("thread_id",), ("thread_id", "checkpoint_id"))
        with self._buffer.snapshot() as snapshot:
            for name in _partitions(snapshot, STREAM, threads):
                hot = HotThread(snapshot, name)
                if hot.cold_is_deleted:
                    found.deleted.add(name)
                newest = hot.find("", None)
                if newest is None:
                    if hot.ids(None):
                        found.add((name,), {"thread_id": name})
                    continue
                id_ = newest.key.rpartition(b"\0")[2].decode()
                at = _written(CheckpointRecord.unpack(newest.value))
                row = {"thread_id": name, "checkpoint_id": id_, "updated_at": at}
                found.add((name,), row)
                found.newest[name] = id_
        if wants("state"):
            for name, text in self._states(found.newest).items():
                found.rows[name,]["state"] = text
        if wants("owner"):
            for name, part in self.parts([name for (name,) in found.rows]).items():
                found.rows[name,]["owner"] = part.owner
        return found

    def _checkpoints(self, threads: Collection[str] | None, *, state: bool) -> HotRows:
        key = ("thread_id", "checkpoint_ns", "checkpoint_id")
        found = HotRows(key, key)
        with self._buffer.snapshot() as snapshot:
            for name in _partitions(snapshot, STREAM, threads):
                hot = HotThread(snapshot, name)
                if hot.cold_is_deleted:
                    found.deleted.add(name)
                found.gone |= {(name, ns, id_) for ns, id_ in hot.hidden_refs()}
                for ns, id_ in hot.ids(None):
                    record = hot.find(ns, id_)
                    if record is None:
                        continue
                    if ns == "":
                        found.newest.setdefault(name, id_)  # they come newest first
                    at = (name, ns, id_)
                    shown = _shown(CheckpointRecord.unpack(record.value))
                    found.add(at, {**dict(zip(key, at, strict=True)), **shown})
        if state:
            for name, text in self._states(found.newest).items():
                found.rows[name, "", found.newest[name]]["state"] = text
        return found

    def _lines(self, threads: Collection[str] | None) -> HotRows:
        key = ("thread_id", "seq", "buffer_id")
        found, buffer = HotRows(key, key), self._buffer.id
        with self._buffer.snapshot() as snapshot:
            for name in _partitions(snapshot, logs.STREAM, threads):
                deletion = snapshot.last(logs.STREAM, name, OPERATION_KEY)
                if deletion is not None:
                    found.deleted.add(name)
                after = deletion.seq if deletion is not None else 0
                for each in snapshot.scan(logs.STREAM, name, logs.KEY, after_seq=after):
                    line = logs.LogLine.unpack_or_show(
                        name, each.value, seq=each.seq, buffer_id=buffer
                    )
                    row = {
                        "thread_id": name, "seq": line.seq, "level": line.level,
                        "created_at": datetime.fromtimestamp(line.at, UTC), "logger": line.logger,
                        "user_id": line.user_id, "message": line.message,
                        "fields": jsontext.dumps(line.fields).decode(), "buffer_id": buffer,
                    }  # fmt: skip
                    found.add((name, line.seq, buffer), row)
        return found

    def _groups(self, threads: Collection[str] | None) -> HotRows:
        found = HotRows(("id",), ("id",))
        for hot in self._errors.hot_groups()[0]:
            if hot.group is None:
                found.gone.add((hot.id,))
            elif threads is None or hot.group.thread_id in threads:
                found.add((hot.id,), _error(hot.group))
            else:
                found.gone.add((hot.id,))  # its newest occurrence is of another thread now
        return found

    def _states(self, newest: Mapping[str, str]) -> dict[str, str]:
        if len(newest) > MOST_STATES:
            raise QuotaExceeded(
                f"The states of {len(newest):,} threads wait in the buffer, too many for one query.",
                remedy="name a thread (WHERE thread_id = ...), leave out the column state, or flush.",
            )
        stored = self._threads.stored()
        read = ((name, stored.read(name, "", id_)) for name, id_ in newest.items())
        return {
            name: projection.state(raw.record.present, raw.blobs).decode()
            for name, raw in read
            if raw is not None  # deleted meanwhile
        }


def _partitions(
    snapshot: Snapshot, stream: str, threads: Collection[str] | None
) -> Collection[str]:
    return snapshot.partitions(stream) if threads is None else threads


def _moment(at: float | None) -> datetime | None:
    """As PostgreSQL's to_timestamp rounds it."""
    return None if at is None else _EPOCH + timedelta(microseconds=round((at - _EPOCH_S) * 1e6))


def _written(record: CheckpointRecord) -> datetime | None:
    """When LangGraph made the checkpoint."""
    try:
        made = datetime.fromisoformat(read_structure(record.structure)["ts"])
    except (ValueError, TypeError, KeyError):
        return None
    return made if made.tzinfo is not None else made.replace(tzinfo=UTC)


def _shown(record: CheckpointRecord) -> dict[str, Any]:
    return {
        "parent_id": record.parent_id,
        "metadata": (record.metadata_json or b"{}").decode(),
        "scalars": (record.scalars_json or b"{}").decode(),
    }


def _error(group: ErrorGroup) -> dict[str, Any]:
    return {
        "id": group.id, "error_type": group.error_type, "severity": group.severity.value, "thread_id": group.thread_id,
        "error_message": group.error_message, "stack_trace": group.stack_trace,
        "error_context": jsontext.dumps(group.error_context).decode(), "created_at": _moment(group.created_at),
        "resolved_at": _moment(group.resolved_at), "resolved_by": group.resolved_by,
        "resolution_notes": group.resolution_notes, "fingerprint": group.fingerprint, "occurrences": group.occurrences,
        "first_seen": _moment(group.created_at), "last_seen": _moment(group.last_seen),
        "regressions": group.regressions, "regressed_at": _moment(group.regressed_at),
        "snoozed_until": _moment(group.snoozed_until), "snoozed_by": group.snoozed_by,
    }  # fmt: skip
