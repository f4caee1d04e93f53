"""`tank.analysts`: people who read the agents' data in PostgreSQL, with psql, Metabase or Grafana.

Each has a database role that may use one schema and read its views. A view shows a session the rows
of the users that its role was given: it tests `session_user`, which nobody can set. (A policy on a
setting is bypassed by SET, and a view over a table with row level security shows everything.)
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

from psycopg import Connection, Cursor, errors, sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.acting import acting_from
from surgetank.app.relations import NAMES
from surgetank.database.address import redact_url
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.exceptions import Conflict, DatabaseRefused, InvalidRequest, NotFound

SQL = queries("app/analysts.sql")
VIEWS = queries("app/analyst_views.sql")
RELATIONS = queries("app/relations.sql")
SCHEMA = "surgetank_views"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_RESERVED = frozenset(("public", "none", "current_user", "current_role", "session_user", "user"))
_SHORTEST = 12
_MOST_CONNECTIONS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Analyst:
    """A role that reads. `everyone`: it sees the data of all `users`, and what belongs to nobody.

    `made_role`: Surgetank made the role, and drops it. `has_role`: it is there still. `created_at`
    is seconds since the epoch.
    """

    name: str
    everyone: bool
    users: tuple[str, ...]
    made_role: bool
    has_role: bool
    sessions: int
    created_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedAnalyst:
    """An analyst that was added, with the `password` (None: the role was there) and the `url`
    without it.

    `open`: what PUBLIC, and so this role, may make in the database, each as the statement that ends
    it.
    """

    analyst: Analyst
    password: str | None
    url: str
    open: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemovedAnalyst:
    """An analyst that was removed, and how many `sessions` were ended. `left`: statements that are
    left to an administrator of the database, if any."""

    name: str
    sessions: int
    left: tuple[str, ...]


class Analysts:
    """The analysts of a database. Methods block, and raise `DatabaseUnavailable` and
    `DatabaseRefused`."""

    def __init__(self, database: Database, *, owner_key: str) -> None:
        self._database = database
        self._key = owner_key

    def add(
        self,
        name: str,
        *,
        users: Iterable[str] = (),
        everyone: bool = False,
        password: str | None = None,
        role_exists: bool = False,
        connections: int = 15,
        close_public: bool = False,
        actor: str = "library",
    ) -> AddedAnalyst:
        """Add an analyst that sees the data of some users, or of everyone. All or nothing.

        `password`: made if there is none. `role_exists`: an administrator has made the role, with
        its password and bounds. `connections`: how many it may have at once. `close_public`: take
        from PUBLIC what `AddedAnalyst.open` would name. Raises `InvalidRequest` for arguments that
        can't be used, `Conflict` for a name that is taken or a role that may do more than read.
        """
        people = _people(users, everyone=everyone)
        _check(name, password, connections, role_exists=role_exists)
        given = None if role_exists else password or secrets.token_urlsafe(24)
        with self._database.asking(patient=True) as connection:
            work = _Work(connection, name)
            rights = work.one("lock", "rights")
            self._check_role(work, rights, role_exists=role_exists, connections=connections)
            if given is not None:
                work.put("create_role", connections=connections, secret=_verifier(work, given))
                work.put("role_settings")
            self._make_views(work)
            work.run("insert_analyst", everyone=everyone, made_role=not role_exists)
            work.run("insert_users", users=people)
            self._grant(work)
            if not work.one("connects")["may"]:
                work.put("grant_connect", database=rights["database"])
            left = self._doors(work, rights["database"], close=close_public)
            seen = "everyone" if everyone else len(people)
            work.note("analyst_added", actor, {"role": name, "sees": seen})
            added = _analyst(work.one("analysts"))
            url = _url(connection, name)
        return AddedAnalyst(analyst=added, password=given, url=url, open=left)

    def refresh(self) -> None:
        """Make the views as this version has them, for the `owner_key` as it is now, and let all
        analysts read them. `add` does it too."""
        with self._database.asking(patient=True) as connection:
            work = _Work(connection, None)
            work.run("lock")
            self._make_views(work)
            self._grant(work)

    def list(self) -> list[Analyst]:
        """All analysts, by name."""
        with self._database.asking() as connection:
            return [_analyst(row) for row in _Work(connection, None).all("analysts")]

    def remove(self, name: str, *, actor: str = "library") -> RemovedAnalyst:
        """End an analyst: it sees nothing any more, its sessions end, its role is dropped.

        A role that an administrator made stays, without its rights. Interrupted, it is finished
        when it is called again. Raises `NotFound`, `Conflict` for a role that can't be dropped.
        """
        with self._database.asking(patient=True) as connection:
            work = _Work(connection, name)
            rights = work.one("lock", "rights")
            found = work.all("analysts")
            if not found:
                raise NotFound(
                    f"There is no analyst {name!r}.", remedy="see `surgetank analyst list`."
                )
            known = _analyst(found[0])
            work.run("stop")
            ours = known.has_role and known.made_role and rights["makes_roles"]
            if ours:
                work.put("no_login")
                if not rights["super"]:
                    work.put("be_member")
            elif known.has_role:
                work.put("revoke")
        ended = self._end_sessions(name) if ours else 0
        with self._database.asking(patient=True) as connection:
            work = _Work(connection, name)
            if ours:
                self._drop(work)
            work.run("delete_analyst")
            work.note("analyst_removed", actor, {"role": name})
        left: tuple[str, ...] = ()
        if known.has_role and not ours:
            left = (sql.SQL("DROP ROLE {}").format(sql.Identifier(name)).as_string(None),)
        return RemovedAnalyst(name=name, sessions=ended, left=left)

    # -- steps

    def _check_role(
        self, work: _Work, rights: dict[str, Any], *, role_exists: bool, connections: int
    ) -> None:
        if work.all("analysts"):
            raise Conflict(
                f"There is an analyst {work.name!r} already.",
                remedy=f"remove it first: surgetank analyst remove {work.name}",
            )
        role = next(iter(work.all("role")), None)
        if not role_exists:
            if role is not None:
                raise Conflict(
                    f"The database has a role {work.name!r} already.",
                    remedy="use another name; or --existing-role if it was made for this.",
                )
            if not rights["makes_roles"]:
                raise DatabaseRefused(
                    f"The database user {rights['me']} may not make roles.",
                    remedy=f"let an administrator of the database run: {_recipe(work, connections)}"
                    f"; then run this again with --existing-role.",
                )
        elif role is None or not role["logs_in"]:
            raise NotFound(
                f"The database has no role {work.name!r} that may log in.",
                remedy=f"let an administrator of the database run: {_recipe(work, connections)}",
            )
        elif role["does_more"] or work.name == rights["me"]:
            raise Conflict(
                f"The role {work.name!r} may do more than read: it is privileged, owns something or "
                f"is a member of another role.",
                remedy="give analysts roles of their own.",
            )

    def _make_views(self, work: _Work) -> None:
        key = sql.Literal(self._key)
        for view in ("schema", "threads_of_analyst", "audit", "jobs"):
            work.execute(sql.SQL(VIEWS[view]).format(key=key))
        for name in NAMES:
            body = sql.SQL(RELATIONS[name]).format(key=key)
            work.execute(sql.SQL(VIEWS["of_threads"]).format(name=sql.Identifier(name), body=body))

    def _grant(self, work: _Work) -> None:
        for analyst in work.all("analysts", role=None):
            if analyst["has_role"]:
                work.put("grants", role=analyst["name"])

    def _doors(self, work: _Work, database: str, *, close: bool) -> tuple[str, ...]:
        """What is open for everybody, after closing it where that is wanted and possible. Raises
        `Conflict` where objects can be made that other users of the database would run."""
        if close:
            for statement in _closing(work.one("doors"), database):
                # what can't be closed is named below
                with suppress(errors.InsufficientPrivilege), work.connection.transaction():
                    work.execute(statement)
        doors = work.one("doors")
        left = tuple(statement.as_string(None) for statement in _closing(doors, database))
        if doors["creates"]:
            raise Conflict(
                "PUBLIC, and so every analyst, may make functions in this database that others "
                "would run.",
                remedy=f"add --close-public, or let an administrator run: {'; '.join(left)}",
            )
        return left

    def _drop(self, work: _Work) -> None:
        try:
            work.put("drop_role")
        except errors.DependentObjectsStillExist as error:
            raise Conflict(
                f"The role {work.name!r} has rights in another database too: "
                f"{error.diag.message_detail or 'see PostgreSQL'}. Here it sees nothing any more, "
                f"and it can't log in.",
                remedy="remove it there, then run this again.",
            ) from error

    def _end_sessions(self, name: str) -> int:
        """End sessions until there are none: one may just have logged in. How many there were."""
        total = 0
        for _ in range(20):
            with self._database.asking(patient=True) as connection:
                found = _Work(connection, name).one("end_sessions")
            total += int(found["sessions"])
            if not found["sessions"]:
                return total
        raise Conflict(
            f"Sessions of the role {name!r} don't end. It sees nothing any more and can't log in.",
            remedy="run it again; pg_stat_activity shows the sessions.",
        )


class _Work:
    """The statements of one transaction about one role."""

    def __init__(self, connection: Connection[Any], name: str | None) -> None:
        self.connection = connection
        self.name = name
        self._cursor: Cursor[dict[str, Any]] = connection.cursor(row_factory=dict_row)

    def run(self, query: str, **arguments: Any) -> Cursor[dict[str, Any]]:
        """A named query, with parameters."""
        return self._cursor.execute(SQL[query], {"role": self.name, **arguments})

    def all(self, query: str, **arguments: Any) -> list[dict[str, Any]]:
        """Its rows."""
        return self.run(query, **arguments).fetchall()

    def one(self, *names: str, **arguments: Any) -> dict[str, Any]:
        """The one row of the last of the queries."""
        for name in names[:-1]:
            self.run(name)
        (row,) = self.all(names[-1], **arguments)
        return row

    def put(self, query: str, *, role: str | None = None, **parts: Any) -> None:
        """A named statement that takes no parameters: names and literals are quoted into it."""
        self.execute(_put(SQL[query], role or self.name or "", **parts))

    def execute(self, statement: sql.Composed) -> None:
        """A statement, or several."""
        self._cursor.execute(statement)

    def note(self, action: str, actor: str, detail: dict[str, Any]) -> None:
        """A row of the audit."""
        origin = acting_from.get() or None
        self.run("note", action=action, actor=actor, origin=origin, detail=Jsonb(detail))


def _put(statement: LiteralString, role: str, **parts: Any) -> sql.Composed:
    quoted: dict[str, sql.Composable] = {"role": sql.Identifier(role)}
    for name, value in parts.items():
        quoted[name] = sql.Identifier(value) if name == "database" else sql.Literal(value)
    return sql.SQL(statement).format(**quoted)


def _closing(doors: dict[str, Any], database: str) -> list[sql.Composed]:
    """The statements that take from PUBLIC what a role may make."""
    found = []
    for schema in doors["creates"]:
        of = ("SCHEMA {}", schema) if schema else ("DATABASE {}", database)
        found.append(sql.SQL(f"REVOKE CREATE ON {of[0]} FROM PUBLIC").format(sql.Identifier(of[1])))
    if doors["temporary"]:
        statement = sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC")
        found.append(statement.format(sql.Identifier(database)))
    if doors["large_objects"]:
        found.append(
            sql.SQL(
                "REVOKE EXECUTE ON FUNCTION pg_catalog.lo_create(oid), pg_catalog.lo_creat(integer), "
                "pg_catalog.lo_from_bytea(oid, bytea) FROM PUBLIC"
            ).format()
        )
    return found


def _recipe(work: _Work, connections: int) -> str:
    """What an administrator runs in our stead, on one line."""
    role = work.name or ""
    made = _put(SQL["create_role"], role, connections=connections, secret="choose one")  # noqa: S106 - what is to be replaced
    lines = f"{made.as_string(None)}; {_put(SQL['role_settings'], role).as_string(None)}"
    return " ".join(lines.split())


def _verifier(work: _Work, password: str) -> str:
    """What the server keeps of a password: it never sees it, and so no log of its does."""
    made = work.connection.pgconn.encrypt_password(
        password.encode(), (work.name or "").encode(), b"scram-sha-256"
    )
    return made.decode()


def _url(connection: Connection[Any], name: str) -> str:
    """Where the analyst connects to."""
    info = connection.info
    return redact_url(
        make_conninfo("", user=name, host=info.host, port=info.port, dbname=info.dbname)
    )


def _analyst(row: dict[str, Any]) -> Analyst:
    return Analyst(**{**row, "users": tuple(row["users"])})


def _people(users: Iterable[str], *, everyone: bool) -> Sequence[str]:
    people = sorted({users} if isinstance(users, str) else set(users))
    if everyone == bool(people):
        raise InvalidRequest(
            "It isn't said whose data the analyst sees."
            if not people
            else "An analyst sees the data of everyone, or of some users.",
            remedy="name users (--user, once for each), or say --all.",
        )
    if any(not user or "\0" in user or len(user) > 2048 for user in people):
        raise InvalidRequest("A user's name can't be used.", remedy="use 1 to 2048 characters.")
    return people


def _check(name: str, password: str | None, connections: int, *, role_exists: bool) -> None:
    if not _NAME.fullmatch(name) or name.startswith("pg_") or name in _RESERVED:
        raise InvalidRequest(
            f"{name[:80]!r} can't be the name of an analyst's role.",
            remedy="use up to 63 small letters, digits and underscores, not a digit first, not "
            "pg_ ... .",
        )
    if password is not None and (role_exists or not _is_good(password)):
        raise InvalidRequest(
            "The password can't be used."
            if not role_exists
            else "A role that is there has its password already.",
            remedy=f"give at least {_SHORTEST} printable characters, or none: one is made.",
        )
    if not 1 <= connections <= _MOST_CONNECTIONS:
        raise InvalidRequest(
            f"{connections} connections can't be allowed.", remedy=f"use 1 to {_MOST_CONNECTIONS}."
        )


def _is_good(password: str) -> bool:
    return _SHORTEST <= len(password) <= 500 and password.isprintable()
