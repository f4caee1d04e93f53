"""SQL over what agents did: for the owner, for administrators of a server, and for nobody else."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from support.savers import put
from surgetank import Surgetank
from surgetank.app import relations
from surgetank.app.relations import NAMES, OPERATED, OWN, STORED
from surgetank.app.sql import OWNER, SqlCaller
from surgetank.cli.app import app
from surgetank.exceptions import EngineClosed, NotFound, QuotaExceeded
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem
from surgetank.server.routes import sql as route
from surgetank.server.schemas.sql import RunStatements

ADMIN, VIEWER = Caller("root", Role.ADMIN), Caller("ada", Role.VIEWER)


@pytest.fixture
def filled(tank: Surgetank) -> Surgetank:
    put(tank.checkpointer(), "t-1", {"topic": "tea"}, user_id="ada")
    tank.emit_log("a line", thread_id="t-1")
    tank.log_system_error("odd", "went wrong", thread_id="t-1", severity="critical")
    assert tank.flush().ok
    return tank


def ask(
    tank: Surgetank, text: str, who: Caller = ADMIN, *, arrow: bool = False, **more: Any
) -> Any:
    services: Any = SimpleNamespace(tank=tank)
    return route._run(RunStatements(sql=text, **more), who, services, arrow)


def test_relations_of_agents_errors_and_jobs_are_joined(filled):
    (result,) = filled.sql(
        """SELECT t.state ->> 'topic' AS topic, e.error_message, c.checkpoint_id = t.checkpoint_id AS newest
        FROM system.threads t JOIN system.system_errors e USING (thread_id)
        JOIN system.thread_logs l USING (thread_id) JOIN system.checkpoints c USING (thread_id)
        WHERE l.message = $1""",
        ["a line"],
    )
    assert result.rows is not None
    (row,) = result.rows.to_pylist()
    assert row["topic"] is None or "tea" in row["topic"]
    assert (row["error_message"], row["newest"]) == ("went wrong", True)
    (jobs,) = filled.sql("SELECT count(*) AS n FROM system.jobs WHERE status = 'completed'")
    assert jobs.rows is not None
    assert jobs.rows.to_pylist()[0]["n"] >= 1


def test_every_relation_can_be_read_by_its_owner(filled):
    for name in (*NAMES, *OPERATED, *STORED):
        results = filled.sql(f"SELECT * FROM system.{name}; SELECT count(*) FROM system.{name}")
        assert [each.kind for each in results] == ["SELECT", "SELECT"], name


def test_over_http_administrators_read_all_and_others_their_own(filled):
    answer = json.loads(
        ask(filled, "SELECT thread_id, 1.5::DECIMAL(3, 1) AS d FROM system.threads").body
    )
    (result,) = answer["results"]
    assert result["rows"] == [["t-1", "1.5"]]
    assert result["columns"][0] == {"name": "thread_id", "type": "VARCHAR"}
    for who, threads in ((VIEWER, [["t-1"]]), (Caller("bob", Role.VIEWER), [])):
        for name in OWN:
            text = f"SELECT DISTINCT thread_id FROM system.{name}"
            found = json.loads(ask(filled, text, who).body)["results"][0]["rows"]
            assert found == (threads if name in ("threads", "checkpoints", "thread_logs") else [])
    for text in ("SELECT * FROM system.jobs", "WITH x AS (FROM system.system_errors) FROM x"):
        with pytest.raises(Problem) as refused:
            ask(filled, text, VIEWER)
        assert (refused.value.status, refused.value.more["statement"]) == (404, 1)
    assert json.loads(ask(filled, "SELECT 1 AS a", VIEWER).body)["results"][0]["rows"] == [[1]]


def test_more_of_a_relation_than_one_query_may_have_is_refused_while_it_arrives(
    filled, monkeypatch
):
    filled.emit_log("long " * 500, thread_id="t-1")
    assert filled.flush().ok
    monkeypatch.setattr(relations, "_MOST_BYTES_OF_USER", 2000)
    text, ada = "SELECT {} FROM system.thread_logs", SqlCaller(user="ada", trusted=True)
    for _ in range(2):  # and the connection is as good as before
        error = filled.sql.run(text.format("*"), ada).error
        assert isinstance(error, QuotaExceeded)
        assert "0 MB in the columns" in str(error)
        assert filled.sql.run(text.format("count(seq)"), ada).error is None
    monkeypatch.setattr(relations, "_MOST_ROWS", 0)
    with pytest.raises(QuotaExceeded, match="more than 0 rows"):
        filled.sql(text.format("seq"))


def test_rows_come_as_an_arrow_stream(filled):
    response = ask(filled, "SELECT * FROM range(5)", VIEWER, arrow=True, limit=3)
    assert pa.ipc.open_stream(response.body).read_all().num_rows == 3
    assert response.headers["surgetank-cut"] == "rows"
    with pytest.raises(Problem):
        ask(filled, "SELECT 1; SELECT 2", arrow=True)


def test_a_problem_names_statement_and_position(filled):
    with pytest.raises(Problem) as refused:
        ask(filled, "SELECT 1;\nSELECT 1 FRM x")
    assert (
        refused.value.status,
        refused.value.more["statement"],
        refused.value.more["completed"],
    ) == (422, 2, 1)
    assert refused.value.more["position"] > 10


def test_the_command_runs_statements_with_the_rights_of_whom_it_names(filled, monkeypatch):
    monkeypatch.setenv("SURGETANK_HOME", str(filled.settings.home))
    monkeypatch.setenv("SURGETANK_DATABASE_URL", filled.settings.database_url.get_secret_value())
    text = "SELECT thread_id FROM system.threads"
    done = CliRunner().invoke(app, ["sql", "-c", text, "--format", "json"])
    assert json.loads(done.stdout) == [{"thread_id": "t-1"}]
    done = CliRunner().invoke(app, ["sql", "-c", text, "--as-user", "bob", "--format", "json"])
    assert json.loads(done.stdout) == []
    text = "SELECT * FROM system.system_errors"
    done = CliRunner().invoke(app, ["sql", "-c", text, "--as-user", "ada"])
    assert done.exit_code == NotFound.exit_code
    assert "not for you" in done.stderr


def test_closing_the_engine_ends_its_processes(filled):
    filled.sql.run("SELECT 1", SqlCaller(user="ada")).done()
    queries = filled.parts.tables.open().queries
    filled.close()
    with pytest.raises(EngineClosed):
        filled.sql("SELECT 1")
    with pytest.raises(EngineClosed):
        queries._pool.run("SELECT 1", user="ada", tables=lambda _: None)


def test_the_place_of_an_error_is_that_of_the_text_as_it_was_written(filled):
    before = "SELECT 'ä';\nSELECT thread_id FROM system.threads LEFT JOIN \"system\".runs USING (thread_id) "
    for text, at in (
        (before + "WHERE CAST(thread_id AS INT) = 1", "CAST"),
        (before + "WERE 1", "WERE"),
        (before + "WHERE true; CREATE TABLE t (a INT", ""),
        ("SELECT 1;\nCREATE TABEL t", "TABEL"),
    ):
        for caller in (OWNER, SqlCaller(user="root", administers=True)):
            outcome = filled.sql.run(text, caller)
            assert outcome.error is not None
            assert outcome.position == (text.index(at) if at else len(text))
