"""Analysts read what they were given in PostgreSQL, and no trick of SQL shows them more."""

from __future__ import annotations

import subprocess
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import errors, sql

from support.analysts import BOB, VIEWS, Furnished, owner_of, rows
from support.postgres import programs
from surgetank.app.analysts import SCHEMA

# -- what they see


def test_an_analyst_sees_the_rows_of_its_users_in_every_view_and_no_other(
    furnished: Furnished,
) -> None:
    with furnished.connect(furnished.ada) as ada, furnished.connect(furnished.everyone) as everyone:
        for view in VIEWS:
            mine, all_ = rows(ada, view), rows(everyone, view)
            assert mine, view
            assert BOB not in str(mine), view
            assert len(all_) > len(mine), view
            assert BOB in str(all_), view
        assert {thread for (thread,) in ada.execute("SELECT thread_id FROM threads")} == {
            "adas-t", "adas-sub", "adas-r",
        }  # fmt: skip
        assert rows(ada, "audit") == []
        assert {row[2] for row in rows(everyone, "audit")} >= {"run_created", "analyst_added"} - {
            "run_created"
        }


def test_state_is_reached_by_a_json_path_and_joins_with_the_rest(furnished: Furnished) -> None:
    with furnished.connect(furnished.ada) as ada:
        found = ada.execute(
            "SELECT t.owner, c.state #>> '{deep,er,0}', l.message, e.error_message, c.metadata ->> 'step'"
            " FROM threads t JOIN checkpoints c USING (thread_id, checkpoint_id) JOIN thread_logs l USING (thread_id)"
            " JOIN system_errors e USING (thread_id)"
        ).fetchall()
    assert found == [("ada", "adas", "line adas", "error adas", "1")]


def test_psql_reads_as_that_role(furnished: Furnished) -> None:
    done = subprocess.run(
        [str(programs() / "psql"), furnished.url(furnished.ada), "-XAt", "-c", r"\d threads",
         "-c", "COPY (SELECT thread_id FROM threads ORDER BY 1) TO STDOUT"],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-3:] == ["adas-r", "adas-sub", "adas-t"]
    assert "checkpoint_id|text" in done.stdout


# -- what they may not

