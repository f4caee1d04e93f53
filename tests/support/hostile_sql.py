"""Statements of somebody who wants what is not his: files, other people's rows, all memory, all time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from support.torture import SEEDS

READERS = (
    "read_csv", "read_csv_auto", "read_json", "read_json_auto", "read_json_objects", "read_ndjson", "read_ndjson_auto",
    "read_ndjson_objects", "read_parquet", "parquet_scan", "read_text", "read_blob", "glob", "sniff_csv", "read_duckdb",
    "parquet_metadata", "parquet_schema", "parquet_file_metadata", "parquet_full_metadata", "parquet_kv_metadata",
    "read_single_csv_file", "read_single_json_file", "read_single_parquet_file",
    "sqlite_scan", "postgres_scan", "mysql_scan", "delta_scan", "iceberg_scan", "st_read", "read_xlsx",
)  # fmt: skip
SYSTEM = (
    "duckdb_settings()", "duckdb_secrets()",
    "duckdb_tables()", "duckdb_views()", "duckdb_columns()", "duckdb_databases()",
    "duckdb_extensions()", "duckdb_logs()", "duckdb_log_contexts()", "duckdb_temporary_files()", "duckdb_memory()",
    "duckdb_variables()", "duckdb_functions()", "duckdb_external_file_cache()", "duckdb_external_resources()",
    "duckdb_external_resource_types()", "duckdb_prepared_statements()", "duckdb_dependencies()", "duckdb_schemas()",
    "pragma_database_size()", "pragma_storage_info('mine')", "pragma_table_info('mine')", "information_schema.tables",
    "information_schema.columns",
    "pg_catalog.pg_class", "pg_catalog.pg_tables", "pg_catalog.pg_settings", "sqlite_master",
    "duckdb_tables", "duckdb_views", "pragma_show('mine')", "duckdb_dialects()", "duckdb_connection_count()",
)  # fmt: skip

_TELLING = re.compile(
    r"file|path|env|setting|secret|write|read|exec|current_|user|version|config|glob"
)


def statements(marker: Path, new: Path) -> list[str]:
    """Several hundred of them. `marker` is a file that must not be read, `new` one that must not
    come to be."""
    return [
        *_reads(marker), *_reads_inside(marker), *_writes(marker, new), *_others(), *_settings(), *_extensions(new),
        *_two_at_once(new), *_huge(), *_later(marker, new),
        *(_every_function(marker, new) if len(SEEDS) > 2 else ()),
    ]  # fmt: skip


def _every_function(marker: Path, new: Path) -> Iterator[str]:
    """Each table function and pragma that this DuckDB has, whatever it does, and each function whose name
    says that it has to do with files, settings, or who runs it."""
    known = duckdb.connect().execute(
        "SELECT DISTINCT function_name, function_type FROM duckdb_functions() ORDER BY ALL"
    )
    for name, kind in known.fetchall():
        quoted = '"' + name.replace('"', '""') + '"'
        if kind in {"table", "table_macro", "pragma"}:
            yield f"FROM {quoted}('{marker}')"
            yield f"FROM app.mine, {quoted}()"
            if kind == "pragma":
                yield f"PRAGMA {quoted}('{new}')"
        elif _TELLING.search(name):
            yield f"SELECT {quoted}('{marker}')"
            yield f"SELECT {quoted}('{new}', 'x') FROM app.mine"


def _later(marker: Path, new: Path) -> list[str]:
    """What came to mind later: `hostile_later.sql`, one in each line."""
    text = Path(__file__).with_name("hostile_later.sql").read_text(encoding="utf-8")
    return text.replace("{marker}", str(marker)).replace("{new}", str(new)).splitlines()


def of_others(schema: str, mine: str, theirs: str) -> list[str]:
    """The attempts to see somebody else's rows in these tables of a real catalogue: whole names, and
    rows of one's own table that belong to others."""
    found = [
        text.replace("app.", f"{schema}.").replace("theirs", theirs).replace("mine", mine)
        for text in (*_others(), *_crossing())
    ]
    return [*found, *(text.replace(theirs, mine) for text in found if theirs in text)]


