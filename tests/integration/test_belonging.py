"""A buffer belongs to one database: nothing of it reaches another one, and graphs go on while it is
refused."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from support.postgres import PostgresServer
from support.savers import config
from support.travel import Life, checkpoints, flush_all, lines, told
from surgetank import Surgetank
from surgetank.cli.app import app
from surgetank.exceptions import WrongDatabase

MakeTank = Callable[..., Surgetank]


def rows(url: str) -> int:
    """How many checkpoints and log lines a database has; 0 without a schema."""
    with psycopg.connect(url) as connection:
        (there,) = connection.execute("SELECT to_regclass('surgetank.checkpoints')").fetchone() or (
            None,
        )
        if there is None:
            return 0
        query = "SELECT (SELECT count(*) FROM surgetank.checkpoints) + (SELECT count(*) FROM surgetank.thread_logs)"
        (count,) = connection.execute(query).fetchone() or (0,)
    return int(count)


@pytest.fixture
def other_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """Another customer's database: migrated, with an id of its own."""
    name = postgres_server.create_database(migrated_template)
    url = postgres_server.url_of(name)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("UPDATE surgetank.database_identity SET id = gen_random_uuid()")
    yield url
    postgres_server.drop_database(name)


def test_entries_of_one_database_never_reach_another_and_the_graph_goes_on(
    make_tank: MakeTank, database_url: str, other_url: str
) -> None:
    life, tank = Life(), make_tank()
    life.step(tank, "customer A")
    flush_all(tank)
    life.step(tank, "waits for customer A")
    tank.close()

    tank = make_tank(database_url=other_url)
    life.step(tank, "accepted although it is the wrong database")
    job = tank.flush("checkpoints")

    assert not job.ok
    assert "is not the one that this buffer belongs to" in job.result["message"]
    assert "adopt" in job.result["errors"][0]["remedy"]
    assert rows(other_url) == 0
    critical = [n for n in tank.status().notices if n.severity == "critical"]
    assert any("belongs to" in notice.message for notice in critical)
    newest = tank.checkpointer().get_tuple(config("t"))
    assert newest is not None
    assert newest.checkpoint["channel_values"]["text"] == life.steps[-1][1]
    tank.close()

    tank = make_tank(database_url=database_url)
    flush_all(tank)
    assert checkpoints(tank) == dict(life.steps)


def test_before_the_first_contact_a_buffer_belongs_to_the_address_that_it_was_accepted_for(
    make_tank: MakeTank, other_url: str
) -> None:
    tank = make_tank(database_url="postgresql://nobody@127.0.0.1:1/customer_a")
    tank.emit_log("for customer A", thread_id="t")
    tank.close()

    tank = make_tank(database_url=other_url)
    job = tank.flush("thread_logs")

    assert not job.ok
    assert "127.0.0.1:1/customer_a" in job.result["message"]
    assert rows(other_url) == 0


def test_an_empty_buffer_that_never_met_its_database_may_go_anywhere(
    make_tank: MakeTank, database_url: str
) -> None:
    make_tank(database_url="postgresql://nobody@127.0.0.1:1/typo").close()
    tank = make_tank()
    tank.emit_log("line", thread_id="t")
    assert tank.flush("thread_logs").ok


def test_a_database_whose_schema_is_gone_is_refused_and_nothing_is_made_in_it(
    make_tank: MakeTank, database_url: str
) -> None:
    tank = make_tank()
    tank.emit_log("before", thread_id="t")
    assert tank.flush("thread_logs").ok
    tank.close()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA surgetank CASCADE")

    tank = make_tank()
    tank.emit_log("after", thread_id="t")
    job = tank.flush("thread_logs")

    assert not job.ok
    assert "no Surgetank schema" in job.result["message"]
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT to_regnamespace('surgetank')").fetchone() == (None,)
    with pytest.raises(WrongDatabase):
        tank.parts.database.ping()

    adopted = tank.adopt()
    assert adopted.database_id
    assert tank.flush("thread_logs").ok
    assert "after" in lines(tank)


