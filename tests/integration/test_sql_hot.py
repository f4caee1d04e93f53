"""What agents did is in SQL at once: rows that wait in the buffer are read with those in the database, each once."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from support.analysts import name_of
from support.savers import put
from surgetank import Surgetank
from surgetank.app.relations import NAMES, OPERATED, STORED, Relations
from surgetank.app.sql import OWNER, SqlCaller
from surgetank.exceptions import NotFound, QuotaExceeded

ANN, BOB = SqlCaller(user="ann"), SqlCaller(user="bob")
STATES = (
    "SELECT thread_id, checkpoint_id, state ->> '$.messages[0].content' AS first, state ->> '$.n' AS n"
    " FROM system.threads ORDER BY 1"
)


def rows(tank: Surgetank, text: str, who: SqlCaller = OWNER) -> list[tuple[Any, ...]]:
    found = tank.sql.run(text, who).done()[-1].rows
    assert found is not None
    return [tuple(row.values()) for row in found.to_pylist()]


def work(tank: Surgetank, thread: str, user: str, n: int, parent: Any = None) -> Any:
    state = {"messages": [HumanMessage(f"hello {thread}"), AIMessage("hi")], "n": n}
    made = put(tank.checkpointer(), thread, state, parent=parent, step=n, user_id=user)
    tank.emit_log(f"line {n}", thread_id=thread)
    tank.log_system_error(f"odd_{user}", f"went wrong {thread}", thread_id=thread)
    return made


def test_what_is_hot_is_there_and_is_the_same_when_it_is_flushed(tank: Surgetank) -> None:
    queries = (
        """SELECT thread_id, checkpoint_ns, checkpoint_id, parent_id, metadata ->> 'step', scalars ->> 'n',
        state ->> 'n' FROM system.checkpoints ORDER BY checkpoint_id""",
        STATES,
        "SELECT * FROM system.thread_logs ORDER BY seq",
        "SELECT * EXCLUDE (error_context) FROM system.system_errors ORDER BY error_message",
        """SELECT t.thread_id, count(*), max(e.occurrences), max(l.seq) FROM system.threads t
        JOIN system.system_errors e USING (thread_id) JOIN system.thread_logs l USING (thread_id)
        GROUP BY ALL ORDER BY 1""",
    )
    first = work(tank, "t-1", "ann", 0)
    for flushed in (False, True):
        if flushed:
            assert tank.flush().ok
        hot = [rows(tank, text) for text in queries]
        assert all(hot)
        (state,) = hot[1]
        assert state == ("t-1", first["configurable"]["checkpoint_id"], "hello t-1", "0")
    second = work(tank, "t-1", "ann", 1, first)  # over what is in the database
    work(tank, "t-2", "bob", 7)
    mixed = [rows(tank, text) for text in queries]
    assert [row[3:] for row in mixed[0]] == [
        (None, "0", "0", None), (first["configurable"]["checkpoint_id"], "1", "1", "1"), (None, "7", "7", "7")
    ]  # fmt: skip
    assert mixed[1][0][1:] == (second["configurable"]["checkpoint_id"], "hello t-1", "1")
    assert [row[:3] for row in mixed[4]] == [("t-1", 2, 2), ("t-2", 1, 1)]
    assert tank.flush().ok
    assert [rows(tank, text) for text in queries] == mixed


def test_everybody_sees_their_own_of_it(tank: Surgetank) -> None:
    tank.sql("CREATE TABLE visits (thread TEXT PRIMARY KEY, page TEXT)")
    for user in ("ann", "bob"):
        work(tank, f"of-{user}", user, 0)
        tank.sql("INSERT INTO visits VALUES ($1, 'start')", [f"of-{user}"], user=user)
    joined = (
        "SELECT v.thread, l.message, c.state ->> '$.messages[0].content' FROM visits v"
        " JOIN system.thread_logs l ON l.thread_id = v.thread JOIN system.checkpoints c USING (thread_id)"
    )
    for flushed in (False, True):
        if flushed:
            assert tank.flush().ok
        for who in (ANN, BOB):
            name = f"of-{who.user}"
            assert rows(tank, joined, who) == [(name, "line 0", f"hello {name}")]
            assert rows(tank, "SELECT owner IS NOT DISTINCT FROM $1 FROM system.threads".replace(
                "$1", f"'{who.user}'"), who) == [(True,)]  # fmt: skip
            assert rows(tank, "SELECT thread_id FROM system.checkpoints WHERE thread_id = 'of-ann'", who) == (
                [("of-ann",)] if who is ANN else []
            )  # fmt: skip
            with pytest.raises(NotFound):
                rows(tank, "SELECT * FROM system.system_errors", who)
    # what the database says of a thread counts before what somebody puts into it
    work(tank, "of-ann", "bob", 1)
    assert [row[0] for row in rows(tank, "SELECT thread_id FROM system.checkpoints", BOB)] == [
        "of-bob"
    ]
    assert len(rows(tank, "SELECT thread_id FROM system.checkpoints", ANN)) == 2


def test_what_is_about_to_be_deleted_is_gone(tank: Surgetank) -> None:
    work(tank, "t-1", "ann", 0)
    work(tank, "t-2", "ann", 0)
    assert tank.flush().ok
    saver = tank.checkpointer()
    saver.delete_thread("t-1")
    for relation in ("threads", "checkpoints", "thread_logs"):
        assert {row[0] for row in rows(tank, f"SELECT thread_id FROM system.{relation}")} == {"t-2"}
    work(tank, "t-1", "bob", 5)
    assert rows(tank, "SELECT thread_id, n FROM (" + STATES.replace(" ORDER BY 1", "") + ") ORDER BY 1") == [
        ("t-1", "5"), ("t-2", "0"),
    ]  # fmt: skip
    assert rows(tank, "SELECT thread_id FROM system.threads", BOB) == [("t-1",)]
    assert rows(tank, "SELECT thread_id FROM system.threads", ANN) == [("t-2",)]
    (error,) = tank.errors.find(limit=1).errors
    tank.errors.act(error.id, "resolve", "me")
    assert rows(
        tank, "SELECT resolved_by FROM system.system_errors WHERE resolved_at IS NOT NULL"
    ) == [("me",)]
    tank.errors.act(error.id, "delete", "me")
    assert len(rows(tank, "SELECT id FROM system.system_errors")) == 1


def test_more_states_than_one_query_may_ask_for_are_refused(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("surgetank.app.hot_relations.MOST_STATES", 1)
    work(tank, "t-1", "ann", 0)
    work(tank, "t-2", "ann", 0)
    with pytest.raises(QuotaExceeded, match="too many for one query"):
        rows(tank, STATES)
    assert len(rows(tank, "SELECT thread_id FROM system.threads")) == 2
    assert len(rows(tank, "SELECT state FROM system.threads WHERE thread_id = 't-2'")) == 1


def test_relations_are_described_and_are_what_analysts_see(tank: Surgetank) -> None:
    described = {
        name: rows(tank, f"DESCRIBE system.{name}") for name in (*NAMES, *OPERATED, *STORED)
    }
    assert {row[1] for row in rows(tank, "SHOW TABLES IN system")} >= {*described, "tables"}
    listed = rows(
        tank,
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema = 'system' ORDER BY ordinal_position",
    )
    for name, columns in described.items():
        assert [(column, kind) for of, column, kind in listed if of == name] == [
            row[:2] for row in columns
        ]
    with pytest.raises(NotFound):
        rows(tank, "DESCRIBE system.jobs", ANN)
    added = tank.analysts.add(name_of("same"), everyone=True)
    try:
        with tank.database.asking() as connection:
            views = connection.execute(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = 'surgetank_views' ORDER BY ordinal_position"
            ).fetchall()
    finally:
        tank.analysts.remove(added.analyst.name)
    for name in NAMES:
        assert [column for of, column in views if of == name] == [row[0] for row in described[name]]
    of_jobs = {column for of, column in views if of == "jobs"}
    assert of_jobs - {row[0] for row in described["jobs"]} == {
        "namespace_id",
        "table_name",
        "snapshot_id",
    }


def test_a_job_in_sql_is_the_job_of_the_record(tank: Surgetank) -> None:
    tank.sql("CREATE TABLE t (a INT)")
    tank.sql("INSERT INTO t VALUES (1), (2)", user="ann")
    job = tank.tables.flush("t")
    (row,) = rows(
        tank,
        "SELECT status, trigger, partition, rows_flushed, bytes, warnings, result ->> 'rows_flushed',"
        f" started_at <= finished_at FROM system.jobs WHERE id = '{job.id}'",
    )
    assert row == ("completed", "manual", "public.t", 2, job.result.bytes, 0, "2", True)
    added = tank.analysts.add(name_of("jobs"), everyone=True)
    with tank.database.asking() as connection:
        connection.execute(f"SET SESSION AUTHORIZATION {added.analyst.name}".encode())
        seen = connection.execute(
            "SELECT id, trigger, rows_flushed, bytes, table_name FROM surgetank_views.jobs"
        ).fetchall()
        connection.execute("RESET SESSION AUTHORIZATION")
    tank.analysts.remove(added.analyst.name)
    assert seen == [(job.id, "manual", 2, job.result.bytes, "t")]


def test_columns_are_listed_while_the_database_is_away(
    tank: Surgetank, monkeypatch: pytest.MonkeyPatch
) -> None:
    from surgetank.exceptions import DatabaseUnavailable

    def away(*_: object) -> None:
        raise DatabaseUnavailable("away")

    monkeypatch.setattr(Relations, "_read", away)
    names = {row[0] for row in rows(tank, "SELECT table_name FROM information_schema.columns")}
    assert {"jobs", "tables"} <= names
    assert "threads" not in names
