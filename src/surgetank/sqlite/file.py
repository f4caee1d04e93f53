"""The SQLite file under the buffer: opening it, knowing it from a stranger's, and naming its
errors.

One connection writes (under the buffer's lock), a small pool of connections reads. A file that is
not ours, or is damaged, is left exactly as it is.
"""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from surgetank.exceptions import BufferCorrupt, BufferProblem, BufferUnavailable
from surgetank.private import close_file, make_file, make_folder
from surgetank.sqlite.identity import FileIdentity
from surgetank.sqlite.kind import Kind

_MAGIC = b"SQLite format 3\x00"
_SCHEMA_LOST = re.compile(r"no such (table|column|index)|has no column named")
BUSY_TIMEOUT_S = 30.0
TRY_S = 0.002  # how long a write that must not wait waits for another thread or process
HURRIED = f"PRAGMA busy_timeout = {int(1000 * TRY_S)}"
PATIENT = f"PRAGMA busy_timeout = {int(1000 * BUSY_TIMEOUT_S)}"
_WAIT_S = 5.0  # for another reader, where no connection can be made


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite raises into the family's errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except UnicodeDecodeError as error:  # all text in the file was checked when it was written
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, reason: str) -> BufferCorrupt:
    return BufferCorrupt(
        f"The buffer file {path} is damaged ({reason}). It was left as it is.",
        remedy="copy it to a safe place, then run `surgetank doctor`; start with another "
        "SURGETANK_HOME meanwhile.",
    )


@contextmanager
def transaction(writer: sqlite3.Connection) -> Iterator[None]:
    """A writing transaction: committed at the end, rolled back on an error."""
    writer.execute("BEGIN IMMEDIATE")
    try:
        yield
        writer.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # the error on its way out says why
            writer.execute("ROLLBACK")
        raise


def translate(error: sqlite3.Error, path: Path) -> BufferProblem:
    """The family's error for what SQLite raised."""
    text = str(error)
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or text.startswith(
        "Could not decode to UTF-8"
    ):
        return _damaged(path, text)
    # All that is written was checked: what contradicts the file's own rules is the file.
    if isinstance(error, sqlite3.IntegrityError) or _SCHEMA_LOST.search(text):
        return _damaged(path, text)
    if name.startswith("SQLITE_FULL"):
        return BufferUnavailable(
            f"The disk that holds the buffer {path} is full; the write was not accepted.",
            remedy="free some space or move SURGETANK_HOME to a larger disk; nothing accepted "
            "before is lost.",
        )
    if name.startswith("SQLITE_BUSY"):
        return BufferUnavailable(
            f"The buffer {path} was locked by another process for {BUSY_TIMEOUT_S:.0f} s.",
            remedy="find the process that holds it (a stopped debugger, a backup) and let it go "
            "on.",
        )
    return BufferUnavailable(
        f"The buffer {path} can't be used ({text}).",
        remedy="check that its folder exists, is writable by this user, and lies on a healthy "
        "local disk.",
    )


def is_busy(error: BaseException | None) -> bool:
    """Whether another process held the file."""
    return name_of(error).startswith("SQLITE_BUSY")


def name_of(error: BaseException | None) -> str:
    """What SQLite calls an error; empty for one that is not SQLite's."""
    return getattr(error, "sqlite_errorname", None) or ""


def refuse_fork(owner_pid: int, path: Path) -> None:
    """Raise in a forked child: SQLite's connections and our locks must not be carried over a
    fork."""
    if owner_pid != os.getpid():
        raise BufferUnavailable(
            f"The buffer {path} was opened before this process was forked.",
            remedy="open Surgetank in the child process (for gunicorn: in post_fork, or without "
            "--preload).",
        )


class _Connection(sqlite3.Connection):
    """A connection that is counted while it is open: see `_refuse_foreign_bytes`."""

    file: tuple[int, int] | None = None

    def close(self) -> None:
        super().close()
        file, self.file = self.file, None
        if file is not None:
            with _opening:
                _open_files[file] -= 1


_opening = threading.RLock()
_open_files: Counter[tuple[int, int]] = Counter()  # by device and inode
os.register_at_fork(
    before=_opening.acquire, after_in_parent=_opening.release, after_in_child=_opening.release
)


def connect(path: Path, *, durability: str, kind: Kind) -> sqlite3.Connection:
    """A writing connection on a file of that kind, made if there is none yet, upgraded if it is of
    a format before."""
    try:
        make_folder(path.parent)
    except OSError as error:
        raise BufferUnavailable(
            f"The folder of the buffer {path.parent} can't be made ({error.strerror}).",
            remedy="set SURGETANK_HOME to a folder that this user may write.",
        ) from error
    with named_errors(path):
        with _opening:
            _refuse_foreign_bytes(path)
            _make_private(path)
            connection = _open(path)
        try:
            # First of all: the settings of a new file write into it, and would into a stranger's or
            # a damaged one.
            if _format_of(connection, path, kind) is None:
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(
                f"PRAGMA synchronous = {'FULL' if durability == 'power' else 'NORMAL'}"
            )
            # Moving WAL pages into the file is `maintain`'s work; 256 MiB is the brake if nobody
            # maintains.
            connection.execute("PRAGMA wal_autocheckpoint = 65536")
            connection.execute("PRAGMA cache_size = -16384")
            _ensure_schema(connection, path, kind)
            for ours in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
                close_file(ours)  # an older version, or a copy, may have left them open
        except BaseException:
            connection.close()
            raise
    return connection


