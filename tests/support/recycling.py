"""Migrated databases that tests have one after the other: making one costs a third of a second of a processor.

What a test leaves behind is removed before the next one has it, and it gets another name, so that what an earlier test
still holds can't reach it. A database whose tables, constraints, functions or rights a test changed is dropped.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from support.postgres import PostgresServer

# Everything that a test may change beside rows. Object ids are those of the template, whose copy it is.
_SHAPE = """
SELECT md5(string_agg(line, E'\\n' ORDER BY line)) FROM (
    SELECT format('class %s %s %s %s %s %s', c.oid, c.relname, c.relacl, c.reloptions, c.relkind, c.relowner) AS line
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT format('column %s %s %s %s %s %s', attrelid, attnum, attname, atttypid, attnotnull, attacl)
        FROM pg_attribute WHERE attrelid >= 16384 AND attnum > 0
    UNION ALL SELECT format('default %s %s', oid, adrelid) FROM pg_attrdef
    UNION ALL SELECT format('constraint %s %s', oid, conname) FROM pg_constraint
    UNION ALL SELECT format('trigger %s %s %s', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT format('function %s %s %s', oid, xmin, proacl) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT format('schema %s %s %s', oid, nspname, nspacl) FROM pg_namespace
        WHERE nspname !~ '^pg_(toast|temp)'
    UNION ALL SELECT format('extension %s', extname) FROM pg_extension
    UNION ALL SELECT format('policy %s', oid) FROM pg_policy
    UNION ALL SELECT format('rule %s %s', oid, ev_enabled) FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT format('event trigger %s', oid) FROM pg_event_trigger
    UNION ALL SELECT format('publication %s', oid) FROM pg_publication
    UNION ALL SELECT format('type %s', oid) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT format('setting %s %s', setrole, setconfig) FROM pg_db_role_setting s
        JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = current_database()
    UNION ALL SELECT format('statistics %s', oid) FROM pg_statistic_ext
    UNION ALL SELECT format('database %s %s %s', datacl, datconnlimit, datallowconn)
        FROM pg_database WHERE datname = current_database()
) lines"""
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'r' AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' ORDER BY 1"""
_SEQUENCES = """
SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences WHERE last_value IS NOT NULL"""


class Databases:
    """Copies of a migrated template of one server."""

    def __init__(self, server: PostgresServer, template: str) -> None:
        self._server, self._template = server, template
        self._free: list[str] = []
        with psycopg.connect(server.url_of(template), autocommit=True) as connection:
            self._shape = _value(connection, _SHAPE)
            names = [name for (name,) in connection.execute(_TABLES).fetchall()]
            self._rows = {name: _rows(connection, name) for name in names}
            self._sequences: dict[str, int] = dict(connection.execute(_SEQUENCES).fetchall())
        self.made = 0

    def take(self) -> str:
        """The name of a database as it is after the migrations."""
        if self._free:
            return self._free.pop()
        self.made += 1
        return self._server.create_database(self._template)

    def give_back(self, name: str) -> None:
        """Take a database back that a test has done with."""
        renamed = f"t_{uuid4().hex[:12]}"
        try:
            with self._server.admin() as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s",
                    (name,),
                )
                admin.execute(
                    sql.SQL("ALTER DATABASE {} RENAME TO {}").format(
                        sql.Identifier(name), sql.Identifier(renamed)
                    )
                )
            with psycopg.connect(self._server.url_of(renamed), autocommit=True) as connection:
                clean = self._clean(connection)
        except psycopg.errors.ObjectInUse:  # something of the test's connects again and again
            renamed, clean = name, False
        except psycopg.errors.InvalidCatalogName:
            return  # the test dropped it
        except psycopg.OperationalError:  # the test let nobody in any more
            clean = False
        if clean:
            self._free.append(renamed)
        else:
            self._server.drop_database(renamed)

    def _clean(self, connection: psycopg.Connection[Any]) -> bool:
        """Whether it could be made as it was."""
        if _value(connection, _SHAPE) != self._shape:
            return False
        connection.execute("SET session_replication_role = replica")  # no trigger refuses it
        changed = [name for name, rows in self._now(connection).items() if rows != self._rows[name]]
        if changed:
            connection.execute(f"TRUNCATE {', '.join(changed)} RESTART IDENTITY CASCADE")
            for name, rows in self._now(connection).items():
                if rows != self._rows[name]:
                    with connection.cursor().copy(f"COPY {name} FROM STDIN") as copy:
                        copy.write(self._rows[name])
        used = dict(connection.execute(_SEQUENCES).fetchall())  # not those that were restarted
        for name in used.keys() | self._sequences.keys():
            if self._sequences.get(name) != used.get(name):
                connection.execute(
                    "SELECT setval(%s, %s, %s)",
                    (name, self._sequences.get(name, 1), name in self._sequences),
                )
        return self._now(connection) == self._rows

    def _now(self, connection: psycopg.Connection[Any]) -> dict[str, bytes]:
        """The rows of the tables that have some in the template; of others, whether there are any."""
        some = _filled(connection)
        known = {name: rows for name, rows in self._rows.items() if rows}
        return {
            name: b"" if name not in some else _rows(connection, name) if name in known else b"rows"
            for name in self._rows
        }


def _filled(connection: psycopg.Connection[Any]) -> set[str]:
    """Names of the tables that have rows."""
    names = [name for (name,) in connection.execute(_TABLES).fetchall()]
    each = (
        f"SELECT {sql.Literal(name).as_string(None)} WHERE EXISTS (SELECT FROM {name})"
        for name in names
    )
    query = " UNION ALL ".join(each)
    return {name for (name,) in connection.execute(query).fetchall()}


def _rows(connection: psycopg.Connection[Any], name: str) -> bytes:
    """The rows of a table, as COPY gives them."""
    with connection.cursor().copy(f"COPY {name} TO STDOUT") as copy:
        return b"".join(bytes(part) for part in copy)


def _value(connection: psycopg.Connection[Any], query: str) -> Any:
    (value,) = connection.execute(query).fetchone() or (None,)
    return value
