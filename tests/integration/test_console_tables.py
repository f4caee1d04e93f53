"""The console's tables, SQL and erasures without a browser: who sees whose rows, what is kept and for whom."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.routing import Mount

from support.console import Page, Person
from support.http import ADMIN_TOKEN, Server, running
from support.postgres import PostgresServer
from support.recycling import Databases
from support.savers import put
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.console.app import Console
from surgetank.console.drawing import chart_of
from surgetank.console.results import KEPT_S, Results
from surgetank.exceptions import NotFound

HOSTILE = "</td><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\" ' &amp;"
MAKE = """
CREATE NAMESPACE app;
CREATE TABLE app.notes (id BIGINT PRIMARY KEY, text TEXT DEFAULT 'none') WITH (FLUSH_POLICY = 'rows:500,interval:60');
CREATE SHARED TABLE app."order" (name TEXT) WITH (ACCESS_LEVEL = 'read');
CREATE SHARED TABLE app.secret (name TEXT)
"""


@pytest.fixture(scope="module")
def server(
    databases: Databases, postgres_server: PostgresServer, tmp_path_factory: Any
) -> Iterator[Server]:
    """One for all: each test leaves the rows as they were."""
    name = databases.take()
    tank = Surgetank(
        home=tmp_path_factory.mktemp("tables"), database_url=postgres_server.url_of(name), flush_in_process=False,
        flush_on_close=False, admin_token=ADMIN_TOKEN,
    )  # fmt: skip
    with tank:
        tank.sql(MAKE)
        tank.sql("INSERT INTO app.notes VALUES (1, $1), (2, 'tea')", [HOSTILE], user="ada")
        tank.tables.flush()
        tank.sql("INSERT INTO app.notes VALUES (1, 'of bob')", user="bob")
        with running(tank, mounts=[Console]) as started:
            yield started
    databases.give_back(name)


def state_of(server: Server) -> Any:
    """What the console keeps in memory."""
    (mounted,) = [r for r in server.app.routes if isinstance(r, Mount) and r.path == "/console"]
    return mounted.app.state  # type: ignore[attr-defined]


@pytest.fixture
def ada(server: Server) -> Person:
    return Person.of(server, server.token("user", "ada"))


@pytest.fixture
def admin(server: Server) -> Person:
    return Person.of(server, ADMIN_TOKEN)


def run(person: Person, text: str, **more: Any) -> Page:
    return person.post("/sql", 200, text=text, **more)


def test_tables_are_listed_with_what_waits_and_what_is_in_files(
    server: Server, ada: Person, admin: Person
) -> None:
    page = admin.get("/tables")
    assert "app.notes each user's own 2 1 2 1" in page.text
    assert "app.secret shared by all" in page.text
    one = admin.get("/table", namespace="app", name="notes")
    for words in (
        "Waiting 1 changes", "Rows in files 2 in 1 file", "after 500 changes or 60 s",
        "id key BIGINT no none", "text TEXT yes 'none'", "ada", "a user's rows go with",
    ):  # fmt: skip
        assert words in one.text, words
    (query,) = one.links("/sql?")
    assert "SELECT * FROM app.notes LIMIT 100" in admin.get(query).text
    (quoted,) = admin.get("/table", namespace="app", name="order").links("/sql?")
    assert 'FROM app."order"' in admin.get(quoted).text
    seen = ada.get("/tables").text
    assert "app.order" in seen
    assert "app.secret" not in seen
    assert "Size of files" not in seen
    ada.get("/table", 404, namespace="app", name="secret")
    mine = ada.get("/table", namespace="app", name="notes").text
    assert "Waiting" not in mine
    assert ".parquet" not in mine
    ada.post("/table/flush?namespace=app&name=notes", 403)
    operator = Person.of(server, server.token("operator", "op"))
    assert ".parquet" not in operator.get("/table", namespace="app", name="notes").text
    job = operator.post("/table/flush?namespace=app&name=notes", 200).text
    assert "Completed" in job
    assert "everything is in files" in operator.get("/table", namespace="app", name="notes").text


def test_everybody_asks_over_their_own_rows_as_over_http(
    server: Server, ada: Person, admin: Person
) -> None:
    asked = "SELECT id, text FROM app.notes ORDER BY id"
    page = run(ada, asked)
    assert "2 rows" in page.text
    assert "of bob" not in page.text
    assert HOSTILE in page.text.replace("  ", " ")
    assert not [tag for tag, attrs in page.tags if tag == "img" and attrs.get("src") == "x"]
    over_http = server.as_role("user", "ada").post("/sql", json={"sql": asked}).json()
    assert [row[0] for row in over_http["results"][0]["rows"]] == [1, 2]
    assert "of bob" in run(admin, asked).text
    for refused in ("SELECT * FROM app.secret", "SELECT * FROM system.files", "CREATE NAMESPACE x"):
        page = run(ada, refused)
        assert any(attrs.get("role") == "alert" for _, attrs in page.tags), refused
    viewer = Person.of(server, server.token("viewer", "ada"))
    assert "2 rows" in run(viewer, asked).text
    assert any(a.get("role") == "alert" for _, a in run(viewer, "DELETE FROM app.notes").tags)
    acted = run(admin, "EXECUTE AS USER 'ada' SELECT count(*) AS n FROM app.notes").text
    assert "BIGINT 2" in acted


def test_statements_run_until_one_fails_which_is_named_with_its_place(ada: Person) -> None:
    text = "INSERT INTO app.notes VALUES (3, 'x'); SELECT 5 AS five; SELECT 1 +"
    page = run(ada, text)
    assert "1 row changed" in page.text
    assert "five INTEGER 5" in page.text
    assert "2 statements before it were run" in page.text
    (place,) = [a["data-position"] for _, a in page.tags if a.get("data-position")]
    assert text[int(place or 0) :].startswith("+")
    ada.post("/sql", 422, text="  ")
    ada.post("/sql", 422, text="x" * 262_145)
    assert run(ada, "DELETE FROM app.notes WHERE id = 3").status == 200
    part = ada.client.post(
        "/sql", data={"text": "SELECT NULL AS n"},
        headers={"X-CSRF-Token": ada.secret, "HX-Request": "true"},
    )  # fmt: skip
    assert part.text.lstrip().startswith('<div id="results"')
    assert "NULL" in part.text


def test_a_result_is_paged_drawn_and_downloaded_by_its_owner_only(
    server: Server, ada: Person
) -> None:
    page = run(
        ada,
        "SELECT i AS n, i * 1.5 AS f, 'w' || i AS w, repeat('y', 300) AS long FROM range(120) t(i)",
    )
    assert "Rows 1 to 50 of 120" in page.text
    (further,) = page.links("page=1")
    assert "w50" in ada.get(further).text
    csv = ada.client.get(page.links("/csv")[0])
    assert csv.headers["content-disposition"] == 'attachment; filename="result.csv"'
    assert csv.text.splitlines()[120].startswith("119,178.5,w119,yyy")
    parquet = pq.read_table(io.BytesIO(ada.client.get(page.links("/parquet")[0]).content))
    assert parquet.num_rows == 120
    assert parquet.column("long")[0].as_py() == "y" * 300
    name = page.links("/csv")[0].partition("id=")[2]
    drawn = ada.client.get("/sql/result/chart", params={"id": name}).json()
    assert (drawn["along"], drawn["name"]) == ("words", "w")
    assert [series["name"] for series in drawn["series"]] == ["n", "f"]
    bob = Person.of(server, server.token("user", "bob"))
    for path in ("/sql/result", "/sql/result/csv", "/sql/result/chart"):
        bob.get(path, 404, id=name)
    ada.get("/sql/result/exe", 404, id=name)
    assert "Another server keeps this result" in ada.get("/sql/result", 404, id="ab.c").text
    assert "there is nothing" not in ada.get("/sql", text="DROP TABLE app.notes").text
    assert server.tank.tables.describe("app.notes").name == "notes"


def test_a_file_for_spreadsheets_has_no_formulas(ada: Person) -> None:
    page = run(
        ada,
        """SELECT '=cmd|x' AS "=a", chr(9) || '@b' AS b, '-2+3' AS c, -1.5 AS d, '-7' AS e, 'a=b' AS f,
        '+49 30' AS g, '-170141183460469231731687303715884105728'::HUGEINT AS h, '-'::VARCHAR AS i""",
    )
    names, row = ada.client.get(page.links("/csv")[0]).text.splitlines()
    assert names == "'=a,b,c,d,e,f,g,h,i"
    assert row == (
        "'=cmd|x,'\t@b,'-2+3,-1.5,-7,a=b,'+49 30,-170141183460469231731687303715884105728,'-"
    )


def test_names_to_complete_are_those_that_may_be_read(ada: Person, admin: Person) -> None:
    mine = ada.client.get("/sql/names").json()
    assert mine["app.notes"][:2] == ["id", "text"]
    assert "thread_id" in mine["system.threads"]
    assert "app.secret" not in mine
    assert "system.files" not in mine
    assert {"app.secret", "system.files"} <= set(admin.client.get("/sql/names").json())


def test_a_statement_that_runs_is_cancelled_by_who_began_it(server: Server, ada: Person) -> None:
    found: list[Page] = []
    long = "SELECT count(*) FROM range(100000) a, range(100000) b, range(100000) c"
    runner = threading.Thread(target=lambda: found.append(run(ada, long, run="r1")))
    runner.start()
    known = state_of(server).running
    wait_until(lambda: known._running, "the statement to run")
    bob = Person.of(server, server.token("user", "bob"))

    def cancel(person: Person, name: str) -> bool:
        headers = {"X-CSRF-Token": person.secret}
        answer = person.client.post("/sql/cancel", data={"run": name}, headers=headers)
        return bool(answer.json()["cancelled"])

    assert not cancel(bob, "r1")
    assert not cancel(ada, "other")
    assert cancel(ada, "r1")
    runner.join(60)
    assert "The statement was cancelled." in found[0].text
    assert not known._running


def test_results_are_bounded_and_forgotten() -> None:
    import pyarrow as pa

    from surgetank.app.sql import SqlResult

    now = [0.0]
    results = Results(lambda: now[0])
    result = SqlResult(number=1, kind="SELECT", rows=pa.table({"a": [1]}), types=("BIGINT",))
    names = [results.keep("ada", result) for _ in range(9)]
    other = results.keep("bob", result)
    assert results.find("bob", other) is result
    for scope, name in (("ada", names[0]), ("ada", other), ("bob", "")):
        with pytest.raises(NotFound):
            results.find(scope, name)
    assert results.find("ada", names[1]) is result
    now[0] = KEPT_S
    with pytest.raises(NotFound):
        results.find("ada", names[1])


def test_what_goes_along_a_chart() -> None:
    import pyarrow as pa

    table = pa.table({"n": [3, 1, None], "x": [1.0, float("nan"), 2.0], "t": ["a", "b", "c"]})
    words = chart_of(table, ("BIGINT", "DOUBLE", "VARCHAR"))
    assert words is not None
    assert (words["along"], words["labels"]) == ("words", ["a", "b", "c"])
    assert words["series"][1] == {"name": "x", "values": [1.0, None, 2.0]}
    numbers = chart_of(table.select([0, 1]), ("BIGINT", "DOUBLE"))
    assert numbers is not None
    assert (numbers["along"], numbers["x"]) == ("number", [1.0, 3.0])
    assert json.dumps(numbers)
    rows = chart_of(table.select([1]), ("DOUBLE",))
    assert rows is not None
    assert (rows["along"], rows["x"]) == ("rows", [1.0, 2.0, 3.0])
    assert chart_of(table.select([2]), ("VARCHAR",)) is None


def test_a_user_is_erased_after_the_name_was_typed_twice(
    server: Server, admin: Person, ada: Person
) -> None:
    put(server.tank.checkpointer(), "of-eve", {"x": 1}, user_id="eve<b>")
    server.tank.flush()
    ada.get("/erasures", 403)
    refused = admin.post("/erasures", 422, user="eve<b>", again="eve")
    assert "the same both times" in refused.text
    assert server.tank.erasures() == []
    page = admin.post("/erasures", 200, user="eve<b>", again="eve<b>")
    assert "Erasures" in page.text
    wait_until(lambda: [e.state for e in server.tank.erasures()] == ["completed"], "its end", 60)
    shown = admin.get("/erasures/now").text
    assert "Erased the name is erased too" in shown
    assert "eve<b>" not in shown
    found = server.tank.erasures.of("eve<b>")
    assert found is not None
    assert found.finished_at is not None
    assert server.tank.erasures.of("somebody") is None


def test_tables_and_sql_say_so_when_the_database_is_away(
    private_postgres: PostgresServer, make_tank: Any
) -> None:
    tank = make_tank(
        admin_token=ADMIN_TOKEN, database_url=private_postgres.url, connect_timeout=1.0
    )
    tank.sql("CREATE NAMESPACE app; CREATE TABLE app.notes (id BIGINT PRIMARY KEY)")
    tank.sql("INSERT INTO app.notes VALUES (1)", user="ada")
    with running(tank, mounts=[Console]) as server:
        admin = Person.of(server, ADMIN_TOKEN)
        private_postgres.kill()
        assert "app.notes" in admin.get("/tables").text
        assert "id key BIGINT" in admin.get("/table", namespace="app", name="notes").text
        page = run(admin, "SELECT * FROM app.notes")
        assert "1 row" in page.text
        assert "as they were known last" in page.text
        assert any(a.get("role") == "alert" for _, a in run(admin, "CREATE NAMESPACE y").tags)
        assert "can't be asked" in admin.get("/erasures").text
        private_postgres.start()