def _reads(marker: Path) -> Iterator[str]:
    folder = marker.parent
    for name in READERS:
        yield f"SELECT * FROM {name}('{marker}')"
        yield f"SELECT * FROM {name}('{folder}/*')"
        yield f"SELECT * FROM {name}(['{marker}', '/etc/passwd'])"
        yield f"FROM query('FROM {name}(''{marker}'')')"
    for path in (
        marker, f"{folder}/*.csv", f"file://{marker}", "/proc/self/environ", "/proc/self/mem", "/proc/self/maps",
        "/proc/self/fd/0", "/dev/stdin", "/etc/passwd", "http://127.0.0.1:1/x.csv", "https://example.invalid/x.parquet",
        "s3://bucket/x.parquet", "gs://bucket/x", "hf://datasets/x/y.parquet", "md:x", f"{folder}/./{marker.name}",
        f"/../..{marker}", f"{marker}\x00.csv", "postgres:host=localhost", "sqlite:/tmp/x.db",
    ):  # fmt: skip
        quoted = str(path).replace("'", "''")
        yield f"SELECT * FROM '{quoted}'"
        yield f'SELECT * FROM "{quoted}"'
        yield f"FROM query_table('{quoted}')"
        yield f"SELECT content FROM read_text('{quoted}')"


def _reads_inside(marker: Path) -> Iterator[str]:
    """Files by functions in other places than FROM, and files whose names come from rows."""
    for call in (f"read_text('{marker}')", f"read_csv('{marker}')", f"glob('{marker.parent}/*')"):
        yield f"SELECT (SELECT any_value(COLUMNS(*)) FROM {call})"
        yield f"SELECT * FROM app.mine WHERE EXISTS (FROM {call})"
        yield f"WITH f AS (FROM {call}) SELECT * FROM f"
        yield f"WITH f AS MATERIALIZED (FROM {call}) SELECT * FROM f, app.mine"
        yield f"WITH RECURSIVE f AS (FROM {call} UNION FROM f) SELECT * FROM f"
        yield f"FROM app.mine UNION ALL BY NAME FROM {call}"
        yield f"SELECT * FROM app.mine, LATERAL (FROM {call})"
        yield f"SELECT list_transform([1], lambda x: (SELECT count(*) FROM {call}))"
        yield f"PIVOT (FROM {call}) ON COLUMNS(*) USING count(*)"
        yield f"SUMMARIZE FROM {call}"
        yield f"DESCRIBE FROM {call}"
        yield f"FROM (VALUES (1)) v, {call}"
    yield f"SELECT * FROM (SELECT '{marker}' AS f), read_text(f)"
    yield "SELECT * FROM app.mine m, read_text(m.note)"
    yield "FROM read_text(getvariable('f'))"
    yield "FROM read_text((SELECT note FROM app.mine LIMIT 1))"
    yield f"SELECT file_exists('{marker}'), file_size('{marker}')"


def _extensions(new: Path) -> Iterator[str]:
    for name in (
        "httpfs",
        "postgres",
        "sqlite",
        "spatial",
        "aws",
        "excel",
        "delta",
        "iceberg",
        "ui",
        "shellfs",
    ):
        yield f"FORCE INSTALL {name}"
        yield f"INSTALL {name} FROM 'http://127.0.0.1:1'"
        yield f"LOAD {name}"
        yield f"SELECT * FROM install_extension('{name}')"
    for name in (
        "database_size", "show_databases", "functions", "collations", "user_agent", "platform", "force_checkpoint",
        "disable_profiling", "enable_object_cache", "enable_verification", "add_parquet_key('k', '0123456789abcdef')",
        "storage_info('mine')", "show('mine')", f"profile_output = '{new}'", f"log_query_path = '{new}'",
        f"temp_directory = '{new}'", f"extension_directory = '{new}'", f"secret_directory = '{new}'",
    ):  # fmt: skip
        yield f"PRAGMA {name}"
    yield from (
        "CALL start_ui()",
        "SELECT * FROM start_ui_server()",
        f"COPY FROM DATABASE memory TO '{new}'",
        f"COPY mine TO PROGRAM 'touch {new}'",
        f"COPY (SELECT 1) TO '{new}' (FORMAT parquet, PARTITION_BY (a))",
        f"ATTACH IF NOT EXISTS '{new}' AS n",
        f"ATTACH OR REPLACE '{new}' AS memory",
        "ATTACH 'http://127.0.0.1:1/x.db' AS h",
        "CREATE OR REPLACE TEMP VIEW v AS FROM app.mine",
        "CREATE TEMP TABLE t AS FROM app.mine",
        "CREATE TEMP MACRO m() AS TABLE FROM app.mine",
    )


