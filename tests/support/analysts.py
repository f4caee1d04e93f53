"""A database with data of ada, bob and nobody, and analysts of it.

It belongs to a role that may make roles and is no superuser, as a managed one does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from support.postgres import PostgresServer
from support.savers import put
from surgetank import Surgetank
from surgetank.app.analysts import AddedAnalyst
from surgetank.workflows.runs import NewRun

VIEWS = (
    "threads",
    "checkpoints",
    "thread_logs",
    "system_errors",
    "workflows",
    "runs",
    "user_checkpoints",
)
BOB = "bobs_secret"  # in everything of bob's, and in nothing of ada's


def name_of(what: str) -> str:
    """A role's name: roles are the server's, which other tests use too."""
    return f"analyst_{what}_{uuid4().hex[:8]}"


@dataclass
class Furnished:
    """A database with data of ada, bob and nobody, and its analysts."""

    server: PostgresServer
    database: str
    tank: Surgetank
    ada: AddedAnalyst
    everyone: AddedAnalyst

    def url(self, who: AddedAnalyst) -> str:
        return self.server.url_of(self.database, user=who.analyst.name, password=str(who.password))

    def connect(self, who: AddedAnalyst) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url(who), autocommit=True)


def furnish(tank: Surgetank) -> None:
    saver = tank.checkpointer()
    for user, secret in (("ada", "adas"), ("bob", BOB)):
        first = put(saver, f"{secret}-t", {"x": secret}, user_id=user)
        put(
            saver,
            f"{secret}-t",
            {"x": secret, "deep": {"er": [secret]}},
            parent=first,
            step=1,
            user_id="ada",
        )
        put(saver, f"{secret}-sub", {"x": secret}, ns="sub:1", user_id=user)
        tank.emit_log(f"line {secret}", thread_id=f"{secret}-t", user_id=user)
        tank.log_system_error(
            f"odd_{user}", f"error {secret}", thread_id=f"{secret}-t", context={"of": secret}
        )
        tank.runs.accept(
            NewRun(thread_id=f"{secret}-r", assistant_id=secret, owner=user), actor=user
        )
        # made for bob, though its checkpoints name ada: what was recorded when it was made counts
    tank.runs.accept(NewRun(thread_id=f"{BOB}-made", assistant_id=BOB, owner="bob"), actor="bob")
    put(saver, f"{BOB}-made", {"x": BOB}, user_id="ada")
    put(saver, f"{BOB}-nobodys", {"x": BOB})
    assert tank.flush().ok


def asked(tank: Surgetank, thread: str) -> None:
    """A question of a run, as its end writes it."""
    with tank.database.asking() as connection:
        connection.execute(
            "INSERT INTO surgetank.user_checkpoints (interrupt_id, thread_id, workflow_id, run_id, assistant_id, kind,"
            " agent_outputs) SELECT 'i', r.thread_id, r.workflow_id, r.run_id, 'g', 'free', to_jsonb(r.thread_id)"
            " FROM surgetank.runs r WHERE r.thread_id = %s",
            (thread,),
        )


@pytest.fixture(scope="session")
def furnished(
    postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Furnished]:
    keeper = f"keeper_{uuid4().hex[:8]}"
    database = postgres_server.create_database()
    with postgres_server.admin() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE").format(sql.Identifier(keeper)))
        admin.execute(
            sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
                sql.Identifier(database), sql.Identifier(keeper)
            )
        )
    tank = Surgetank(
        tmp_path_factory.mktemp("home"), database_url=postgres_server.url_of(database, user=keeper),
        flush_in_process=False, flush_on_close=False, disk_reserve=0,
    ).open()  # fmt: skip
    furnish(tank)
    for secret in ("adas", BOB):
        asked(tank, f"{secret}-r")
    ada = tank.analysts.add(name_of("ada"), users=["ada"], close_public=True)
    everyone = tank.analysts.add(name_of("all"), everyone=True)
    yield Furnished(postgres_server, database, tank, ada, everyone)
    for analyst in tank.analysts.list():
        tank.analysts.remove(analyst.name)
    tank.close()
    postgres_server.drop_database(database)
    with postgres_server.admin() as admin:
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(keeper)))


def rows(connection: psycopg.Connection[Any], view: str) -> list[Any]:
    return connection.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(view))).fetchall()


def owner_of(furnished: Furnished) -> str:
    with furnished.tank.database.asking() as connection:
        (owner,) = connection.execute("SELECT current_user").fetchone() or ("",)
    return str(owner)