def test_adopt_asks_first_and_then_what_waits_goes_to_the_new_database(
    make_tank: MakeTank, other_url: str, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank()
    life.step(tank, "in the old database")
    flush_all(tank)
    life.step(tank, "waits")
    tank.close()
    arguments = ["adopt", "--home", str(tmp_path / "home"), "--database-url", other_url]

    refused = CliRunner().invoke(app, arguments, input="n\n")
    assert refused.exit_code != 0
    assert "Shall the buffer belong" in refused.output
    done = CliRunner().invoke(app, arguments, input="y\n")
    assert done.exit_code == 0, done.output

    tank = make_tank(database_url=other_url)
    flush_all(tank)
    assert lines(tank) == ["waits"]
    assert not told(tank, "database_went_back")


def test_a_moved_database_is_known_by_its_id_bound_again_and_told(
    make_tank: MakeTank, private_postgres: PostgresServer, postgres_template: Path, tmp_path: Path
) -> None:
    life, tank = Life(), make_tank(database_url=private_postgres.url)
    life.step(tank, "before")
    flush_all(tank)
    before = tank.parts.buffer.binding()
    tank.close()
    with private_postgres.admin() as connection:
        connection.execute("CREATE DATABASE moved TEMPLATE postgres")

    tank = make_tank(database_url=private_postgres.url_of("moved"))
    life.step(tank, "after")
    flush_all(tank)

    now = tank.parts.buffer.binding()
    assert before is not None
    assert now is not None
    assert now.database_id == before.database_id
    assert now.database_oid != before.database_oid
    assert now.system_id == before.system_id
    assert told(tank, "database_moved")
    assert not told(tank, "database_went_back")
    assert checkpoints(tank) == dict(life.steps)


def test_a_clone_that_lacks_the_newest_entries_gets_them(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    life, tank = Life(), make_tank(database_url=private_postgres.url)
    life.step(tank, "before")
    flush_all(tank)
    tank.parts.database.reset()
    with psycopg.connect(private_postgres.url_of("template1"), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'"
        )
        connection.execute("CREATE DATABASE clone TEMPLATE postgres")
    life.step(tank, "not in the clone")
    flush_all(tank)
    tank.close()

    tank = make_tank(database_url=private_postgres.url_of("clone"))
    flush_all(tank)

    assert checkpoints(tank) == dict(life.steps)
    assert told(tank, "database_moved")


def test_a_user_who_may_not_ask_for_the_servers_identifier_is_no_stranger(
    make_tank: MakeTank, private_postgres: PostgresServer
) -> None:
    with private_postgres.admin() as connection:
        connection.execute("CREATE ROLE app LOGIN")
        connection.execute("CREATE DATABASE shop OWNER app")
    with psycopg.connect(private_postgres.url_of("shop")) as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM public")
    url = private_postgres.url_of("shop", user="app")
    for text in ("one", "two"):
        tank = make_tank(database_url=url)
        tank.emit_log(text, thread_id="t")
        assert tank.flush("thread_logs").ok
        tank.close()
    tank = make_tank(database_url=url)
    binding = tank.parts.buffer.binding()
    assert binding is not None
    assert binding.system_id is None
    assert lines(tank) == ["one", "two"]


def test_looking_at_a_home_binds_it_to_nothing(make_tank: MakeTank, tmp_path: Path) -> None:
    tank = make_tank()
    tank.status(ping=True)
    tank.errors.find()
    assert tank.parts.buffer.binding() is None


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of default homes."""
    monkeypatch.setattr("platformdirs.user_data_dir", lambda *_, **__: str(tmp_path / "data"))
    return tmp_path / "data"


def test_each_database_has_a_default_home_of_its_own(
    make_tank: MakeTank, root: Path, database_url: str, other_url: str
) -> None:
    homes = []
    for url in (database_url, other_url):
        tank = make_tank(home=None, database_url=url)
        tank.emit_log("line", thread_id="t")
        assert tank.flush("thread_logs").ok
        homes.append(tank.settings.home)
        tank.close()
    assert len(set(homes)) == 2
    assert all(home.parent == root / "databases" for home in homes)
    assert make_tank(home=None, database_url=database_url).settings.home == homes[0]


def test_a_default_home_of_an_older_version_is_used_on_by_its_database_only(
    make_tank: MakeTank, root: Path, database_url: str, other_url: str
) -> None:
    tank = make_tank(home=root)  # as the older version did
    tank.emit_log("line", thread_id="t")
    tank.close()
    assert make_tank(home=None, database_url=database_url).settings.home == root
    assert make_tank(home=None, database_url=other_url).settings.home != root


def test_what_waits_for_the_same_database_in_a_home_beside_is_shown_and_flushed(
    make_tank: MakeTank, root: Path, database_url: str
) -> None:
    tank = make_tank(home=None)
    tank.emit_log("here", thread_id="t")
    assert tank.flush("thread_logs").ok
    beside = make_tank(home=root)
    beside.emit_log("beside", thread_id="t")
    assert beside.flush("thread_logs").ok
    beside.emit_log("waits beside", thread_id="t")
    beside.close()
    assert [
        n for n in tank.status().notices if str(root) in n.message and "1 entries wait" in n.message
    ]

    tank.parts.clock = lambda: time.time() + 10  # it is due by its age
    tank.parts.flush_beside(threading.Event())

    # The two buffers have numbers of their own: lines with the same number stand in the order of
    # the buffers' ids.
    assert sorted(lines(tank)) == ["beside", "here", "waits beside"]
    assert not tank.status().notices