def _crossing() -> Iterator[str]:
    """Joins, parts of the query under somebody else's name, quoted and odd names."""
    yield from (
        "SELECT * FROM app.mine m JOIN app.theirs t ON m._user <> t._user",
        "SELECT * FROM app.mine m FULL JOIN app.theirs t ON m._seq = t._seq",
        "SELECT * FROM app.mine m SEMI JOIN app.theirs t ON true",
        "SELECT * FROM app.mine NATURAL JOIN app.theirs",
        "SELECT * FROM app.mine ASOF JOIN app.theirs t ON mine._seq >= t._seq",
        "WITH theirs AS (FROM app.theirs) FROM theirs",
        "WITH mine AS (FROM app.theirs) FROM mine",
        "WITH a AS (FROM b), b AS (FROM app.theirs) FROM a",
        "WITH RECURSIVE a AS (FROM app.mine UNION ALL FROM app.theirs) FROM a LIMIT 9",
        "SELECT (SELECT list(t) FROM app.theirs t), * FROM app.mine",
        "SELECT * FROM app.mine ORDER BY (SELECT count(*) FROM app.theirs)",
        "SELECT count(*) FILTER (WHERE EXISTS (FROM app.theirs)) FROM app.mine",
        "SELECT * FROM app.mine QUALIFY row_number() OVER (ORDER BY (SELECT max(_seq) FROM app.theirs)) > 0",
        "FROM app.theirs TABLESAMPLE 100%",
        "SELECT * FROM app.mine WHERE _user IN ('ann', 'bob', '')",
        "SELECT * FROM app.mine WHERE _user <> current_user OR _user IS NULL",
        "SELECT * FROM app.mine WHERE _user = 'ann'",
        "SELECT * FROM app.mine WHERE _user = 'mallory' OR _user = 'ann'",
        "SELECT _user, _seq, m FROM app.mine m",
        "SELECT COLUMNS(*)::TEXT FROM app.mine",
        'FROM "app"."theirs"', 'FROM "APP".theirs', 'FROM "app" . "theirs"', 'FROM "app.theirs"', 'FROM app."theirs "',
        'FROM app."the\u200birs"', 'FROM app.""', 'FROM ""."theirs"', "FROM app.theirs.id", "FROM a.app.theirs",
        'FROM U&"app".theirs', "FROM app/**/.theirs", "FROM app.theirs -- app.mine", 'FROM app."theirs"";"',
        'FROM "surgetank app".theirs', 'FROM "surgetank system".runs', 'FROM "surgetank 0"',
        "SELECT * FROM system.threads", "SELECT * FROM system.checkpoints", "SELECT * FROM system.thread_logs",
        "SELECT * FROM system.system_errors", "SELECT * FROM system.users", "SELECT * FROM system.files",
        "SELECT * FROM system.threads t JOIN system.checkpoints c USING (thread_id)",
        "SELECT * FROM system.thread_logs WHERE thread_id = 'of-ann'",
        "SELECT * FROM system.threads WHERE user_id = 'ann' OR true",
        "EXECUTE AS USER 'ann' SELECT * FROM app.mine",
        "EXECUTE AS USER 'mallory' SELECT * FROM app.mine WHERE _user = 'ann'",
        "INSERT INTO app.mine (id, note) SELECT id, note FROM app.theirs",
        "UPDATE app.mine SET note = (SELECT any_value(note) FROM app.theirs)",
        "UPDATE app.theirs SET note = note",
        "DELETE FROM app.theirs WHERE error(note)",
        "SELECT error(note) FROM app.theirs",
        "SELECT note::INT FROM app.theirs",
        "SHOW STATS FOR TABLE app.theirs",
        "DESCRIBE app.theirs",
        "ALTER TABLE app.theirs ADD COLUMN x INT",
        "DROP TABLE app.theirs",
        "CREATE VIEW app.v AS SELECT * FROM app.theirs",
        "STORAGE FLUSH TABLE app.theirs",
        "SUBSCRIBE TO app.theirs",
    )  # fmt: skip


