"""SQL of those who are trusted, in this process: DuckDB reads the files itself, with all its cores.

A table is a view over hot rows in memory and over Parquet files, whose deleted positions and changed rows are taken
out by anti joins. A database in memory is used by one query at a time, and again when its views are gone.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from surgetank.streams.tables.cold.protocol import ColdTables, DataFile
from surgetank.streams.tables.definition import SEQ, USER, Column, Table
from surgetank.streams.tables.query.failures import said
from surgetank.streams.tables.query.names import Reference, needs, quoted, schema_here
from surgetank.streams.tables.query.parameters import Parameters, chosen
from surgetank.streams.tables.query.process import Answer, StatementRefused
from surgetank.streams.tables.query.sources import Sources, Wanted
from surgetank.streams.tables.reader import View

_MOST_FREE = 4
_RETRY_S = 0.05
_SIGNALS_S = 0.25
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "python_enable_replacements": "false",
}


class TrustedQueries:
    """Runs SELECTs of trusted callers. For any number of threads."""

    def __init__(self, cold: ColdTables | None) -> None:
        self._cold = cold
        self._lock = threading.Lock()
        self._free: list[duckdb.DuckDBPyConnection] = []

    def run(self, text: str, *, sources: Sources, parameters: Parameters | None = None) -> Answer:
        """Run one SELECT over these sources. Ctrl-C ends it. Raises `StatementRefused`."""
        with self._connection() as connection, ExitStack() as held:
            try:
                return _interruptible(
                    lambda: self._answer(connection, text, sources, parameters, held),
                    connection.interrupt,
                )
            except duckdb.Error as error:
                failure = said(error)
                raise StatementRefused(failure.message, failure.position) from error

    def close(self) -> None:
        """Close what is kept. Idempotent."""
        with self._lock:
            free, self._free = self._free, []
        for connection in free:
            connection.close()

    def _answer(
        self,
        connection: duckdb.DuckDBPyConnection,
        text: str,
        sources: Sources,
        parameters: Parameters | None,
        held: ExitStack,
    ) -> Answer:
        statements = connection.extract_statements(text)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            kinds = ", ".join(each.type.name for each in statements) or "nothing"
            raise StatementRefused(f"Exactly one SELECT can be run here, and this is {kinds}.")
        found = connection.execute("SELECT json_serialize_sql($1)", [text]).fetchall()
        tree = json.loads(found[0][0])
        if tree.get("error"):
            raise StatementRefused(str(tree.get("error_message")))
        needed = needs(text, tree)
        names = []
        try:
            for number, reference in enumerate(needed.tables):
                names += _define(
                    connection, f"surgetank {number}", reference, sources, (self._cold, held)
                )
            given = chosen(parameters, needed.parameters)
            relation = connection.sql(needed.text, params=given or None)
            if relation is None:
                raise StatementRefused("nothing can be run")
            types = tuple(str(each) for each in relation.types)
            table = relation.to_arrow_table()
            return Answer(table, types, stale=sources.stale)
        except duckdb.Error as error:
            failure = said(error)
            position = None if failure.position is None else needed.original(failure.position)
            raise StatementRefused(failure.message, position) from error
        finally:
            for name in names:
                connection.execute(f"DROP VIEW IF EXISTS {name}")

    @contextmanager
    def _connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._lock:
            connection = self._free.pop() if self._free else None
        if connection is None:
            connection = duckdb.connect(":memory:", config=_CONFIG)
            connection.execute("SET TimeZone = 'UTC'; SET errors_as_json = true")
        try:
            yield connection
        except BaseException:
            connection.close()  # whatever it was doing
            raise
        with self._lock:
            if len(self._free) < _MOST_FREE:
                self._free.append(connection)
                return
        connection.close()


def _interruptible(query: Callable[[], Answer], interrupt: Callable[[], None]) -> Answer:
    """What the query gives. The main thread, where Python raises KeyboardInterrupt, only waits: DuckDB holds it for as
    long as a query lasts, or turns it into an error of another class."""
    if threading.current_thread() is not threading.main_thread():
        return query()
    with ThreadPoolExecutor(1, thread_name_prefix="surgetank-sql") as thread:
        answer = thread.submit(query)
        try:
            while not answer.done():  # a signal just before a wait is seen after it
                wait([answer], timeout=_SIGNALS_S)
        finally:
            while not answer.done():  # not all that a query does can be interrupted
                interrupt()
                wait([answer], timeout=_RETRY_S)
        return answer.result()


def _define(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    reference: Reference,
    sources: Sources,
    storage: tuple[ColdTables | None, ExitStack],
) -> list[str]:
    """Make a view of what a name stands for; its files are held until the stack is closed. The names of
    all views that were made, in the order in which they can be dropped."""
    found = sources.find(reference)
    if found is None:
        return []
    made = quoted(reference.name)
    if reference.schema is not None:
        schema = quoted(schema_here(reference.schema))
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        made = f"{schema}.{made}"
    if not isinstance(found, Wanted):
        connection.register(name, found)
        connection.execute(f"CREATE OR REPLACE VIEW {made} AS FROM {quoted(name)}")
        return [made, quoted(name)]
    view = sources.view(found)
    cold, held = storage
    assert cold is not None, "a scope with tables has files"
    files = view.cold.files
    paths = held.enter_context(cold.held(files)) if files else {}
    connection.register(f"{name} hot", view.hot)
    connection.register(f"{name} hidden", pa.table({SEQ: view.hidden}))
    connection.register(f"{name} initial", _initial(view.table))
    text = " UNION ALL ".join(_parts(name, found, view, paths))
    connection.execute(f"CREATE OR REPLACE VIEW {made} AS {text}")
    return [made, *(quoted(f"{name} {part}") for part in ("hot", "hidden", "initial"))]


def _parts(name: str, of: Wanted, view: View, paths: Mapping[str, Path]) -> Iterator[str]:
    shown = ", ".join(quoted(each) for each in of.shown)
    yield f"SELECT {shown} FROM {quoted(f'{name} hot')}"
    groups: dict[tuple[int, bool], list[DataFile]] = {}
    for file in view.cold.files:
        groups.setdefault((file.schema_version, file.delete_path is not None), []).append(file)
    for (version, deleted), files in groups.items():
        columns = ", ".join(_column(name, each, view.table, version) for each in of.shown)
        listed = _list(str(paths[file.path]) for file in files)
        source = f"read_parquet({listed}, filename = {deleted}, file_row_number = {deleted}) f"
        conditions = []
        if of.readable.user is not None and view.table.by_user:
            conditions.append(f"f.{quoted(USER)} = {_text(of.readable.user)}")
        if len(view.hidden):
            hidden = quoted(f"{name} hidden")
            conditions.append(f"f.{SEQ} NOT IN (SELECT {SEQ} FROM {hidden})")
        if deleted:
            source += f" ANTI JOIN {_deletes(files, paths)}"
        where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
        yield f"SELECT {columns} FROM {source}{where}"


def _deletes(files: list[DataFile], paths: Mapping[str, Path]) -> str:
    """The deleted positions of files, by the names that they have now."""
    pairs = ", ".join(
        f"({_text(str(paths[file.path]))}, {_text(str(paths[file.delete_path or '']))})"
        for file in files
    )
    listed = _list(str(paths[file.delete_path or ""]) for file in files)
    return (
        f"(SELECT m.data AS filename, p.pos AS file_row_number "
        f"FROM read_parquet({listed}, filename = true) p "
        f"JOIN (VALUES {pairs}) m (data, deletes) ON m.deletes = p.filename) d "
        "ON d.filename = f.filename AND d.file_row_number = f.file_row_number"
    )


def _column(name: str, shown: str, table: Table, version: int) -> str:
    column = table.column(shown)
    if column is None:
        return f"f.{quoted(shown)}"
    as_declared = f"AS {column.type.duckdb}) AS {quoted(shown)}"
    if column.since > version:
        return f"CAST((SELECT {quoted(shown)} FROM {quoted(f'{name} initial')}) {as_declared}"
    return f"CAST(f.{quoted(shown)} {as_declared}"


def _initial(table: Table) -> pa.Table:
    """One row: what rows have from before a column was added."""
    later: list[Column] = [column for column in table.columns if column.since > 1]
    if not later:
        return pa.table({SEQ: pa.array([0], pa.int64())})
    return pa.table({column.name: pa.array([_plain(column.initial)]) for column in later})


def _plain(value: Any) -> Any:
    """As Arrow has it without a type of its own: the view casts it to what is declared."""
    if isinstance(value, uuid.UUID):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(values: Iterator[str]) -> str:
    return f"[{', '.join(_text(value) for value in values)}]"
