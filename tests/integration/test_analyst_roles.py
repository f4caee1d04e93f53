"""Roles of analysts are made, bounded and taken away, whatever the database's own user may do."""

from __future__ import annotations

import json
import re
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.types.json import Jsonb
from typer.testing import CliRunner

from support.analysts import BOB, VIEWS, Furnished, name_of, owner_of, rows
from support.savers import put
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank.app.analysts import SCHEMA
from surgetank.cli.app import app
from surgetank.exceptions import Conflict, DatabaseRefused, InvalidRequest, NotFound


def test_the_role_is_bounded_and_may_use_one_schema(furnished: Furnished) -> None:
    with furnished.connect(furnished.ada) as ada:
        for name, value in (
            ("search_path", SCHEMA), ("statement_timeout", "1min"), ("default_transaction_read_only", "on")
        ):  # fmt: skip
            assert ada.execute(f"SHOW {name}".encode()).fetchone() == (value,)
        role = ada.execute(
            "SELECT rolconnlimit, rolinherit, rolsuper FROM pg_roles WHERE rolname = session_user"
        ).fetchone()
        assert role == (15, False, False)
        usable = ada.execute(
            "SELECT nspname FROM pg_namespace WHERE has_schema_privilege(oid, 'USAGE') AND nspname !~ '^pg_' ORDER BY 1"
        ).fetchall()
        assert usable == [("information_schema",), ("public",), (SCHEMA,)]


def test_what_is_open_to_public_is_named_and_closed_on_request(furnished: Furnished) -> None:
    tank, other = furnished.tank, name_of("b")
    (left,) = furnished.ada.open  # of large objects only a superuser can take the right
    assert "lo_create" in left
    with tank.database.asking() as owner:
        owner.execute("CREATE SCHEMA shared; GRANT CREATE ON SCHEMA shared TO PUBLIC")
        owner.execute(f"GRANT TEMPORARY ON DATABASE {furnished.database} TO PUBLIC".encode())
    with pytest.raises(Conflict, match='REVOKE CREATE ON SCHEMA "shared" FROM PUBLIC'):
        tank.analysts.add(other, everyone=True)
    assert other not in {analyst.name for analyst in tank.analysts.list()}, "all or nothing"
    assert tank.analysts.add(other, everyone=True, close_public=True).open == furnished.ada.open
    with tank.database.asking() as owner:
        assert owner.execute(
            "SELECT has_schema_privilege(%s, 'shared', 'CREATE')", (other,)
        ).fetchone() == (False,)
    tank.analysts.remove(other)


def test_a_superuser_s_database_is_closed_altogether(make_tank: MakeTank) -> None:
    tank, name = make_tank(), name_of("only")
    added = tank.analysts.add(name, everyone=True, close_public=True)
    try:
        assert added.open == ()
        url = f"{added.url}&password={added.password}"
        with psycopg.connect(url, autocommit=True) as session:
            session.execute("SET default_transaction_read_only = off")
            for made in ("lo_create(0)", "lo_creat(0)", "lo_from_bytea(0, 'x')"):
                with pytest.raises(errors.InsufficientPrivilege):
                    session.execute(f"SELECT {made}".encode())
    finally:
        tank.analysts.remove(name)


def test_removing_one_ends_its_sessions_and_its_role(furnished: Furnished) -> None:
    tank, name = furnished.tank, name_of("gone")
    added = tank.analysts.add(
        name, users=["ada", "bob"], password="correct horse battery", connections=2
    )
    assert (added.password, added.analyst.users) == ("correct horse battery", ("ada", "bob"))
    sessions = [furnished.connect(added), furnished.connect(added)]
    assert BOB in str(rows(sessions[0], "threads"))
    with pytest.raises(psycopg.OperationalError, match="too many connections"):
        furnished.connect(added)
    assert {a.name: a.sessions for a in tank.analysts.list()}[name] == 2
    removed = tank.analysts.remove(name)
    assert (removed.sessions, removed.left) == (2, ())
    for session in sessions:
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")
        session.close()
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        furnished.connect(added)
    with pytest.raises(NotFound):
        tank.analysts.remove(name)
    with tank.database.asking() as owner:
        assert owner.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,)).fetchall() == []
    actions = [(row["action"], row["detail"]) for row in tank.audit.list(limit=2)]
    assert actions == [
        ("analyst_removed", {"role": name}),
        ("analyst_added", {"role": name, "sees": 2}),
    ]