def _huge() -> Iterator[str]:
    """Long and deep texts, and recursion that does not end by itself."""
    yield 'SELECT "' + "x" * 100_000 + '" FROM app.mine'
    yield "SELECT * FROM app." + "x" * 100_000
    yield "SELECT 1" + "0" * 100_000
    yield "SELECT " + ", ".join(f"{n} AS c{n}" for n in range(1000))
    yield "SELECT 1 IN (" + ", ".join(map(str, range(2_000))) + ")"
    yield "SELECT '" + "[" * 50_000 + "'::JSON"
    yield "SELECT x'" + "ff" * 50_000 + "'"
    yield "SELECT 'a' SIMILAR TO '" + "(a|" * 1000 + "b" + ")" * 1000 + "'"
    yield "SELECT {'a': " * 500 + "1" + "}" * 500
    yield "SELECT " + "-" * 3001 + "1"
    yield "SELECT " + "- " * 5000 + "1"
    yield "SELECT * FROM app.mine WHERE " + " AND ".join(["id = id"] * 400)
    yield " UNION ALL ".join(["SELECT id FROM app.mine"] * 60)
    yield "SELECT " + "CASE WHEN true THEN " * 500 + "1" + " END" * 500
    yield "WITH RECURSIVE a AS (FROM b), b AS (FROM a) FROM a"
    yield "WITH RECURSIVE a AS (FROM a) FROM a"
    yield "WITH RECURSIVE r AS (SELECT 1 AS a UNION FROM r) FROM r"
    yield "WITH RECURSIVE r(a) AS (SELECT 1 UNION SELECT a % 7 + 1 FROM r) FROM r"


