"""Which database this is: the id in its schema, and the evidence by which a copy is told from the
original."""

from __future__ import annotations

from typing import Any, LiteralString, NamedTuple

from psycopg import Connection

from surgetank.database.address import parse_url

_FACTS: LiteralString = """
SELECT to_regclass('surgetank.schema_migrations') IS NOT NULL, to_regclass('surgetank.database_identity') IS NOT NULL,
    (SELECT d.oid::bigint FROM pg_database d WHERE d.datname = current_database()),
    has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')
"""
EMBEDDED = "embedded"


class Identity(NamedTuple):
    """What a connection says of its database. `database_id` is None before the schema has one; the
    system identifier is None where the user may not ask for it.
    """

    has_schema: bool
    database_id: str | None
    system_id: str | None
    oid: int


def read_identity(connection: Connection[Any]) -> Identity:
    """Ask the database who it is. Raises what the driver raises."""
    with connection.cursor() as cursor:
        row = cursor.execute(_FACTS).fetchone()
        assert row is not None
        has_schema, has_identity, oid, may_ask = row
        id_ = (
            cursor.execute("SELECT id::text FROM surgetank.database_identity")
            if has_identity
            else None
        )
        found = id_.fetchone() if id_ is not None else None
        database_id = found[0] if found is not None else None
        system_id = None
        if may_ask:
            system = cursor.execute(
                "SELECT system_identifier::text FROM pg_control_system()"
            ).fetchone()
            system_id = system[0] if system is not None else None
    return Identity(has_schema, database_id, system_id, oid)


def destination_of(url: str) -> str:
    """Host, port and database name of a URL: what a buffer is bound to until it has met its
    database."""
    parts = parse_url(url)
    host = parts.get("host") or parts.get("hostaddr") or "localhost"
    name = parts.get("dbname") or parts.get("user") or ""
    return f"{host}:{parts.get('port') or 5432}/{name}"
