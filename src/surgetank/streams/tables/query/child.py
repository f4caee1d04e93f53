"""The process that runs one person's SQL: it has no files, no network and no rows but those that it is sent.

It is started by `process.py` and speaks in frames; `databases.py` has what queries run in. The kernel keeps it small
(`RLIMIT_AS`), and while a query runs it can't open any file (`RLIMIT_NOFILE`) nor write one (`RLIMIT_FSIZE`),
whatever DuckDB would allow. What can't be stopped is killed from outside. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import mmap
import os
import resource
import select
import sys
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from surgetank.bounded import BoundedMap
from surgetank.streams.tables.query.databases import Databases, Session
from surgetank.streams.tables.query.failures import said
from surgetank.streams.tables.query.frames import (
    BATCH_BYTES,
    HEAD,
    Frame,
    head,
    opened,
    packed,
    pieces,
    unpacked,
)
from surgetank.streams.tables.query.names import Needs, needs
from surgetank.streams.tables.query.parameters import chosen, read

_ROWS_AT_ONCE = 2048
_MOST_RESIDENT = 300 * 1024**2  # of a process that is used again
_MOST_NEEDED = 1 << 20  # bytes of what texts need, that is remembered
_ENDS = (Frame.GO, Frame.STOP)  # of tables
_FIRST_FREE = 1  # while a query runs, no number of a file from here on is given out


class Refused(Exception):
    """The text can't be run."""


