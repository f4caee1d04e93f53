"""Rows a second that a flush writes, beside COPY of the very same rows into twins of the same
tables.

A flush reads the buffer, encodes patches, and makes the projections for SQL; COPY gets finished
rows, in two forms: as Python tuples through psycopg, as any program that has rows would send them
(the bar is about this one), and as ready bytes of the wire format, which leaves nothing but
PostgreSQL's own work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from langgraph.checkpoint.base.id import uuid6
from psycopg import sql
from psycopg.types.json import Jsonb

from bench import chat
from bench.flushing import Reservoir, reservoir
from bench.harness import BenchError, Recorder, Scene, seconds
from bench.peers import OURS

TITLE = "Flush to PostgreSQL"
COPY = "COPY of the rows"
COPY_BYTES = "COPY of ready bytes"
_JSONB = 3802  # the type's number in every PostgreSQL

Rows = list[tuple[Any, ...]]
Values = list[dict[str, Any]]


def run(scene: Scene) -> Recorder:
    """Long conversations, many short ones, and values that have nothing in common with those before
    them."""
    recorder, scale = Recorder("flush"), scene.scale
    for key, values, what, threads, steps in (
        ("long", _chat, "conversations", scale.chat_threads, scale.chat_steps),
        ("short", _chat, "conversations", scale.short_threads, scale.short_steps),
        (
            "notes",
            _notes,
            "threads that put 3 KB of new text",
            scale.note_threads,
            scale.note_steps,
        ),
    ):
        label = f"{threads} {what}, {steps} steps"
        for number, _ in scene.turns([OURS]):
            # emptied, the database would have gone back, and would be told so
            with reservoir(scene) as store:
                rates, megabytes = _round(store, [values(steps, seed) for seed in range(threads)])
            recorder.add(
                number, OURS, f"{key} bytes", megabytes, label=label, unit="MB/s as accepted"
            )
            for who, rate in rates.items():
                recorder.add(number, who, key, rate, label=label, unit="rows/s")
    return recorder


def _chat(steps: int, seed: int) -> Values:
    return [
        {"messages": messages, "step": step}
        for step, messages in enumerate(chat.growing(steps, seed))
    ]


def _notes(steps: int, seed: int) -> Values:
    source = random.Random(seed)
    return [{"note": chat.text(source, 3000), "step": step} for step in range(steps)]


def _round(store: Reservoir, threads: list[Values]) -> tuple[dict[str, float], float]:
    saver = store.tank.checkpointer()
    for values in threads:
        thread = chat.Thread(saver, str(uuid6()))
        for value in values:
            thread.put(value)
    waiting = store.tank.parts.buffer.depth().bytes
    took = {OURS: store.flush()}
    counts = store.tables()
    _make_twins(store, counts)
    rows = {table: _read_rows(store, table) for table in counts}
    took[COPY] = _load(store, counts, lambda t: _copy_rows(store, t, *rows[t]))
    ready = {table: _read_bytes(store, table) for table in counts}
    took[COPY_BYTES] = _load(store, counts, lambda t: _copy_bytes(store, t, ready[t]))
    total = sum(counts.values())
    return {who: total / seconds_ for who, seconds_ in took.items()}, waiting / 1e6 / took[OURS]


def _make_twins(store: Reservoir, tables: dict[str, int]) -> None:
    """Empty tables with the same columns, indexes, constraints and storage."""
    store.connection.execute("CREATE SCHEMA IF NOT EXISTS bench")
    for table in tables:
        twin, model = sql.Identifier("bench", table), sql.Identifier("surgetank", table)
        store.connection.execute(
            sql.SQL("CREATE TABLE IF NOT EXISTS {} (LIKE {} INCLUDING ALL)").format(twin, model)
        )


def _load(store: Reservoir, counts: dict[str, int], action: Callable[[str], None]) -> float:
    """Seconds of the action on all tables in one transaction; the twins are checked and emptied
    afterwards."""
    store.scene.server.checkpoint()

    def load() -> None:
        with store.connection.transaction():
            for table in counts:
                action(table)

    took = seconds(load)
    if any(store.count("bench", table) != count for table, count in counts.items()):
        raise BenchError("COPY wrote other rows than the flush")
    store.empty("bench")
    return took


def _read_rows(store: Reservoir, table: str) -> tuple[list[int], Rows]:
    """The types and rows of a table, as a program would hold them that is about to send them."""
    name = sql.Identifier("surgetank", table)
    head = store.connection.execute(sql.SQL("SELECT * FROM {} LIMIT 0").format(name))
    assert head.description is not None
    types = [column.type_code for column in head.description]
    columns = [
        sql.SQL("{}::text").format(sql.Identifier(column.name)) if column.type_code == _JSONB
        else sql.Identifier(column.name)
        for column in head.description
    ]  # fmt: skip
    query = sql.SQL("SELECT {} FROM {}").format(sql.SQL(", ").join(columns), name)
    with store.connection.cursor(binary=True) as cursor:
        found = cursor.execute(query).fetchall()
    return types, [
        tuple(_sendable(kind, value) for kind, value in zip(types, row, strict=True))
        for row in found
    ]


def _sendable(kind: int, value: Any) -> Any:
    return Jsonb(value.encode(), dumps=bytes) if kind == _JSONB and value is not None else value


def _copy_rows(store: Reservoir, table: str, types: list[int], rows: Rows) -> None:
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier("bench", table))
    with store.connection.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row(row)


def _read_bytes(store: Reservoir, table: str) -> list[bytes]:
    statement = sql.SQL("COPY {} TO STDOUT (FORMAT BINARY)").format(
        sql.Identifier("surgetank", table)
    )
    with store.connection.cursor() as cursor, cursor.copy(statement) as copy:
        return [bytes(block) for block in copy]


def _copy_bytes(store: Reservoir, table: str, blocks: list[bytes]) -> None:
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(sql.Identifier("bench", table))
    with store.connection.cursor() as cursor, cursor.copy(statement) as copy:
        for block in blocks:
            copy.write(block)