def _writes(marker: Path, new: Path) -> Iterator[str]:
    for name in ("csv", "json", "parquet"):
        yield f"COPY mine TO '{new}' (FORMAT {name})"
        yield f"COPY (SELECT 1) TO '{new}.{name}'"
        yield f"COPY mine FROM '{marker}' (FORMAT {name})"
    yield from (
        f"ATTACH '{new}'",
        f"ATTACH '{new}' AS n",
        f"ATTACH '{new}' (TYPE sqlite)",
        f"ATTACH '{marker}' AS m (READ_ONLY)",
        "ATTACH ':memory:' AS other",
        "ATTACH 'postgres:host=localhost' AS p",
        "ATTACH 'ducklake:x' AS l",
        f"EXPORT DATABASE '{new}'",
        f"IMPORT DATABASE '{marker.parent}'",
        f"CREATE TABLE x AS FROM '{marker}'",
        "CREATE TABLE x (a INT)",
        "CREATE VIEW x AS FROM mine",
        "CREATE MACRO m() AS 1",
        "CREATE TYPE t AS INT",
        "CREATE SCHEMA x",
        "CREATE SEQUENCE s",
        f"CREATE SECRET s (TYPE s3, KEY_ID '{marker}')",
        "DROP VIEW mine",
        "DROP TABLE mine",
        "ALTER TABLE mine ADD COLUMN x INT",
        "INSERT INTO mine VALUES (1)",
        "DELETE FROM mine",
        "UPDATE mine SET id = 1",
        "TRUNCATE mine",
        "MERGE INTO mine USING mine m ON true WHEN MATCHED THEN DELETE",
        "INSTALL httpfs",
        "LOAD httpfs",
        f"LOAD '{marker}'",
        "INSTALL sqlite FROM community",
        "UPDATE EXTENSIONS",
        f"INSTALL '{marker}'",
        "CHECKPOINT",
        "FORCE CHECKPOINT",
        "VACUUM",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "USE memory",
        "DETACH memory",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "COMMENT ON VIEW mine IS 'x'",
        "CALL pragma_version()",
        "CALL enable_logging()",
        f"CALL enable_profiling(save_location := '{new}')",
        "CALL checkpoint()",
        "PIVOT mine ON id USING count(*)",
        f"SELECT * FROM enable_profiling(save_location := '{new}')",
        f"SELECT * FROM enable_profiling(format := 'json', save_location := '{new}'), mine",
        f"SELECT * FROM enable_logging(storage := 'file', storage_path := '{new}')",
        f"SELECT * FROM enable_logging('', storage_config := {{'path': '{new}'}})",
        "SELECT * FROM disable_logging()",
        "SELECT * FROM truncate_duckdb_logs()",
        "SELECT * FROM disable_profiling()",
        f"SELECT * FROM register_external_resource('x', 'file', MAP {{'path': '{new}'}})",
        f"SELECT * FROM create_external_resource('file', MAP {{'path': '{new}'}})",
        f"SELECT * FROM register_external_resource_type('x', '{marker}', 'x', 'x', 'x')",
        "SELECT * FROM force_checkpoint()",
        "SELECT * FROM checkpoint('temp')",
        f"SELECT write_log('x', log_type := 'x', level := '{new}')",
        f"SELECT write_blob('{new}', 'x'::BLOB)",
        "SELECT * FROM which_secret('s3://x', 's3')",
        "SELECT getenv('HOME')",
        "SELECT getvariable('x')",
        "SELECT nextval('s')",
        "SELECT current_setting('home_directory')",
        "SELECT current_query()",
        f"SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{marker}'')'))",
        f"PRAGMA json_execute_serialized_sql(json_serialize_sql('FROM read_text(''{marker}'')'))",
        f"SELECT json_serialize_plan('FROM read_text(''{marker}'')')",
        "SELECT * FROM python_map_function((SELECT 1))",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM pandas_scan(1)",
        "SELECT * FROM python_arrow_scan(1)",
        "SELECT * FROM arrow_scan_dumb(1, 2, 3)",
        "SELECT * FROM seq_scan()",
    )


def _others() -> Iterator[str]:
    """Other people's rows, by all names that they might have."""
    for name in SYSTEM:
        yield f"SELECT * FROM {name}"
    for name in (
        "theirs", "app.theirs", '"app"."theirs"', '"App"."THEIRS"', "memory.app.theirs", "temp.theirs", "main.theirs",
        '"surgetank 1"', 'temp.main."surgetank 1"', '"app/ada"."theirs"', '"theirs; DROP"', "system.main.theirs",
        "app.theirs AT (VERSION => 1)", "app.mine.theirs", "pg_temp.theirs", "sys.theirs", '"app.theirs"',
        "tables", "con", "connection", "self", "query", "batches", "__builtins__", "os", "sys",
    ):  # fmt: skip
        yield f"SELECT * FROM {name}"
        yield f"SELECT m.id, t.* FROM app.mine m LEFT JOIN {name} t ON true"
        yield f"SELECT * FROM app.mine WHERE id IN (SELECT id FROM {name})"
    yield from (
        "SELECT * FROM app.mine WHERE _user = 'bob' OR true",
        "SELECT * FROM app.mine UNION ALL BY NAME SELECT * FROM app.mine",
        "SELECT * FROM app.mine, LATERAL (SELECT * FROM app.theirs t WHERE t.id = mine.id)",
        "WITH RECURSIVE r AS (SELECT * FROM app.theirs UNION ALL FROM r) FROM r",
        "SELECT * FROM app.mine POSITIONAL JOIN app.theirs",
        "SUMMARIZE app.theirs",
        "DESCRIBE app.theirs",
        "SHOW ALL TABLES",
        "SHOW TABLES FROM app",
        "SELECT COLUMNS('.*') FROM app.theirs",
        "FROM (FROM app.mine) ANTI JOIN app.theirs USING (id)",
        "SELECT list(t) FROM app.theirs t",
        "FROM query('SELECT * FROM app.theirs')",
        "FROM query_table(['theirs', 'mine'])",
        "EXECUTE AS USER 'bob' SELECT * FROM app.mine",
    )