def test_removing_one_that_was_interrupted_is_finished(
    furnished: Furnished, monkeypatch: pytest.MonkeyPatch
) -> None:
    analysts, name = furnished.tank.analysts, name_of("half")
    added = analysts.add(name, everyone=True)
    session = furnished.connect(added)
    with monkeypatch.context() as patch:
        patch.setattr(type(analysts), "_end_sessions", lambda *_: 1 // 0)
        with pytest.raises(ZeroDivisionError):
            analysts.remove(name)
    assert rows(session, "threads") == [], "from the first step on it sees nothing"
    assert analysts.remove(name).sessions == 1
    session.close()


def test_a_role_that_another_database_knows_is_dropped_after_it_is_removed_there(
    furnished: Furnished, make_tank: MakeTank
) -> None:
    here, there, name = furnished.tank.analysts, make_tank().analysts, name_of("two")
    here.add(name, users=["ada"])
    assert there.add(name, users=["bob"], role_exists=True).password is None
    with pytest.raises(Conflict, match="in another database too"):
        here.remove(name)
    assert [a.users for a in here.list() if a.name == name] == [()]
    assert there.remove(name).left == (f'DROP ROLE "{name}"',)
    assert here.remove(name).left == ()


def test_views_that_are_gone_or_know_another_owner_key_are_made_anew(make_tank: MakeTank) -> None:
    tank = make_tank(owner_key="tenant")
    put(tank.checkpointer(), "t1", {"x": 1}, tenant="ada", user_id="bob")
    put(tank.checkpointer(), "t2", {"x": 1}, tenant="bob", user_id="ada")
    assert tank.flush().ok
    added = tank.analysts.add(name_of("tenant"), users=["ada"])
    try:
        with psycopg.connect(f"{added.url}&password={added.password}", autocommit=True) as session:
            assert session.execute("SELECT thread_id, owner FROM threads").fetchall() == [
                ("t1", "ada")
            ]
            with tank.database.asking() as owner:
                owner.execute(f"DROP SCHEMA {SCHEMA} CASCADE".encode())
            with pytest.raises(errors.UndefinedTable):
                session.execute("TABLE threads")
            make_tank(owner_key="user_id").analysts.refresh()
            assert session.execute("SELECT thread_id, owner FROM threads").fetchall() == [
                ("t2", "ada")
            ]
    finally:
        tank.analysts.remove(added.analyst.name)


def test_flushes_of_tables_are_seen_by_who_sees_everyone(make_tank: MakeTank) -> None:
    tank = make_tank()
    commit = {
        "table_id": 7, "store_id": "s", "commit_number": 1, "job_id": "j", "trigger": "manual", "node": "n",
        "snapshot_id": 1, "at": "2026-01-01T00:00:00Z", "outcome": {"changes": 5, "bytes": 9},
    }  # fmt: skip
    with tank.database.asking() as owner:
        owner.execute(
            "INSERT INTO surgetank.table_jobs"
            " SELECT * FROM jsonb_populate_record(NULL::surgetank.table_jobs, %s)",
            (Jsonb(commit),),
        )
    seen = []
    for given in ({"users": ["bob"]}, {"everyone": True}):
        added = tank.analysts.add(name_of("jobs"), **given)
        with psycopg.connect(f"{added.url}&password={added.password}") as session:
            seen.append(
                session.execute(
                    "SELECT id, stream, rows_flushed, bytes, table_name FROM jobs"
                ).fetchall()
            )
        tank.analysts.remove(added.analyst.name)
    assert seen == [[], [("j", "tables", 5, 9, None)]]


def test_an_erased_user_is_given_to_nobody_any_more(furnished: Furnished) -> None:
    tank, name = furnished.tank, name_of("eve")
    put(tank.checkpointer(), "eves", {"x": "eve_mark"}, user_id="eve")
    assert tank.flush().ok
    added = tank.analysts.add(name, users=["eve"])
    with furnished.connect(added) as session:
        assert "eve_mark" in str(rows(session, "threads"))
        session.execute("COMMIT")
        report = tank.erase_user("eve")
        assert report.removed["names given to analysts"] == 1
        assert [rows(session, view) for view in VIEWS] == [[]] * len(VIEWS)
    (left,) = [analyst for analyst in tank.analysts.list() if analyst.name == name]
    assert left.users == ()
    tank.analysts.remove(name)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Ada", {"everyone": True}), ("pg_ada", {"everyone": True}), ("public", {"everyone": True}),
        ('a"; DROP TABLE x; --', {"everyone": True}), ("", {"everyone": True}), ("a" * 64, {"everyone": True}),
        ("ok", {}), ("ok", {"everyone": True, "users": ["ada"]}), ("ok", {"users": [""]}), ("ok", {"users": ["\0"]}),
        ("ok", {"everyone": True, "password": "short"}), ("ok", {"everyone": True, "password": "x\ny" * 9}),
        ("ok", {"everyone": True, "connections": 0}),
        ("ok", {"everyone": True, "password": "x" * 20, "role_exists": True}),
    ],
)  # fmt: skip
def test_arguments_that_cant_be_used_are_refused(
    furnished: Furnished, name: str, given: dict[str, Any]
) -> None:
    with pytest.raises(InvalidRequest):
        furnished.tank.analysts.add(name, **given)


