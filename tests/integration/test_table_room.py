"""Tables as part of an engine: flushed by its scheduler, seen in its status, jobs and parked rows."""

from __future__ import annotations

from support.tanks import MakeTank
from surgetank.streams.tables.definition import Kind
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.sql.statements import CreateTable, NewColumn, TableName
from surgetank.streams.tables.types import ColumnType

NOTES = CreateTable(
    table=TableName("notes", "app"),
    columns=(NewColumn("body", ColumnType.parse("TEXT")),),
    kind=Kind.USER,
)


def test_rows_of_tables_wait_are_flushed_and_are_read(make_tank: MakeTank) -> None:
    tank = make_tank(tables_flush_rows=3, tables_flush_interval=90)
    assert "tables" not in tank.streams
    tables = tank.parts.tables.open()
    tables.catalog.create_namespace("app", actor="test")
    notes = tables.catalog.create(NOTES, actor="test")
    tables.hot.accept(notes, [Change(user, Op.INSERT, (f"of {user}",)) for user in ("ann", "bob")])

    waiting = {depth.stream: depth.entries for depth in tank.status().buffer.streams}
    assert waiting["tables"] == 2
    (notes_wait,) = tables.hot.waiting()
    due_at, is_due = notes_wait.oldest_at + 90, tables.flusher.policy.is_due
    assert (is_due(notes_wait, due_at - 1), is_due(notes_wait, due_at)) == (False, True)
    tables.hot.accept(notes, [Change("ann", Op.INSERT, ("more",))])
    assert is_due(tables.hot.waiting()[0], due_at - 1)
    assert tables.reader.read(notes, user="ann").column("body").to_pylist() == ["of ann", "more"]
    job = tank.flush("tables")
    assert job.ok
    assert tank.jobs.get(job.id).result.rows_flushed == 3
    assert tables.reader.read(notes, user="bob").column("body").to_pylist() == ["of bob"]
    tank.close()

    again = make_tank()  # what is there is found without being asked for
    assert {depth.stream: depth.entries for depth in again.status().buffer.streams}["tables"] == 0
    assert "tables" in again.streams
    assert again.parts.tables.open().reader.read(notes).num_rows == 3


def test_a_database_that_is_away_is_one_incident_of_tables_too(
    make_tank: MakeTank, postgres_server, database_url
) -> None:
    tank = make_tank()
    tables = tank.parts.tables.open()
    tables.catalog.create_namespace("app", actor="test")
    notes = tables.catalog.create(NOTES, actor="test")
    assert tables.reader.read(notes).num_rows == 0  # which is remembered beside the buffer
    tables.hot.accept(notes, [Change("ann", Op.INSERT, ("kept",))])
    name = database_url.partition("@/")[2].partition("?")[0]
    with postgres_server.admin() as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        admin.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
            (name,),
        )
    job = tank.flush("tables")
    assert job.status == "failed"
    assert tables.reader.read(notes).column("body").to_pylist() == ["kept"]
    tank.parts.housekeep()
    told = [incident for incident in tank.incidents() if incident.key == "sink:database"]
    assert len(told) == 1
    with postgres_server.admin() as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    assert tank.flush("tables").ok


def test_a_damaged_file_of_tables_hides_nothing_else(make_tank: MakeTank) -> None:
    tank = make_tank()
    path = tank.settings.buffer_path.with_name("buffer-tables.db")
    path.write_bytes(b"no database at all" * 1000)
    depth = tank.status().buffer
    assert [each.stream for each in depth.streams if each.stream == "tables"] == []
    assert any("table" in problem for problem in tank.status().problems)
    assert tank.flush().ok
