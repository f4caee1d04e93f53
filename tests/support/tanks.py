"""Fixtures: engines on a migrated database of the test's own; nothing flushes unless the test asks
for it.

With `TEST_BUFFER=redis` in the environment their buffers are in Redis, those of commands too: what an engine
promises can be tried on it by any test that opens its engine here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.postgres import PostgresServer
from support.recycling import Databases
from support.redis_server import url_for
from surgetank import Surgetank
from surgetank.database.migrate import migrate
from surgetank.database.pool import Database

MakeTank = Callable[..., Surgetank]


def on_redis(request: pytest.FixtureRequest) -> bool:
    """Whether this test's engines have their buffers in Redis."""
    chosen = getattr(request.module, "ON_REDIS", False)
    return bool(chosen) or os.environ.get("TEST_BUFFER") == "redis"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for name in os.environ:
        if name.startswith("SURGETANK_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SURGETANK_DISK_RESERVE", "0")  # thousands of homes on one disk
    if on_redis(request):
        home: Path = request.getfixturevalue("tmp_path") / "home"
        monkeypatch.setenv("SURGETANK_BUFFER_URL", url_for(home))


@pytest.fixture(scope="session")
def migrated_template(postgres_server: PostgresServer) -> str:
    """Name of a migrated, empty database to be copied."""
    name = postgres_server.create_database()
    database = Database(postgres_server.url_of(name))
    migrate(database)
    database.close()
    return name


@pytest.fixture(scope="session")
def databases(postgres_server: PostgresServer, migrated_template: str) -> Databases:
    """Migrated databases, which tests have one after the other."""
    return Databases(postgres_server, migrated_template)


@pytest.fixture
def database_url(postgres_server: PostgresServer, databases: Databases) -> Iterator[str]:
    """URL of a migrated, empty database that is this test's own."""
    name = databases.take()
    yield postgres_server.url_of(name)
    databases.give_back(name)


@pytest.fixture
def make_tank(
    tmp_path: Path, database_url: str, request: pytest.FixtureRequest
) -> Iterator[MakeTank]:
    """Opens engines on this test's home and database, or on what the test gives."""
    opened: list[Surgetank] = []

    def make(**settings: Any) -> Surgetank:
        settings = {
            "home": tmp_path / "home", "database_url": database_url, "flush_in_process": False,
            "flush_on_close": False, "breaker_max": 0.2, "retry_base": 0.05, "retry_max": 0.2, **settings,
        }  # fmt: skip
        if on_redis(request):
            settings = {"buffer_url": url_for(Path(settings["home"])), **settings}
        tank = Surgetank(**settings).open()
        opened.append(tank)
        return tank

    yield make
    for tank in opened:
        tank.close()


@pytest.fixture
def tank(make_tank: MakeTank) -> Surgetank:
    """An engine that flushes when the test says so."""
    return make_tank()