def _make_private(path: Path) -> None:
    """SQLite would make the file as the umask says. Its WAL and index get the mode of the file."""
    try:
        make_file(path)
    except OSError as error:
        raise BufferUnavailable(
            f"The buffer file {path} can't be made ({error.strerror}).",
            remedy="set SURGETANK_HOME to a folder on a disk with space, which this user may "
            "write.",
        ) from error


def _open(path: Path) -> sqlite3.Connection:
    with _opening:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S, cached_statements=256,
            factory=_Connection,
        )  # fmt: skip
        connection.file = _identity(path)
        if connection.file is not None:
            _open_files[connection.file] += 1
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _refuse_foreign_bytes(path: Path) -> None:
    # Closing any descriptor of a file gives up all POSIX locks that this process has on it
    # (fcntl(2)). If SQLite had it open, another process would then see no user, and delete the WAL
    # that we go on writing to.
    known = _identity(path)
    if known is not None and _open_files[known] > 0:
        return  # it was recognized when it was opened
    try:
        with path.open("rb") as file:
            head = file.read(len(_MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        raise BufferUnavailable(
            f"The buffer file {path} can't be opened ({error.strerror}).",
            remedy="set SURGETANK_HOME to a folder that this user may write.",
        ) from error
    if head and head != _MAGIC:
        raise BufferCorrupt(
            f"{path} is not a Surgetank buffer (it is no SQLite file). It was left as it is.",
            remedy="move it away, or set SURGETANK_HOME or the buffer URL to another place.",
        )


def _ensure_schema(connection: sqlite3.Connection, path: Path, kind: Kind) -> None:
    if _format_of(connection, path, kind) == kind.version:
        return
    with transaction(connection):
        version = _format_of(connection, path, kind)  # another process may have been quicker
        if version is None:
            _run(connection, kind.schema)
            connection.execute(
                "INSERT INTO identity (id, buffer_id) VALUES (1, ?)", (uuid.uuid4().hex,)
            )
            connection.execute(f"PRAGMA application_id = {kind.application_id}")
        else:
            for script in kind.path_from(version) or ():
                _run(connection, script)
        connection.execute(f"PRAGMA user_version = {kind.version}")


def _run(connection: sqlite3.Connection, script: str) -> None:
    for statement in _statements(script):
        connection.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """Single statements, so that they can stand in a transaction (`executescript` would commit
    it)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""


def _format_of(connection: sqlite3.Connection, path: Path, kind: Kind) -> int | None:
    """The format of a file of ours, None for a new one; raises for anybody else's, and for what
    can't be read."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application == kind.application_id:
        if version > kind.version:
            raise BufferCorrupt(
                f"The {kind.what} {path} has format {version}, of a newer Surgetank; this one "
                f"reads up to"
                f" {kind.version}. It was left as it is.",
                remedy="use the newer Surgetank again (`pip install --upgrade surgetank`), at "
                "least to drain it"
                " (`surgetank flush`); or set SURGETANK_HOME to another folder.",
            )
        if kind.path_from(version) is None:
            raise BufferCorrupt(
                f"The {kind.what} {path} has format {version}, from which no way leads to format "
                f"{kind.version}.",
                remedy="use the Surgetank version that wrote it to drain it (`surgetank flush`), "
                "then upgrade.",
            )
        return int(version)
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if application or tables:
        raise BufferCorrupt(
            f"{path} is a SQLite file of another program. It was left as it is.",
            remedy="set SURGETANK_HOME or the buffer URL to another place.",
        )
    return None


class ReadPool:
    """Read connections, borrowed by one caller at a time and kept for the next."""

    def __init__(self, path: Path, identity: FileIdentity | None = None) -> None:
        self._path = path
        self._pid = os.getpid()
        self._identity = identity
        self._idle: list[sqlite3.Connection] = []
        self._lock = threading.Condition()
        self._closed = False

    @contextmanager
    def borrow(self) -> Iterator[sqlite3.Connection]:
        """A connection with an open read transaction, so that all its reads see one moment."""
        refuse_fork(self._pid, self._path)
        with named_errors(self._path):
            connection = self._take()
            broken = True
            try:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
                broken = False
            finally:
                self._give(connection, broken=broken)

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise BufferUnavailable(
                    f"The buffer {self._path} is closed.",
                    remedy="open Surgetank again before you use its saver.",
                )
            if (
                not self._idle
                and self._identity is not None
                and self._identity.missing() is not None
            ):
                # Another connection would be one on another file: there are only those that are
                # open.
                self._lock.wait_for(lambda: bool(self._idle or self._closed), _WAIT_S)
                if not self._idle:
                    problem = self._identity.problem()
                    assert problem is not None
                    raise problem
            if self._idle:
                return self._idle.pop()
        connection = _open(self._path)
        connection.execute("PRAGMA query_only = ON")
        return connection

    def _give(self, connection: sqlite3.Connection, *, broken: bool) -> None:
        with self._lock:
            if not (broken or self._closed) and len(self._idle) < 16:
                self._idle.append(connection)
                self._lock.notify()
                return
        connection.close()

    def close(self) -> None:
        """Close the idle connections; borrowed ones close when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
