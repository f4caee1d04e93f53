"""One child that runs SQL, as its parent sees it: start it, ask it, kill it when its time is over.

The caller's thread drives the pipes with deadlines; no thread of ours watches. A child that did not come to a
clean end is killed, never used again.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgetank.bounded import BoundedMap
from surgetank.exceptions import InvalidRequest, QuotaExceeded, SurgetankError
from surgetank.streams.tables.query.frames import (
    HEAD,
    Frame,
    gathered,
    head,
    opened,
    packed,
    pieces,
    unpacked,
)
from surgetank.streams.tables.query.names import Equal, Reference
from surgetank.streams.tables.query.parameters import Parameters, written

if TYPE_CHECKING:
    import pyarrow as pa

_PIPE_BYTES = 1 << 20  # where the system allows it: a batch is written at once
_START_S = 60.0  # longest start of a process, on a machine that is busy
_GRACE_S = 0.5  # after its limit a query is given so long to end by itself
_MOST_KNOWN = 2048  # characters of a text that is remembered
_MOST_KNOWN_BYTES = 4 * 1024**2  # about, of all that is
_WATCH_S = 0.05  # how often memory is looked at where the system doesn't hold the limit
_MODULE = "surgetank.streams.tables.query.child"
_BEGIN = f"import sys; sys.path[:] = {{path!r}}; from {_MODULE} import main; main()"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one query may take. Seconds, rows and bytes; `memory_bytes` is what its process may
    have beyond what it has before."""

    time_s: float = 10.0
    rows: int = 100_000
    bytes: int = 32 * 1024**2
    sent_bytes: int = 256 * 1024**2
    memory_bytes: int = 768 * 1024**2


@dataclass(frozen=True, slots=True)
class Answer:
    """What a query gives. `types` are those of SQL. `cut` is `rows` or `bytes` where a limit ended
    it before its end. `stale` tells that the database is away, and the rows are as they were
    mirrored last."""

    table: pa.Table
    types: tuple[str, ...]
    cut: str | None = None
    stale: bool = False


class KnownNames:
    """What texts name, as a child found it: of the same text of the same user it is known before it
    is asked again. It can only choose among what the caller may read. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: BoundedMap[tuple[str, str], tuple[Reference, ...]] = BoundedMap(
            most_weight=_MOST_KNOWN_BYTES, weigh=_weight
        )

    def find(self, user: str, text: str) -> tuple[Reference, ...] | None:
        """The tables that a text names, if it was run before."""
        with self._lock:
            return self._known.use((user, text))

    def keep(self, user: str, text: str, names: tuple[Reference, ...]) -> None:
        """What a child said."""
        if len(text) <= _MOST_KNOWN:
            with self._lock:
                self._known[user, text] = names


def _weight(names: tuple[Reference, ...]) -> int:
    return 2 * _MOST_KNOWN + sum(300 + 100 * len(each.columns) for each in names)


class ChildEnded(Exception):
    """A child ended, or was killed, without a word about the query."""


class _Unanswered(Exception):
    """Who was asked for rows has none to give, for this reason. The child forgot the query."""

    def __init__(self, error: SurgetankError) -> None:
        super().__init__(error)
        self.error = error


class StatementRefused(InvalidRequest):
    """A statement that can't be run. `position` is where in its text, in bytes, if that is known."""

    def __init__(self, message: str, position: int | None = None) -> None:
        line = message.strip().replace("\n", " ")
        line += "" if line.endswith((".", "!", "?")) else "."
        super().__init__(line, remedy="change the statement.")
        self.position = position