REFUSED = {
    "tables": "SELECT * FROM surgetank.threads",
    "the mapping": "INSERT INTO surgetank.analyst_users VALUES (session_user, 'bob')",
    "the mapping, read": "TABLE surgetank.analysts",
    "the helper view": "TABLE surgetank.analyst_threads",
    "functions": "SELECT surgetank.delete_thread('adas-t', 'me')",
    "large values": "SELECT * FROM surgetank.checkpoint_blobs",
    "another role": "SET ROLE postgres",
    "the owner": "SET ROLE {owner}",
    "the other analyst": "SET ROLE {other}",
    "another session": "SET SESSION AUTHORIZATION {other}",
    "another session by a setting": "SELECT set_config('session_authorization', '{other}', false)",
    "another role by a setting": "SELECT set_config('role', '{other}', false)",
    "a grant": "GRANT {other} TO {me}",
    "its own connections": "ALTER ROLE {me} CONNECTION LIMIT 1000",
    "more rights": "ALTER ROLE {me} SUPERUSER",
    "a function": "CREATE FUNCTION {schema}.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS"
    " 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'",
    "a temporary function": "CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "a function in public": "CREATE FUNCTION public.leak(text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "a temporary table": "CREATE TEMP TABLE t (x text)",
    "a view beside ours": "CREATE VIEW {schema}.v AS SELECT 1",
    "another view": "CREATE OR REPLACE VIEW {schema}.threads AS SELECT 1",
    "without the barrier": "ALTER VIEW {schema}.threads SET (security_barrier = false)",
    "a schema": "CREATE SCHEMA mine",
    "a language": "CREATE EXTENSION plpython3u",
    "dblink": "CREATE EXTENSION dblink",
    "a subscription": "CREATE SUBSCRIPTION s CONNECTION 'host=/tmp' PUBLICATION p",
    "an insert": "INSERT INTO threads (thread_id) VALUES ('x')",
    "an update": "UPDATE threads SET owner = 'ada'",
    "a deletion": "DELETE FROM thread_logs",
    "a lock": "DO $$ BEGIN LOCK TABLE threads IN ACCESS EXCLUSIVE MODE; END $$",
    "COPY of a table": "COPY surgetank.threads TO STDOUT",
    "COPY to a file": "COPY (SELECT 1) TO '/tmp/analyst'",
    "COPY to a program": "COPY (SELECT 1) TO PROGRAM 'id'",
    "a file": "SELECT pg_read_file('PG_VERSION')",
    "a folder": "SELECT pg_ls_dir('.')",
    "a file as a large object": "SELECT lo_import('/etc/passwd')",
    "large objects": "SELECT * FROM pg_catalog.pg_largeobject",
    "statistics": "SELECT * FROM pg_catalog.pg_statistic",
    "passwords": "SELECT rolpassword FROM pg_catalog.pg_authid",
    "a table by name": "SELECT query_to_xml('TABLE surgetank.threads', true, true, '')",
    "a table as XML": "SELECT table_to_xml('surgetank.threads'::regclass, true, true, '')",
    "a schema as XML": "SELECT schema_to_xml('surgetank', true, true, '')",
    "a code block": "DO $$ BEGIN PERFORM * FROM surgetank.threads; END $$",
    "a prepared one": "PREPARE p AS SELECT * FROM surgetank.threads",
    "its plan": "EXPLAIN SELECT * FROM surgetank.threads",
    "row security": "ALTER TABLE surgetank.threads ENABLE ROW LEVEL SECURITY",
    "the log": "SELECT pg_current_logfile()",
    "other people's sessions": "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{owner}'",
    "a replication slot": "SELECT pg_create_logical_replication_slot('s', 'test_decoding')",
}  # fmt: skip

# What there isn't in the first place.
NOT_THERE: dict[str, type[psycopg.Error]] = {
    "a language": errors.FeatureNotSupported,
    "dblink": errors.FeatureNotSupported,
    "an insert": errors.ObjectNotInPrerequisiteState,
    "an update": errors.ObjectNotInPrerequisiteState,
    "a deletion": errors.ObjectNotInPrerequisiteState,
}


def test_what_an_analyst_may_not_is_refused(furnished: Furnished) -> None:
    names = {
        "me": furnished.ada.analyst.name, "other": furnished.everyone.analyst.name, "schema": SCHEMA,
        "owner": owner_of(furnished),
    }  # fmt: skip
    wrong = []
    with furnished.connect(furnished.ada) as ada:
        ada.execute("SET default_transaction_read_only = off")  # it is a default, and no bound
        for what, statement in REFUSED.items():
            ada.execute("RESET ROLE")
            try:
                ada.execute(statement.format(**names).encode())
            except psycopg.Error as error:
                expected = (
                    errors.InsufficientPrivilege,
                    NOT_THERE.get(what, errors.InsufficientPrivilege),
                )
                if not isinstance(error, expected):
                    wrong.append(f"{what}: {error!r}")
            else:
                wrong.append(f"{what}: done")
        assert wrong == []
        assert BOB not in str(rows(ada, "threads"))


HARMLESS = (
    "SET session_replication_role = replica",
    "SET row_security = off",
    "SET search_path = surgetank, public, pg_catalog",
    "SET surgetank.user = 'bob'",
    "SELECT set_config('surgetank.analyst', '*', false), set_config('application_name', 'surgetank', false)",
    "SET enable_indexscan = off",
    "SET enable_seqscan = off",
    "SET plan_cache_mode = force_generic_plan",
    "SET debug_parallel_query = on",
    "SET transform_null_equals = on",
    "SET from_collapse_limit = 1",
)


def test_no_setting_shows_more(furnished: Furnished) -> None:
    with furnished.connect(furnished.ada) as ada:
        for statement in HARMLESS:
            try:
                ada.execute(statement.encode())
            except psycopg.Error:
                continue
            found = ada.execute(
                f"SELECT thread_id, owner FROM {SCHEMA}.threads ORDER BY 1"
            ).fetchall()
            assert found == [("adas-r", "ada"), ("adas-sub", "ada"), ("adas-t", "ada")], statement


# Each tells of a row by its message, or by what `leak` notes, when it is evaluated on one. `leak` is what
# an analyst can't make: a function that the planner takes for cheap, and so would evaluate first.
LEAKS = (
    "SELECT count(*) FROM {schema}.thread_logs WHERE bare.leak(message)",
    "SELECT count(*) FROM {schema}.threads WHERE bare.leak(state::text)",
    (
        "SELECT count(*) FROM {schema}.thread_logs l JOIN {schema}.threads t"
        " ON bare.leak(l.message) AND bare.leak(t.state::text)"
    ),
    (
        "SELECT count(*) FROM {schema}.checkpoints WHERE"
        " CASE WHEN thread_id LIKE 'bob%' THEN bare.leak(metadata::text) END"
    ),
    "SELECT count(*) FROM {schema}.system_errors WHERE thread_id LIKE 'bob%' AND bare.leak(error_message)",
    "SELECT count(*) FROM {schema}.thread_logs WHERE message::regclass IS NOT NULL",
    "SELECT count(*) FROM {schema}.threads WHERE (state ->> 'x')::int > 0 AND (state ->> 'x') <> 'adas'",
    "SELECT json_agg(t) FROM {schema}.threads t WHERE t::text::inet IS NULL AND t.owner = 'bob'",
)


def test_no_function_in_a_where_clause_sees_a_hidden_row(furnished: Furnished) -> None:
    def said(schema: str) -> list[str]:
        """What each of them answers, complains of and notes."""
        found = []
        with furnished.connect(furnished.ada) as ada:
            for leak in LEAKS:
                noted: list[str] = []

                def note(message: errors.Diagnostic, to: list[str] = noted) -> None:
                    to.append(str(message.message_primary))

                ada.add_notice_handler(note)
                try:
                    noted.append(str(ada.execute(leak.format(schema=schema).encode()).fetchall()))
                except psycopg.Error as error:
                    noted.append(f"{error.diag.message_primary} {error.diag.context}")
                found.append(" ".join(noted))
                ada.remove_notice_handler(note)
        return found

    role = sql.Identifier(furnished.ada.analyst.name)
    with furnished.tank.database.asking() as owner:
        owner.execute("CREATE SCHEMA bare")
        owner.execute(
            "CREATE FUNCTION bare.leak(said text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS"
            " $$ BEGIN RAISE NOTICE '%', said; RETURN true; END $$"
        )
        for view in ("threads", "checkpoints", "thread_logs", "system_errors"):
            (text,) = owner.execute(
                "SELECT pg_get_viewdef(%s::regclass)", (f"{SCHEMA}.{view}",)
            ).fetchone() or ("",)
            owner.execute(f"CREATE VIEW bare.{view} AS {text}".encode())
        grant = (
            "GRANT USAGE ON SCHEMA bare TO {0}; GRANT SELECT ON ALL TABLES IN SCHEMA bare TO {0}"
        )
        owner.execute(sql.SQL(grant).format(role))
    try:
        assert [text for text in said(SCHEMA) if BOB in text] == []
        unguarded = said("bare")  # the same views without a barrier
    finally:
        with furnished.tank.database.asking() as owner:
            owner.execute("DROP SCHEMA bare CASCADE")
    assert len([text for text in unguarded if BOB in text]) >= 3


def test_what_everybody_may_read_says_nothing_of_hidden_rows(furnished: Furnished) -> None:
    with furnished.tank.database.asking() as owner:
        owner.execute("ANALYZE surgetank.threads")
        owner.execute("ANALYZE surgetank.thread_logs")
    with furnished.connect(furnished.ada) as ada:
        for query in (
            "SELECT * FROM pg_stats WHERE schemaname LIKE 'surgetank%'",
            "SELECT * FROM pg_stats_ext",
            "SELECT query FROM pg_stat_activity WHERE usename <> session_user",
            "SELECT * FROM information_schema.tables WHERE table_schema = 'surgetank'",
            "SELECT * FROM information_schema.routines WHERE routine_schema = 'surgetank'",
            "SELECT * FROM information_schema.columns WHERE table_schema = 'surgetank'",
        ):
            found = str(ada.execute(query.encode()).fetchall())
            assert BOB not in found, query
            assert "surgetank." not in found, query
        plan = str(ada.execute("EXPLAIN (ANALYZE, VERBOSE) SELECT * FROM threads").fetchall())
        assert BOB not in plan
        tables = ada.execute(
            "SELECT DISTINCT table_name FROM information_schema.tables WHERE table_schema = %s",
            (SCHEMA,),
        )
        assert {name for (name,) in tables} >= {*VIEWS, "audit"}
        assert ada.execute(
            "SELECT count(*) FROM pg_stats WHERE schemaname = 'surgetank'"
        ).fetchone() == (0,)


def test_a_role_that_is_no_analyst_sees_nothing_even_with_the_grants(furnished: Furnished) -> None:
    role = sql.Identifier(f"stranger_{uuid4().hex[:8]}")
    with furnished.server.admin() as admin:
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        with furnished.tank.database.asking() as owner:
            grant = "GRANT USAGE ON SCHEMA surgetank_views TO {0}; GRANT SELECT ON surgetank_views.threads TO {0}"
            owner.execute(sql.SQL(grant).format(role))
        with psycopg.connect(
            furnished.server.url_of(furnished.database, user=role._obj[0])
        ) as stranger:
            assert stranger.execute("TABLE surgetank_views.threads").fetchall() == []
    finally:
        with psycopg.connect(furnished.server.url_of(furnished.database), autocommit=True) as admin:
            admin.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(role))