class Child:
    """One process, from its start to its end."""

    def __init__(self, source: BinaryIO, target: BinaryIO, memory_bytes: int) -> None:
        self._source = source
        self._target = target
        self._memory_bytes = memory_bytes
        self._memory = _Memory()
        self._running = threading.Event()
        self._needed: BoundedMap[tuple[str, str], Needs] = BoundedMap(
            most_weight=_MOST_NEEDED, weigh=lambda each: len(each.text) + 1000
        )
        self._is_sent = False  # tables, and their end has not come yet
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)

    def serve(self) -> None:
        """Answer queries until the parent closes its end."""
        threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        databases = Databases(self._memory_bytes)
        databases.session("", 1000).connection.sql("SELECT 1").to_arrow_reader(1).read_all()
        databases.forget()  # what is loaded late was loaded now
        databases.prepare()
        gc.freeze()  # what was imported is not looked through again and again
        confined = self._memory.confine(self._memory_bytes)
        self._send(Frame.READY, json.dumps({"confined": confined}).encode())
        while True:
            kind, data = self._receive()
            if kind is not Frame.QUERY:
                raise ValueError(f"{kind} is no beginning")
            if not self._answered(databases, json.loads(data)):
                databases.forget()
            self._files(may_be_opened=True)
            databases.prepare()

    def _answered(self, databases: Databases, query: Mapping[str, Any]) -> bool:
        """Answer one query. False where it did not come to its end."""
        self._is_sent = query["known"]
        try:
            _check(databases.statements(query["text"]))
        except Exception as error:  # noqa: BLE001 - as below; but nothing was run in a database
            self._fail(asdict(said(error)))
            return True
        session, needed = None, None
        try:
            session = databases.session(query["user"], query["limit_ms"])
            asked = query["user"], query["text"]
            needed = self._needed.use(asked) or self._needs(session.connection, query["text"])
            self._needed[asked] = needed
            self._send_names(needed if not query["known"] else None)
            if self._take_tables(session):
                self._files(may_be_opened=False)
                self._run(session.connection, needed, query)
            session.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told, and the database goes
            failure = said(error)
            if needed is not None and failure.position is not None:
                failure = replace(failure, position=needed.original(failure.position))
        else:
            return True
        if session is not None:
            with contextlib.suppress(Exception):
                session.connection.close()
        self._fail(asdict(failure))
        return False

    def _files(self, *, may_be_opened: bool) -> None:
        """While a query runs, and until its connection is closed, no file can be opened: what was
        planned for its end finds none either."""
        most = self._descriptors[0] if may_be_opened else _FIRST_FREE
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, self._descriptors[1]))
        if may_be_opened:
            self._running.clear()
        else:
            self._running.set()

    @staticmethod
    def _needs(connection: duckdb.DuckDBPyConnection, text: str) -> Needs:
        """What the text needs. Raises `Refused`."""
        found = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchall()
        tree = json.loads(found[0][0])
        if tree.get("error"):
            raise Refused(str(tree.get("error_message")))
        return needs(text, tree)

    def _send_names(self, needed: Needs | None) -> None:
        tables = needed.tables if needed is not None else ()
        names = [{**asdict(each), "columns": sorted(each.columns)} for each in tables]
        self._send(Frame.NAMES, json.dumps(names).encode())
        self._is_sent = True

    def _take_tables(self, session: Session) -> bool:
        """Register what the parent sends. False where it thought better of it."""
        while True:
            kind, data = self._receive()
            if kind in _ENDS:
                self._is_sent = False
                return kind is Frame.GO
            header = json.loads(data)
            batches: list[pa.RecordBatch] = []
            schema, data = unpacked(self._receive()[1])[0], self._receive()[1]
            while data:  # an empty frame ends a table
                batches += unpacked(data)[1]
                data = self._receive()[1]
            rows = pa.Table.from_batches(batches, schema)
            session.register(header["schema"], header["name"], rows)

    def _run(
        self, connection: duckdb.DuckDBPyConnection, needed: Needs, query: Mapping[str, Any]
    ) -> None:
        parameters = chosen(read(query["parameters"]), needed.parameters)
        relation = connection.sql(needed.text, params=parameters or None)
        reader = relation.to_arrow_reader(_ROWS_AT_ONCE)
        described = {
            "columns": list(relation.columns),
            "types": [str(each) for each in relation.types],
            "schema_bytes": packed(reader.schema, None).size,
        }
        self._send(Frame.COLUMNS, json.dumps(described).encode())
        self._send(Frame.BATCH, packed(reader.schema, None))
        rows, sent, cut = 0, 0, None
        for batch in reader:
            for piece in pieces(batch, max(1, min(BATCH_BYTES, query["bytes"] // 8))):
                fitting = piece.slice(0, min(piece.num_rows, query["rows"] - rows))
                data = packed(reader.schema, fitting)
                if sent + data.size > query["bytes"]:
                    cut = "bytes"
                    break
                if fitting.num_rows:
                    self._send(Frame.BATCH, data)
                rows, sent = rows + fitting.num_rows, sent + data.size
                if fitting.num_rows < piece.num_rows:
                    cut = "rows"
                    break
            if cut:
                break
        self._send(
            Frame.DONE,
            json.dumps({"rows": rows, "cut": cut, "worn": self._memory.worn()}).encode(),
        )

    def _fail(self, failure: Mapping[str, Any]) -> None:
        self._send(Frame.FAILED, json.dumps({**failure, "worn": self._memory.worn()}).encode())
        while self._is_sent:  # the parent has begun, and goes on to the end
            self._is_sent = self._receive()[0] not in _ENDS

    def _send(self, kind: Frame, data: bytes | pa.Buffer) -> None:
        self._target.write(head(kind, len(data)))
        self._target.write(data)
        self._target.flush()

    def _receive(self) -> tuple[Frame, bytearray]:
        kind, length = opened(self._exactly(HEAD.size))
        return kind, self._exactly(length)

    def _exactly(self, length: int) -> bytearray:
        data = bytearray(length)
        if length and self._source.readinto(data) != length:  # type: ignore[attr-defined]
            os._exit(0)  # the parent is gone
        return data

    def _end_with_parent(self, parent: int) -> None:
        """A query that runs doesn't notice that nobody waits for it; between two of them, reading
        does."""
        waiting = select.poll()
        waiting.register(self._source.fileno(), 0)
        while True:
            self._running.wait()
            gone = any(what & (select.POLLHUP | select.POLLERR) for _, what in waiting.poll(500))
            if gone or os.getppid() != parent:
                os._exit(0)


def _check(statements: Sequence[duckdb.Statement]) -> None:
    """Raises `Refused` for all but one SELECT."""
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(each.type.name for each in statements) or "nothing"
        raise Refused(f"exactly one SELECT can be run here, and this is {kinds}")


class _Memory:
    """How much memory this process has. The file is opened before files can't be opened any more."""

    def __init__(self) -> None:
        self._most_size = 0
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/self/statm", os.O_RDONLY)

    def pages(self) -> tuple[int, int] | None:
        """Pages of the address space, and of memory."""
        if self._file is None:
            return None
        size, resident = os.pread(self._file, 100, 0).split()[:2]
        return int(size), int(resident)

    def worn(self) -> bool:
        """Whether a new process would be better: this one has grown, or its address space is in
        pieces."""
        pages = self.pages()
        if pages is None:  # the most that it ever had
            most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return most * (1 if sys.platform == "darwin" else 1024) > _MOST_RESIDENT
        size, resident = (each * resource.getpagesize() for each in pages)
        return resident > _MOST_RESIDENT or (0 < self._most_size < size)

    def confine(self, memory_bytes: int) -> bool:
        """Take away files that could be written, dumps, and memory beyond so much more than there
        is now. False where the system doesn't hold the limit of memory."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        pages = self.pages()
        if pages is None:
            return False
        most = pages[0] * resource.getpagesize() + memory_bytes
        self._most_size = most - memory_bytes // 2
        try:
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        except (OSError, ValueError):
            return False
        try:
            mmap.mmap(-1, memory_bytes + (1 << 26)).close()
        except OSError:
            return True
        return False


def main() -> None:
    """Run with the limit of memory as the only argument; frames come and go by the standard streams."""
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(5000)
    pa.set_memory_pool(pa.system_memory_pool())
    target = os.fdopen(os.dup(1), "wb", 1 << 16)
    os.dup2(2, 1)  # what a library prints is no frame
    Child(os.fdopen(0, "rb", 1 << 16), target, int(sys.argv[1])).serve()


if __name__ == "__main__":
    main()