class ChildProcess:
    """A child between its start and its end. Not for two threads at once, but for `kill`."""

    def __init__(self, memory_bytes: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._memory_bytes = memory_bytes
        self._deadline = clock() + _START_S
        self._confined: bool | None = None
        self.queries = 0
        self.user: str | None = None  # of the last query
        self.worn = False
        self._given = False  # all that the query needs, and the child has begun with it
        self._named: tuple[Reference, ...] = ()  # by the last query that was not known
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-I", "-c", _BEGIN.format(path=sys.path), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"MALLOC_ARENA_MAX": "2", "TZ": "UTC", "LC_ALL": "C.UTF-8"},
            pipesize=_PIPE_BYTES,
            start_new_session=True,  # Ctrl-C is for the parent
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def run(
        self,
        text: str,
        *,
        user: str,
        parameters: Parameters | None,
        limits: Limits,
        tables: Callable[[Reference], pa.RecordBatchReader | None],
        names: KnownNames | None = None,
    ) -> Answer:
        """Run one SELECT of a user. `tables` is asked for the rows of each table that it names; None: there
        is none. Raises `InvalidRequest` for what is wrong with the query, `QuotaExceeded` where it
        needs more than it may, `ChildEnded` where the child is gone and the query did nothing.
        """
        done = False
        try:
            self._begin()
            self.queries += 1
            self._deadline = self._clock() + limits.time_s + _GRACE_S
            self.user = user
            known = names.find(user, text) if names is not None else None
            query = _query(text, user, parameters, limits, known=known is not None)
            answer = self._ask(query, limits, tables, known)
            done = True
            if names is not None and known is None and isinstance(answer, Answer):
                names.keep(user, text, self._named)
        except TimeoutError:
            raise _too_long(limits) from None
        except _Unanswered as unanswered:
            done = True
            raise unanswered.error from None
        finally:
            if not done:  # whatever it does now, nobody will read it
                self.kill()
        if isinstance(answer, Answer):
            return answer
        self.worn = bool(answer["worn"]) or answer["kind"] == "memory"
        raise _refusal(answer, limits, self._memory_bytes)

    def kill(self) -> None:
        """End it at once. Idempotent, for any thread."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)

    def close(self) -> None:
        """End it, and give its pipes back. Nobody may use it any more."""
        self.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _begin(self) -> None:
        if self._confined is not None:
            return
        kind, data = self._receive()
        if kind is not Frame.READY:
            raise ChildEnded
        self._confined = bool(json.loads(data)["confined"])

    def _ask(
        self,
        query: bytes,
        limits: Limits,
        tables: Callable[[Reference], pa.RecordBatchReader | None],
        known: tuple[Reference, ...] | None,
    ) -> Answer | Mapping[str, Any]:
        """The answer, or what the child says of its failure. What is `known` of the text is not
        waited for: the child reads it while its rows are read here."""
        self._given = False
        self._send(Frame.QUERY, query)
        if known is not None:
            try:
                self._send_tables(known, limits, tables)
            except _Unanswered:
                self._receive()  # that it has read the text: after it the child is free again
                raise
        kind, data = self._receive()
        if kind is Frame.FAILED:
            return _failure(data)
        if known is None:
            self._named = _references(data)
            self._send_tables(self._named, limits, tables)
        self._given = True
        kind, data = self._receive()
        if kind is Frame.FAILED:
            return _failure(data)
        described = json.loads(data)
        schema, _ = unpacked(self._receive()[1])
        batches: list[pa.RecordBatch] = []
        taken = 0
        while True:
            kind, data = self._receive()
            taken += len(data)
            if kind is Frame.FAILED:
                return _failure(data)
            if kind is Frame.DONE:
                break
            if kind is not Frame.BATCH or taken > 2 * limits.bytes + (1 << 20):
                raise ChildEnded
            batches += unpacked(data)[1]
        end = json.loads(data)
        self.worn = bool(end["worn"])
        import pyarrow as pa  # noqa: PLC0415 - an extra

        table = pa.Table.from_batches(batches, schema)
        return Answer(table, tuple(described["types"]), end["cut"])

    def _send_tables(
        self,
        references: Iterable[Reference],
        limits: Limits,
        tables: Callable[[Reference], pa.RecordBatchReader | None],
    ) -> None:
        sent = 0
        for reference in references:
            try:
                rows = tables(reference)
            except SurgetankError as error:
                self._send(Frame.STOP, b"")
                raise _Unanswered(error) from error
            if rows is None:
                continue  # DuckDB itself says that there is no such table
            header = {"schema": reference.schema, "name": reference.name}
            self._send(Frame.TABLE, json.dumps(header).encode())
            self._send(Frame.BATCH, packed(rows.schema, None))
            for batch in gathered(rows.schema, rows):
                for piece in pieces(batch):
                    if piece.num_rows == 0:
                        continue
                    data = packed(rows.schema, piece)
                    sent += data.size
                    if sent > limits.sent_bytes:
                        raise QuotaExceeded(
                            f"The query needs more than {limits.sent_bytes >> 20} MB of rows.",
                            remedy="select fewer columns, or name the key of the rows in WHERE.",
                        )
                    self._send(Frame.BATCH, data)
            self._send(Frame.BATCH, b"")
        self._send(Frame.GO, b"")

    # -- pipes, with the deadline

    def _send(self, kind: Frame, data: bytes | pa.Buffer) -> None:
        for part in (head(kind, len(data)), data):
            left = memoryview(part)
            while left:
                try:
                    left = left[os.write(self._in, left) :]
                except BlockingIOError:
                    self._wait(self._in, select.POLLOUT)
                except BrokenPipeError:
                    return  # it may have said why before it ended: that is read next

    def _receive(self) -> tuple[Frame, bytes]:
        try:
            kind, length = opened(self._exactly(HEAD.size))
            return kind, self._exactly(length)
        except ValueError as damaged:
            raise ChildEnded from damaged
        except EOFError as gone:
            ended = self._process.wait(5)
            if not self._given and ended in (0, -signal.SIGKILL):
                raise ChildEnded from gone  # it was killed by somebody, or has been for long
            # It ended itself (an allocation failed where nobody expects it, a stack overflowed).
            raise QuotaExceeded(
                "The query ended the process that ran it: it needs more memory, or is nested more "
                f"deeply, than its {self._memory_bytes >> 20} MB allow.",
                remedy="make it smaller.",
            ) from gone

    def _exactly(self, length: int) -> bytes:
        parts = []
        while length:
            try:
                part = os.read(self._out, min(length, 1 << 20))
            except BlockingIOError:
                self._wait(self._out, select.POLLIN)
                continue
            if not part:
                raise EOFError
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def _wait(self, pipe: int, what: int) -> None:
        """Until the pipe can be used. Raises `TimeoutError` at the deadline."""
        waiting = select.poll()
        waiting.register(pipe, what)
        while True:
            left = self._deadline - self._clock()
            if left <= 0:
                raise TimeoutError
            watched = self._confined is False
            if waiting.poll(1000 * (min(left, _WATCH_S) if watched else left) + 1):
                return
            if watched and resident(self.pid) > self._memory_bytes:
                raise QuotaExceeded(
                    f"The query needs more memory than {self._memory_bytes >> 20} MB.",
                    remedy="let it read or compute less.",
                )


def resident(pid: int) -> int:
    """Bytes of memory of another process; 0 where that can't be found out."""
    with (
        contextlib.suppress(OSError),
        Path("/proc", str(pid), "statm").open(encoding="ascii") as file,
    ):
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        found = subprocess.run(  # noqa: S603
            ["/bin/ps", "-o", "rss=", "-p", str(pid)], capture_output=True, timeout=5, check=False
        )
        return int(found.stdout) * 1024
    return 0


def _query(
    text: str, user: str, parameters: Parameters | None, limits: Limits, *, known: bool
) -> bytes:
    given = dict(parameters) if isinstance(parameters, Mapping) else list(parameters or ())
    query = {
        "text": text,
        "user": user,
        "known": known,
        "parameters": written(given),
        "limit_ms": max(1, int(limits.time_s * 1000)),
        "rows": limits.rows,
        "bytes": limits.bytes,
    }
    return json.dumps(query).encode()


def _references(data: bytes) -> tuple[Reference, ...]:
    return tuple(
        Reference(
            each["schema"],
            each["name"],
            frozenset(each["columns"]),
            every=each["every"],
            equals=tuple(Equal(**equal) for equal in each["equals"]),
            optional=each["optional"],
        )
        for each in json.loads(data)
    )


def _failure(data: bytes) -> Mapping[str, Any]:
    failure: Mapping[str, Any] = json.loads(data)
    return failure


def _too_long(limits: Limits) -> QuotaExceeded:
    return QuotaExceeded(
        f"The query took longer than {limits.time_s:g} seconds, and was ended.",
        remedy="let it read or compute less.",
    )


def _refusal(
    failure: Mapping[str, Any], limits: Limits, memory_bytes: int
) -> InvalidRequest | QuotaExceeded:
    kind, message = failure["kind"], str(failure["message"])
    if kind == "time":
        return _too_long(limits)
    if kind == "memory":
        return QuotaExceeded(
            f"The query needs more memory than its {memory_bytes >> 20} MB: {message}.",
            remedy="let it read or compute less.",
        )
    return StatementRefused(message, failure.get("position"))