def test_names_that_are_taken_are_refused(furnished: Furnished) -> None:
    analysts = furnished.tank.analysts
    with pytest.raises(Conflict, match="already"):
        analysts.add(furnished.ada.analyst.name, everyone=True)
    with pytest.raises(Conflict, match="has a role 'postgres' already"):
        analysts.add("postgres", everyone=True)
    with pytest.raises(Conflict, match="may do more than read"):
        analysts.add("postgres", everyone=True, role_exists=True)
    with pytest.raises(NotFound, match="CREATE ROLE"):
        analysts.add(name_of("none"), everyone=True, role_exists=True)


def test_without_the_right_to_make_roles_an_administrator_is_told_what_to_run(
    furnished: Furnished,
) -> None:
    owner, name = owner_of(furnished), name_of("made")
    with furnished.server.admin() as admin:
        admin.execute(sql.SQL("ALTER ROLE {} NOCREATEROLE").format(sql.Identifier(owner)))
        try:
            with pytest.raises(DatabaseRefused, match="may not make roles") as refused:
                furnished.tank.analysts.add(name, users=["ada"])
            recipe = re.search(r"run: (CREATE ROLE .*); then run this again", refused.value.remedy)
            assert recipe
            admin.execute(recipe[1].encode())
            added = furnished.tank.analysts.add(name, users=["ada"], role_exists=True)
            assert added.password is None
            url = furnished.server.url_of(furnished.database, user=name, password="choose one")
            with psycopg.connect(url, autocommit=True) as session:
                assert len(rows(session, "threads")) == 3
                removed = furnished.tank.analysts.remove(name)
                with pytest.raises(errors.InsufficientPrivilege):
                    session.execute(f"TABLE {SCHEMA}.threads")
            assert removed.left == (f'DROP ROLE "{name}"',)
            wait_until(lambda: not _sessions(admin, name), "its session has ended")
            admin.execute(removed.left[0].encode())
        finally:
            admin.execute(sql.SQL("ALTER ROLE {} CREATEROLE").format(sql.Identifier(owner)))


def _sessions(admin: psycopg.Connection[Any], name: str) -> list[Any]:
    return admin.execute("SELECT FROM pg_stat_activity WHERE usename = %s", (name,)).fetchall()


# -- the commands


def test_the_commands_add_list_and_remove(furnished: Furnished) -> None:
    name, where = name_of("cli"), ["--home", str(furnished.tank.settings.home), "--database-url"]
    where.append(furnished.server.url_of(furnished.database, user=owner_of(furnished)))
    added = CliRunner().invoke(app, ["analyst", "add", name, "--user", "ada", *where])
    assert added.exit_code == 0, added.stderr
    password = added.stdout.strip()
    assert password not in added.stderr
    url = furnished.server.url_of(furnished.database, user=name, password=password)
    with psycopg.connect(url) as session:
        assert len(session.execute("TABLE threads").fetchall()) == 3
    listed = CliRunner().invoke(app, ["analyst", "list", "--json", *where])
    assert {one["name"]: one["users"] for one in json.loads(listed.stdout)}[name] == ["ada"]
    assert name in CliRunner().invoke(app, ["analyst", "list", *where]).stdout
    twice = CliRunner().invoke(app, ["analyst", "add", name, "--all", *where])
    assert (twice.exit_code, "already" in twice.stderr) == (1, True)
    removed = CliRunner().invoke(app, ["analyst", "remove", name, "--json", *where])
    assert json.loads(removed.stdout) == {"name": name, "sessions": 0, "left": []}
    given = CliRunner().invoke(
        app,
        ["analyst", "add", name, "--all", "--password-stdin", *where],
        input="from standard input\n",
    )
    assert (given.exit_code, given.stdout) == (0, ""), given.stderr
    furnished.tank.analysts.remove(name)
