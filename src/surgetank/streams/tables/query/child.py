"""The process that runs one person's SQL: it has no files, no network and no rows but those that it is sent.

It is started by `process.py` and speaks in frames. Each query has a new database in memory, which is locked before
anything of the text is run. The kernel keeps it small (`RLIMIT_AS`), and while a query runs it can't open any file
(`RLIMIT_NOFILE`) nor write one (`RLIMIT_FSIZE`), whatever DuckDB would allow. What can't be stopped is killed from
outside. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import resource
import select
import sys
import threading
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

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
from surgetank.streams.tables.query.names import needs, quoted, schema_here
from surgetank.streams.tables.query.parameters import read

_ROWS_AT_ONCE = 2048
_FIRST_FREE = 1  # while a query runs, no number of a file from here on is given out
_CONFIG = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",
    "threads": "1",
    "max_temp_directory_size": "0KB",
}
_PREPARED = "SET TimeZone = 'UTC'; SET errors_as_json = true"


class Refused(Exception):
    """The text can't be run. `kind` says why."""

    def __init__(self, kind: str, message: str, position: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.position = position


class Child:
    """One process, from its start to its end."""

    def __init__(self, source: BinaryIO, target: BinaryIO, memory_bytes: int) -> None:
        self._source = source
        self._target = target
        self._memory_bytes = memory_bytes
        self._memory = _Memory()
        self._running = threading.Event()
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)

    def serve(self) -> None:
        """Answer queries until the parent closes its end."""
        threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        connection = self._prepared()
        connection.sql("SELECT 1").to_arrow_reader(
            1
        ).read_all()  # what is loaded late is loaded now
        self._send(
            Frame.READY, json.dumps({"confined": self._memory.confine(self._memory_bytes)}).encode()
        )
        while True:
            kind, data = self._receive()
            if kind is not Frame.QUERY:
                raise ValueError(f"{kind} is no beginning")
            query = json.loads(data)
            used = False
            try:
                _check(connection, query["text"])
                used = True
                self._answer(connection, query)
            except Refused as refusal:
                self._fail(refusal.kind, str(refusal), refusal.position)
            except MemoryError:
                self._fail("memory", "it needs more memory than it may have")
            except RecursionError:
                self._fail("refused", "it is nested too deeply")
            except duckdb.Error as error:
                self._fail(*_said(error))
            except Exception as error:  # noqa: BLE001 - DuckDB's client has others for what it doesn't know
                self._fail("refused", f"{type(error).__name__}: {error}")
            if used:
                self._let_go(connection)
                connection = self._prepared()

    def _answer(self, connection: duckdb.DuckDBPyConnection, query: Mapping[str, Any]) -> None:
        self._lock(connection, query["limit_ms"])
        text = self._needs(connection, query["text"])
        if not self._take_tables(connection):
            return
        self._running.set()
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FIRST_FREE, self._descriptors[1]))
        self._run(connection, text, query)

    def _let_go(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Close a connection that ran something, still without files: what was planned for its end
        finds none either."""
        resource.setrlimit(resource.RLIMIT_NOFILE, (_FIRST_FREE, self._descriptors[1]))
        connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
        self._running.clear()

    def _prepared(self) -> duckdb.DuckDBPyConnection:
        limit = f"{max(16, self._memory_bytes * 3 // 4 >> 20)}MB"
        connection = duckdb.connect(":memory:", config={**_CONFIG, "memory_limit": limit})
        connection.execute(_PREPARED)
        return connection

    @staticmethod
    def _lock(connection: duckdb.DuckDBPyConnection, limit_ms: int) -> None:
        connection.execute(f"SET max_execution_time = {int(limit_ms)}")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def _needs(self, connection: duckdb.DuckDBPyConnection, text: str) -> str:
        """The text to run, after the parent was sent what it needs. Raises `Refused`."""
        found = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchall()
        tree = json.loads(found[0][0])
        if tree.get("error"):
            raise Refused("refused", str(tree.get("error_message")))
        needed = needs(text, tree)
        names = [{**asdict(each), "columns": sorted(each.columns)} for each in needed.tables]
        self._send(Frame.NAMES, json.dumps(names).encode())
        return needed.text

    def _take_tables(self, connection: duckdb.DuckDBPyConnection) -> bool:
        """Register what the parent sends. False where it thought better of it."""
        count = 0
        while True:
            kind, data = self._receive()
            if kind in (Frame.GO, Frame.STOP):
                return kind is Frame.GO
            header = json.loads(data)
            batches: list[pa.RecordBatch] = []
            schema, data = unpacked(self._receive()[1])[0], self._receive()[1]
            while data:  # an empty frame ends a table
                batches += unpacked(data)[1]
                data = self._receive()[1]
            connection.register(f"surgetank {count}", pa.Table.from_batches(batches, schema))
            name = quoted(header["name"])
            if header["schema"] is not None:
                schema_name = quoted(schema_here(header["schema"]))
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema_name}")
                name = f"{schema_name}.{name}"
            connection.execute(f'CREATE VIEW {name} AS FROM "surgetank {count}"')
            count += 1

    def _run(
        self, connection: duckdb.DuckDBPyConnection, text: str, query: Mapping[str, Any]
    ) -> None:
        relation = connection.sql(text, params=read(query["parameters"]) or None)
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
            json.dumps({"rows": rows, "cut": cut, "rss": self._memory.resident()}).encode(),
        )

    def _fail(self, kind: str, message: str, position: int | None = None) -> None:
        failure = {
            "kind": kind,
            "message": message[:4000],
            "position": position,
            "rss": self._memory.resident(),
        }
        self._send(Frame.FAILED, json.dumps(failure).encode())

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


def _said(error: duckdb.Error) -> tuple[str, str, int | None]:
    """Kind, message and position of what DuckDB refused."""
    name, _, rest = str(error).partition(": ")
    message, position = str(error).partition("\n\n")[0], None
    with contextlib.suppress(ValueError, TypeError):
        found = json.loads(rest)
        message = f"{name}: {found['exception_message']}".partition("\n\n")[0]
        position = int(found["position"]) if "position" in found else None
    if isinstance(error, duckdb.InterruptException) or "max_execution_time" in message:
        return "time", message, position
    if isinstance(error, duckdb.OutOfMemoryException):
        return "memory", message, position
    return "refused", message, position


def _check(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Raises `Refused` for all but one SELECT. It only parses: the connection is as new
    afterwards."""
    statements = connection.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(each.type.name for each in statements) or "nothing"
        raise Refused("refused", f"exactly one SELECT can be run here, and this is {kinds}")


class _Memory:
    """How much memory this process has. The file is opened before files can't be opened any more."""

    def __init__(self) -> None:
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open("/proc/self/statm", os.O_RDONLY)

    def pages(self) -> tuple[int, int] | None:
        """Pages of the address space, and of memory."""
        if self._file is None:
            return None
        size, resident = os.pread(self._file, 100, 0).split()[:2]
        return int(size), int(resident)

    def resident(self) -> int:
        """Bytes of memory; the most so far where what it has now isn't known."""
        pages = self.pages()
        if pages is not None:
            return pages[1] * resource.getpagesize()
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024

    def confine(self, memory_bytes: int) -> bool:
        """Take away files that could be written, dumps, and memory beyond so much more than there
        is now. False where the system doesn't hold the limit of memory."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        pages = self.pages()
        if pages is None:
            return False
        most = pages[0] * resource.getpagesize() + memory_bytes
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
