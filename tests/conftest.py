"""Fixtures for all tests: real PostgreSQL servers of this run's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import workload
from support.pgbouncer import find_pgbouncer, running_pgbouncer
from support.postgres import PostgresServer, make_template, running_server


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


@pytest.fixture
def undisturbed(make_tank, postgres_server, migrated_template, tmp_path):
    """What is in the database after the workload ran undisturbed and was flushed in one go."""
    name = postgres_server.create_database(migrated_template)
    tank = make_tank(home=tmp_path / "undisturbed", database_url=postgres_server.url_of(name))
    for _ in workload.steps(tank.checkpointer()):
        pass
    assert tank.flush().ok
    yield workload.picture(tank)
    tank.close()
    postgres_server.drop_database(name)