# -- what tools ask before anybody asks for data

_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, CASE c.relkind WHEN 'r' THEN 'TABLE' WHEN 'v' THEN 'VIEW' END AS type,
    d.description, stat.n_live_tup AS estimated_row_count
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON c.relnamespace = n.oid
LEFT JOIN pg_catalog.pg_description d ON c.oid = d.objoid AND d.objsubid = 0 AND d.classoid = 'pg_class'::regclass
LEFT JOIN pg_catalog.pg_stat_user_tables stat ON n.nspname = stat.schemaname AND c.relname = stat.relname
WHERE n.nspname !~ 'information_schema' AND n.nspname !~ '^pg_' AND c.relkind IN ('r', 'p', 'v', 'f', 'm')
    AND n.nspname IN ('{schema}')
ORDER BY 2
"""
_RIGHTS = """
SELECT t.objectname, has_any_column_privilege(current_user, q.name, 'select'),
    has_any_column_privilege(current_user, q.name, 'update') OR has_any_column_privilege(current_user, q.name, 'insert')
    OR has_table_privilege(current_user, q.name, 'delete')
FROM (SELECT schemaname, tablename AS objectname FROM pg_catalog.pg_tables
    UNION SELECT schemaname, viewname FROM pg_catalog.pg_views
    UNION SELECT schemaname, matviewname FROM pg_catalog.pg_matviews) t,
    LATERAL (SELECT format('%I.%I', t.schemaname, t.objectname) AS name) q
