"""Fixtures for all tests: real PostgreSQL servers of this run's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from support import workload
from support.pgbouncer import find_pgbouncer, running_pgbouncer
from support.postgres import PostgresServer, make_template, running_server
from support.recycling import Databases
from support.s3_server import S3Server, running_s3
from support.torture import TORTURED
from surgetank import Surgetank

# A run that fails fails again. With SURGETANK_TORTURE_SEEDS examples are new each time.
settings.register_profile("always the same", derandomize=True)
if not TORTURED:
    settings.load_profile("always the same")


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[Path]:
    """Folder with a fresh data directory `data`, made once and copied for each server."""
    folder = make_template()
    yield folder.path
    folder.close()


@pytest.fixture(scope="session")
def postgres_server(postgres_template: Path) -> Iterator[PostgresServer]:
    """The run's server, shared by all tests. Tests that stop or kill a server take
    `private_postgres`."""
    with running_server(postgres_template) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """URL of a database that all tests share: for reading and for tables with names of your own."""
    return postgres_server.url


@pytest.fixture
def fresh_database(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a new, empty database, dropped afterwards."""
    name = postgres_server.create_database()
    yield postgres_server.url_of(name)
    postgres_server.drop_database(name)


@pytest.fixture
def private_postgres(postgres_template: Path) -> Iterator[PostgresServer]:
    """A server of the test's own, to be stopped, killed and started again."""
    with running_server(postgres_template) as server:
        yield server


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of a new, empty database through PgBouncer in transaction mode. Skips where it isn't
    installed."""
    program = find_pgbouncer()
    if program is None:
        pytest.skip("pgbouncer is not installed (apt-get install pgbouncer)")
    name = postgres_server.create_database()
    with running_pgbouncer(program, postgres_server, name) as url:
        yield url
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """moto's server, shared by all tests: each makes a bucket of its own."""
    with running_s3() as server:
        yield server


@pytest.fixture(scope="session")
def undisturbed(
    databases: Databases, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """What is in the database after the workload ran undisturbed and was flushed in one go."""
    name = databases.take()
    tank = Surgetank(
        home=tmp_path_factory.mktemp("undisturbed"),
        database_url=postgres_server.url_of(name),
        flush_in_process=False,
        flush_on_close=False,
    )
    for _ in workload.steps(tank.checkpointer()):
        pass
    assert tank.flush().ok
    picture = workload.picture(tank)
    tank.close()
    databases.give_back(name)
    return picture