def _settings() -> Iterator[str]:
    for name, value in (
        ("enable_external_access", "true"), ("lock_configuration", "false"), ("allowed_paths", "['/']"),
        ("allowed_directories", "['/']"), ("autoload_known_extensions", "true"), ("python_enable_replacements", "true"),
        ("memory_limit", "'100GB'"), ("max_execution_time", "0"), ("threads", "64"), ("temp_directory", "'/tmp'"),
        ("home_directory", "'/tmp'"), ("log_query_path", "'/tmp/x'"), ("profile_output", "'/tmp/x'"),
        ("allow_unsigned_extensions", "true"), ("search_path", "'x'"), ("custom_extension_repository", "'http://x'"),
    ):  # fmt: skip
        yield f"SET {name} = {value}"
        yield f"SET GLOBAL {name} = {value}"
        yield f"PRAGMA {name} = {value}"
        yield f"RESET {name}"
        yield f"SELECT set_config('{name}', $${value}$$, false)"
    for name in (
        "database_list",
        "show_tables",
        "version",
        "enable_profiling",
        "table_info('mine')",
        "import_database('x')",
    ):
        yield f"PRAGMA {name}"


def _two_at_once(new: Path) -> Iterator[str]:
    yield from (
        "SELECT 1; SELECT 2",
        "SELECT 1;;SELECT 2",
        "; ;",
        "",
        "-- nothing",
        "/* nothing */",
        "SELECT 1; --\nSELECT 2",
    )
    yield f"SELECT 1; COPY (SELECT 1) TO '{new}'"
    yield f"SELECT 1 /* ; */ ; ATTACH '{new}'"
    yield f"WITH x AS (COPY (SELECT 1) TO '{new}') SELECT 1"
    yield f"WITH x AS (INSERT INTO mine VALUES (1) RETURNING *) SELECT * FROM x -- {new}"
    yield "SELECT 1\x00; SELECT 2"
    yield "SELECT '" + "x" * 200_000 + "'"
    yield "SELECT " + "(" * 3000 + "1" + ")" * 3000
    yield "SELECT " + "1+" * 5000 + "1"
    yield "SELECT " + "NOT " * 5000 + "true"
    yield "SELECT " + "[" * 1000 + "]" * 1000
    yield "SELECT " + "abs(" * 2000 + "1" + ")" * 2000
    yield "SELECT * FROM " + "(SELECT * FROM " * 500 + "mine" + ")" * 500
    yield "WITH " + ", ".join(f"c{n} AS (FROM mine)" for n in range(500)) + " SELECT 1"
    yield "SELECT CASE " * 500
    yield "SELECT \ud800".encode("utf-8", "replace").decode()


# What takes all memory or all time: each is over within its limit, whatever it does.
EXPENSIVE = (
    "SELECT repeat('x', 1000000000) || repeat('y', 1000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT len(string_split(repeat('a,', 150000000), ','))",
    "WITH RECURSIVE r AS (SELECT 1 AS a UNION ALL SELECT a + 1 FROM r) SELECT count(*) FROM r",
    "SELECT count(*) FROM range(1000000000) a, range(1000000000) b",
    "SELECT list(range) FROM range(500000000)",
    "SELECT * FROM range(1000000000000) ORDER BY hash(range)",
    "SELECT regexp_replace(repeat('a', 100000000), '(a*)*b', 'x')",
    "WITH RECURSIVE r AS (SELECT 'x' AS s UNION ALL SELECT s || s FROM r) SELECT max(len(s)) FROM r",
    "SELECT levenshtein(repeat('a', 200000), repeat('b', 200000))",
    "SELECT list_reduce(range(300000000), lambda a, b: a + b)",
)