WHERE t.schemaname !~ '^pg_' AND t.schemaname <> 'information_schema'
    AND has_schema_privilege(current_user, t.schemaname, 'usage')
ORDER BY 1
"""
_FIELDS = """
SELECT c.table_name, c.column_name, c.udt_name, c.ordinal_position - 1, pk.column_name IS NOT NULL AS pk,
    col_description(CAST(CAST(format('%I.%I', c.table_schema::text, c.table_name::text) AS regclass) AS oid),
        c.ordinal_position)
FROM information_schema.columns c
LEFT JOIN (SELECT tc.table_schema, tc.table_name, kc.column_name FROM information_schema.table_constraints tc
    JOIN information_schema.key_column_usage kc USING (constraint_name, table_schema, table_name)
    WHERE tc.constraint_type = 'PRIMARY KEY') pk USING (table_schema, table_name, column_name)
WHERE c.table_schema !~ '^information_schema|catalog_history|pg_' AND c.table_schema IN ('{schema}')
"""
_OF_METABASE = (
    "SET SESSION TIMEZONE TO 'UTC'", "SHOW TIMEZONE", "SELECT version()", "SET extra_float_digits = 3",
    ("SELECT nspname, typname FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace"
    " WHERE t.oid IN (SELECT DISTINCT enumtypid FROM pg_catalog.pg_enum)"),
    "SELECT conname, conrelid::regclass, confrelid::regclass FROM pg_catalog.pg_constraint WHERE contype = 'f'",
    "SELECT SUBSTRING(t.error, 1, 1234), t.created_at FROM {schema}.threads t LIMIT 10000",
    "SELECT t.state #>> array['x']::text[] AS x, count(*) FROM {schema}.threads t GROUP BY 1 ORDER BY 1",
)  # fmt: skip
_OF_GRAFANA = (
    "SELECT current_setting('server_version_num')::int / 100 AS version",
    "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'",
    (
        "SELECT quote_ident(column_name) AS column, data_type AS type FROM information_schema.columns"
        " WHERE quote_ident(table_name) = 'system_errors'"
    ),
    (
        "SELECT floor(extract(epoch FROM last_seen) / 300) * 300 AS time, severity, sum(occurrences) FROM system_errors"
        " WHERE last_seen BETWEEN '2026-01-01T00:00:00Z' AND '2100-01-01T00:00:00Z' GROUP BY 1, 2 ORDER BY 1"
    ),
)
_LISTED_BY_GRAFANA = """
SELECT CASE WHEN quote_ident(table_schema) IN (
    SELECT CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
    FROM generate_series(array_lower(string_to_array(current_setting('search_path'), ','), 1),
        array_upper(string_to_array(current_setting('search_path'), ','), 1)) AS i,
        string_to_array(current_setting('search_path'), ',') s)
    THEN quote_ident(table_name) ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
FROM information_schema.tables
WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog', '_timescaledb_cache')
ORDER BY 1
"""


def test_what_metabase_and_grafana_ask_first_is_answered(furnished: Furnished) -> None:
    every = sorted([*VIEWS, "audit", "jobs"])
    with furnished.connect(furnished.ada) as ada:

        def ask(text: str) -> list[tuple[Any, ...]]:
            cursor = ada.execute(text.replace("{schema}", SCHEMA).encode())
            return cursor.fetchall() if cursor.description else []

        assert [row[1:3] for row in ask(_TABLES)] == [(name, "VIEW") for name in every]
        assert ask(_RIGHTS) == [(name, True, False) for name in every]
        fields = {(row[0], row[1]): row[2] for row in ask(_FIELDS)}
        assert fields["threads", "state"] == "jsonb"
        assert {view for view, _ in fields} == {*every}
        assert [row[0] for row in ask(_LISTED_BY_GRAFANA)] == every
        for text in (*_OF_METABASE, *_OF_GRAFANA):
            ask(text)
        assert ask(_OF_GRAFANA[-1])[0][1:] == ("error", 1)
