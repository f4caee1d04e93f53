"""All of a user's data in one archive: what an erasure removes (`app/erasure.py`), an export has.

A ZIP file of lines of JSON, rows of tables as Parquet, and a manifest with counts and digests. It is written piece by
piece, and is there when it is complete. What can't be in it is named in the manifest.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from surgetank.app.aside import file_aside, scratch_beside
from surgetank.app.erasure import erasure_of
from surgetank.app.stored_threads import StoredThreads
from surgetank.app.table_files import ExportWishes, export_table
from surgetank.database.queries import queries
from surgetank.encode import jsontext, limits
from surgetank.encode.plain import to_plain
from surgetank.exceptions import NotFound
from surgetank.model import FlushJob
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.workflows.store.scope import Scope, range_of

if TYPE_CHECKING:
    from surgetank.app.assembly import Parts

SQL = queries("app/user_export.sql")
_ABOUT: Mapping[str, str] = {
    "threads": "the user's threads, as the database has them",
    "thread_status": "how they are with their runs",
    "logs": "lines of their logs, and the user's lines in threads of others",
    "workflows": "chains of runs",
    "runs": "runs in the user's threads, started or cancelled by the user",
    "approvals": "questions in the user's threads, or answered by or assigned to the user",
    "errors": "system errors that concern the user's threads or name the user",
    "error_audit": "what the user did about errors",
    "audit": "what the user did, and what was done with the user's threads",
    "webhooks": "webhooks of the user's runs",
    "assistants": "the user's assistants",
    "assistant_versions": "their versions",
    "crons": "the user's crons",
    "store": "the user's part of the store",
    "tokens": "tokens, without what could be used to log in",
    "answers": "answers that were kept for an Idempotency-Key (base64)",
    "rates": "how many runs the user had accepted lately",
    "analysts": "analysts who see the user's data",
    "owned_tables": "tables that the user made",
}
_NOT_INCLUDED = (
    "backups, archives and log files of PostgreSQL and of the application, and alerts that were sent",
    "what could not be flushed to the database and is no event: run `surgetank flush` first",
    "what other buffers of this database still hold",
)
_AT_ONCE = 500
_HISTORY = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ExportedMember:
    """One file of an archive."""

    name: str
    about: str
    rows: int
    bytes: int
    sha256: str


@dataclass(slots=True)
class UserExport:
    """What an archive of a user's data has; `not_included` says what it can't have."""

    user: str
    path: Path
    exported_at: str
    threads: int = 0
    flushed: bool = True
    members: list[ExportedMember] = field(default_factory=list)
    not_included: tuple[str, ...] = _NOT_INCLUDED

    @property
    def rows(self) -> int:
        """All lines and rows together."""
        return sum(member.rows for member in self.members)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


Progress = Callable[[str, int], None]


class UserExporter:
    """Exports users of one engine. `flush` flushes everything."""

    def __init__(
        self,
        parts: Parts,
        stored: Callable[[], StoredThreads],
        flush: Callable[[], FlushJob],
        *,
        other_saver: bool = False,
    ) -> None:
        self._parts, self._stored, self._flush = parts, stored, flush
        self._other_saver = other_saver

    def export(
        self,
        user: str,
        target: Path,
        *,
        replace: bool = False,
        progress: Progress | None = None,
    ) -> UserExport:
        """Write the archive. Raises `NotFound` for a user of whom nothing is known,
        `DatabaseUnavailable`, `InvalidRequest`."""
        limits.check_names(user, [("$.user", user)])
        job = self._flush()
        threads = sorted(erasure_of(self._parts, self._flush, other_saver=False).threads_of(user))
        done = UserExport(user, target, datetime.now(UTC).isoformat(timespec="seconds"))
        done.threads, done.flushed = len(threads), job.ok
        if not job.ok:
            done.not_included = (f"the flush before it: {job.result.message}", *_NOT_INCLUDED)
        if self._other_saver:
            done.not_included = ("checkpoints that another saver keeps", *done.not_included)
        with (
            file_aside(target, replace=replace) as path,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive,
        ):
            writing = _Writing(archive, done, progress)
            self._relations(user, threads, writing)
            writing.lines("checkpoints", _CHECKPOINTS, self._checkpoints(threads))
            writing.lines("events", "events that are kept for replay", self._events(threads))
            about = "values as they were before a projection replaced them (debug mode)"
            writing.lines("originals", about, self._originals(threads))
            self._tables(user, writing, target)
            if not done.rows:
                raise NotFound(
                    f"Nothing is known of the user {user!r:.200}.",
                    remedy="check the name, --home and --database-url.",
                )
            writing.manifest()
        return done

    def _relations(self, user: str, threads: list[str], writing: _Writing) -> None:
        settings = self._parts.settings
        given = {
            "user": user,
            "threads": threads,
            "key": settings.owner_key,
            "named": settings.store_scope == "named",
            **range_of(f"{Scope.below(user).root[0]}."),
            **Scope.naming(user).bounds,
        }
        for name, about in _ABOUT.items():
            writing.lines(name, about, self._asked(name, given))

    def _asked(self, name: str, given: Mapping[str, Any]) -> Iterator[bytes]:
        with (
            self._parts.database.long_transaction() as connection,
            connection.cursor(name="export") as cursor,
        ):
            cursor.itersize = _AT_ONCE
            cursor.execute(f"SELECT q.line::text FROM ({SQL[name]}) q (line)".encode(), given)
            for (line,) in cursor:
                yield line.encode()

    def _checkpoints(self, threads: list[str]) -> Iterator[bytes]:
        stored = self._stored()
        for start in range(0, len(threads), _AT_ONCE):
            some = threads[start : start + _AT_ONCE]
            with self._parts.database.asking(patient=True) as connection:
                cold = connection.execute(SQL["namespaces"], {"threads": some}).fetchall()
            with self._parts.buffer.snapshot() as snapshot:
                hot = {(t, ns) for t in some for ns, _ in HotThread(snapshot, t).ids(None)}
            for thread, namespace in sorted(hot.union(map(tuple, cold))):
                seen: set[tuple[str, str]] = set()
                for raw in stored.history(thread, namespace, limit=_HISTORY):
                    yield jsontext.dumps(_shown(raw, seen))

    def _events(self, threads: list[str]) -> Iterator[bytes]:
        events = self._parts.reporting.events
        for thread in threads:
            after = 0
            while True:
                _, found = events.thread_events(thread, after, limit=_AT_ONCE)
                for event in found:
                    yield jsontext.dumps(event.to_dict())
                if len(found) < _AT_ONCE:
                    break
                after = found[-1].seq

    def _originals(self, threads: list[str]) -> Iterator[bytes]:
        for thread in threads:
            for original in self._parts.reporting.events.originals(
                thread_id=thread, limit=_HISTORY
            ):
                yield jsontext.dumps(asdict(original))

    def _tables(self, user: str, writing: _Writing, target: Path) -> None:
        opened = self._parts.tables.if_there()
        if opened is None:
            return
        for table in opened.catalog.tables():
            if not table.by_user:
                continue
            with scratch_beside(target) as folder:
                # Aside first: that begins again where an erasure takes files of the table.
                aside = folder / "rows.parquet"
                wishes = ExportWishes(form="parquet", user=user)
                rows = export_table(opened, table, aside, wishes).rows
                if not rows:
                    continue
                name, about = f"tables/{table.full_name}.parquet", "the user's rows"
                with writing.member(name, about, compressed=False) as member:
                    with aside.open("rb") as file:
                        shutil.copyfileobj(file, cast("Any", member))
                    member.rows = rows


_CHECKPOINTS = (
    "checkpoints, newest first: versions of channels, and values of those versions that stand in "
    "no line before"
)


def _shown(raw: RawCheckpoint, seen: set[tuple[str, str]]) -> dict[str, Any]:
    versions = raw.versions()
    new = [name for name in versions if (name, versions[name]) not in seen and name in raw.blobs]
    seen.update((name, versions[name]) for name in new)
    return {
        "thread_id": raw.thread_id,
        "checkpoint_ns": raw.checkpoint_ns,
        "checkpoint_id": raw.checkpoint_id,
        "parent_id": raw.parent_id,
        "created_at": str(raw.structure.get("ts", "")),
        "metadata": _plain(raw.record.metadata_type, raw.record.metadata),
        "versions": versions,
        "values": {name: _plain(*raw.blobs[name]) for name in new},
        "writes": [
            {
                "task_id": write.task_id,
                "channel": write.record.channel,
                "value": _plain(write.record.type, write.record.data),
            }
            for write in raw.writes
        ],
    }


def _plain(type_: str, data: bytes) -> Any:
    """A value as JSON has it; what only its own serializer reads as base64."""
    try:
        return to_plain(type_, data)
    except Exception:  # noqa: BLE001 - encrypted, or of a foreign serializer
        return {"$type": type_, "$base64": base64.b64encode(data).decode()}


class _Writing:
    """Writes members, one after the other, and notes what is in them."""

    def __init__(
        self, archive: zipfile.ZipFile, done: UserExport, progress: Progress | None
    ) -> None:
        self._archive, self._done, self._progress = archive, done, progress

    def lines(self, name: str, about: str, lines: Iterable[bytes]) -> None:
        """A member of lines of JSON; none where there are none."""
        found = iter(lines)
        first = next(found, None)
        if first is None:
            return
        with self.member(f"{name}.ndjson", about) as member:
            for line in itertools.chain((first,), found):
                member.write(line + b"\n")
                member.rows += 1
                if self._progress is not None and member.rows % _AT_ONCE == 0:
                    self._progress(member.name, member.rows)

    @contextmanager
    def member(self, name: str, about: str, *, compressed: bool = True) -> Iterator[_Member]:
        """A file of the archive."""
        entry = zipfile.ZipInfo(name, datetime.now(UTC).timetuple()[:6])
        entry.compress_type = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
        entry.external_attr = 0o600 << 16
        with self._archive.open(entry, "w", force_zip64=True) as file:
            member = _Member(name, file)
            yield member
        shown = ExportedMember(name, about, member.rows, member.bytes, member.digest.hexdigest())
        self._done.members.append(shown)
        if self._progress is not None:
            self._progress(name, member.rows)

    def manifest(self) -> None:
        """What is in the archive, as its last member."""
        done = self._done.to_dict()
        del done["path"]
        body = {"format": 1, "surgetank": version("surgetank"), **done}
        self._archive.writestr("manifest.json", json.dumps(body, indent=2) + "\n")


class _Member:
    """A file that is written, counted and digested."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self.name, self.rows, self.bytes = name, 0, 0
        self.digest = hashlib.sha256()
        self.closed = False
        self._file = file

    def write(self, data: Any) -> int:
        """Write, as a file does."""
        piece = bytes(data)
        self.digest.update(piece)
        self.bytes += len(piece)
        return self._file.write(piece)

    def tell(self) -> int:
        """How much was written."""
        return self.bytes

    def flush(self) -> None:
        """Nothing is held back."""

    def writable(self) -> bool:
        """It is."""
        return True

    def readable(self) -> bool:
        """It is not."""
        return False

    def seekable(self) -> bool:
        """It is not."""
        return False

    def close(self) -> None:
        """The archive closes it."""
