-- usable from: 0022
-- The manifest as a DuckLake 1.0 catalogue: views that other engines read (DuckDB's ducklake, polars-ducklake ...). Views can't be
-- written, so what they try to write is refused. Column and table numbers are ours; -1 is before any snapshot.
CREATE TABLE surgetank.table_versions (
    table_id bigint NOT NULL REFERENCES surgetank.tables ON DELETE CASCADE,
    schema_version integer NOT NULL,
    snapshot_id bigint NOT NULL,  -- with which the table has these columns
    lake_version bigint NOT NULL,  -- the schema_version of the catalogue since then
    PRIMARY KEY (table_id, schema_version)
);
INSERT INTO surgetank.table_versions (table_id, schema_version, snapshot_id, lake_version)
SELECT t.table_id, v, 0, 0 FROM surgetank.tables t, generate_series(1, t.schema_version) AS v WHERE t.dropped_at IS NULL;

-- A new, changed or dropped table is a snapshot as well. Its number is taken under the lock of all snapshots (LOCK of the manifest).
CREATE FUNCTION surgetank.note_table_version() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    what text;
    lake bigint;
    number bigint;
BEGIN
    what := CASE WHEN TG_OP = 'INSERT' THEN format('created_table:%s.%s',
            (SELECT '"' || replace(n.name, '"', '""') || '"' FROM surgetank.table_namespaces n WHERE n.namespace_id = NEW.namespace_id),
            '"' || replace(NEW.name, '"', '""') || '"')
        WHEN NEW.dropped_at IS NOT NULL THEN format('dropped_table:%s', NEW.table_id)
        ELSE format('altered_table:%s', NEW.table_id) END;
    PERFORM pg_advisory_xact_lock(6000857667756377427);
    INSERT INTO surgetank.table_snapshots (snapshot_id, table_id, changes, schema_version)
    VALUES (nextval('surgetank.table_snapshot_numbers'), NEW.table_id, what,
        (SELECT s.schema_version + 1 FROM surgetank.table_snapshots s ORDER BY s.snapshot_id DESC LIMIT 1))
    RETURNING snapshot_id, schema_version INTO number, lake;
    IF NEW.dropped_at IS NULL THEN
        INSERT INTO surgetank.table_versions (table_id, schema_version, snapshot_id, lake_version)
        VALUES (NEW.table_id, NEW.schema_version, number, lake);
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER noted AFTER INSERT ON surgetank.tables FOR EACH ROW
    WHEN (NEW.kind <> 'STREAM') EXECUTE FUNCTION surgetank.note_table_version();
CREATE TRIGGER noted_change AFTER UPDATE ON surgetank.tables FOR EACH ROW
    WHEN (NEW.kind <> 'STREAM' AND (OLD.schema_version, OLD.dropped_at) IS DISTINCT FROM (NEW.schema_version, NEW.dropped_at))
    EXECUTE FUNCTION surgetank.note_table_version();


CREATE FUNCTION surgetank.lake_type_of(declared text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN declared LIKE '%[]' THEN 'list' WHEN declared LIKE 'DECIMAL%' THEN lower(replace(declared, ' ', '')) ELSE
        CASE declared WHEN 'SMALLINT' THEN 'int16' WHEN 'INT' THEN 'int32' WHEN 'BIGINT' THEN 'int64' WHEN 'REAL' THEN 'float32'
            WHEN 'DOUBLE' THEN 'float64' WHEN 'TEXT' THEN 'varchar' WHEN 'BYTES' THEN 'blob' ELSE lower(declared) END END
$$;
-- A value of the catalogue's JSON as DuckDB's text of the type.
CREATE FUNCTION surgetank.lake_default_of(declared text, initial json) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN declared = 'BYTES'
        THEN regexp_replace(encode(decode(initial ->> 0, 'base64'), 'hex'), '(..)', '\\x\1', 'g')
        WHEN declared = 'JSON' THEN (initial -> 0)::text ELSE initial ->> 0 END
$$;

CREATE VIEW surgetank.ducklake_metadata AS
SELECT 'version'::text AS key, '1.0'::text AS value, NULL::text AS scope, NULL::bigint AS scope_id
UNION ALL SELECT 'created_by', 'Surgetank', NULL, NULL
UNION ALL SELECT 'data_path', coalesce((SELECT s.root || '/' FROM surgetank.table_storages s WHERE s.storage = 'local'), '/'), NULL, NULL
UNION ALL SELECT 'encrypted', 'false', NULL, NULL;

CREATE VIEW surgetank.ducklake_snapshot AS
SELECT s.snapshot_id, s.at AS snapshot_time, s.schema_version, (1::bigint << 40) AS next_catalog_id, (1::bigint << 40) AS next_file_id
FROM surgetank.table_snapshots s;
CREATE VIEW surgetank.ducklake_snapshot_changes AS
SELECT s.snapshot_id, s.changes AS changes_made, NULL::text AS author, NULL::text AS commit_message, NULL::text AS commit_extra_info
FROM surgetank.table_snapshots s;
CREATE VIEW surgetank.ducklake_schema_versions AS
SELECT v.snapshot_id AS begin_snapshot, v.lake_version AS schema_version, v.table_id FROM surgetank.table_versions v;

CREATE VIEW surgetank.ducklake_schema AS
SELECT n.namespace_id AS schema_id, md5('namespace ' || n.namespace_id)::uuid AS schema_uuid, 0::bigint AS begin_snapshot,
    NULL::bigint AS end_snapshot, n.name::text AS schema_name, ''::text AS path, true AS path_is_relative
FROM surgetank.table_namespaces n;
CREATE VIEW surgetank.ducklake_table AS
SELECT t.table_id, md5('table ' || t.table_id)::uuid AS table_uuid, v.snapshot_id AS begin_snapshot, NULL::bigint AS end_snapshot,
    t.namespace_id AS schema_id, t.name::text AS table_name, ''::text AS path, true AS path_is_relative
FROM surgetank.tables t JOIN surgetank.table_versions v ON v.table_id = t.table_id AND v.schema_version = 1
WHERE t.dropped_at IS NULL AND t.kind <> 'STREAM';

-- Hidden columns have the numbers 1 and 2; items of a list have that of their column and a million.
CREATE VIEW surgetank.ducklake_column AS
SELECT c.column_id, t.begin_snapshot, NULL::bigint AS end_snapshot, t.table_id, c.column_order, c.column_name, c.column_type,
    c.initial_default, NULL::text AS default_value, c.nulls_allowed, c.parent_column, 'literal'::text AS default_value_type,
    'duckdb'::text AS default_value_dialect
FROM (
    SELECT x.column_id::bigint, x.since, x.table_id, x.column_id::bigint AS column_order, x.name::text AS column_name,
        surgetank.lake_type_of(x.type) AS column_type, surgetank.lake_default_of(x.type, x.initial) AS initial_default,
        x.nullable AS nulls_allowed, NULL::bigint AS parent_column
    FROM surgetank.table_columns x
    UNION ALL
    SELECT 1000000 + x.column_id, x.since, x.table_id, x.column_id, 'element', surgetank.lake_type_of(left(x.type, -2)), NULL, true,
        x.column_id
    FROM surgetank.table_columns x WHERE x.type LIKE '%[]'
    UNION ALL
    SELECT 1, 1, x.table_id, 1, '_user', 'varchar', NULL, false, NULL FROM surgetank.tables x WHERE x.kind = 'USER'
    UNION ALL
    SELECT 2, 1, x.table_id, 2, '_seq', 'int64', NULL, false, NULL FROM surgetank.tables x
) AS c
JOIN (
    SELECT v.table_id, v.schema_version, v.snapshot_id AS begin_snapshot
    FROM surgetank.table_versions v JOIN surgetank.tables k ON k.table_id = v.table_id AND k.dropped_at IS NULL
) AS t ON t.table_id = c.table_id AND t.schema_version = c.since;

CREATE VIEW surgetank.ducklake_data_file AS
SELECT f.file_id AS data_file_id, f.table_id, f.begin_snapshot, f.end_snapshot, NULL::bigint AS file_order, f.path, true AS path_is_relative,
    'parquet'::text AS file_format, f.rows AS record_count, f.bytes AS file_size_bytes, f.footer_bytes AS footer_size,
    f.row_start AS row_id_start, NULL::bigint AS partition_id, NULL::text AS encryption_key, NULL::bigint AS mapping_id,
    NULL::bigint AS partial_max
FROM surgetank.table_files f;
CREATE VIEW surgetank.ducklake_delete_file AS
SELECT d.delete_id AS delete_file_id, d.table_id, d.begin_snapshot, d.end_snapshot, d.file_id AS data_file_id, d.path,
    true AS path_is_relative, 'parquet'::text AS format, d.rows AS delete_count, d.bytes AS file_size_bytes, d.footer_bytes AS footer_size,
    NULL::text AS encryption_key, NULL::bigint AS partial_max
FROM surgetank.table_delete_files d;
CREATE VIEW surgetank.ducklake_file_column_stats AS
SELECT c.file_id AS data_file_id, f.table_id, c.column_id::bigint, c.bytes AS column_size_bytes, c.value_count, c.null_count,
    c.least::text AS min_value, c.greatest::text AS max_value, c.nan AS contains_nan, NULL::text AS extra_stats
FROM surgetank.table_column_stats c JOIN surgetank.table_files f USING (file_id);
CREATE VIEW surgetank.ducklake_table_stats AS
SELECT t.table_id, t.rows AS record_count, t.given AS next_row_id, t.bytes AS file_size_bytes FROM surgetank.table_totals t;

-- What a catalogue of ours never has.
CREATE VIEW surgetank.ducklake_table_column_stats AS
SELECT NULL::bigint AS table_id, NULL::bigint AS column_id, NULL::boolean AS contains_null, NULL::boolean AS contains_nan,
    NULL::text AS min_value, NULL::text AS max_value, NULL::text AS extra_stats WHERE false;
CREATE VIEW surgetank.ducklake_view AS
SELECT NULL::bigint AS view_id, NULL::uuid AS view_uuid, NULL::bigint AS begin_snapshot, NULL::bigint AS end_snapshot,
    NULL::bigint AS schema_id, NULL::text AS view_name, NULL::text AS dialect, NULL::text AS sql, NULL::text AS column_aliases WHERE false;
CREATE VIEW surgetank.ducklake_tag AS
SELECT NULL::bigint AS object_id, NULL::bigint AS begin_snapshot, NULL::bigint AS end_snapshot, NULL::text AS key, NULL::text AS value
WHERE false;
CREATE VIEW surgetank.ducklake_column_tag AS
SELECT NULL::bigint AS table_id, NULL::bigint AS column_id, NULL::bigint AS begin_snapshot, NULL::bigint AS end_snapshot,
    NULL::text AS key, NULL::text AS value WHERE false;
CREATE VIEW surgetank.ducklake_column_mapping AS
SELECT NULL::bigint AS mapping_id, NULL::bigint AS table_id, NULL::text AS type WHERE false;
CREATE VIEW surgetank.ducklake_name_mapping AS
SELECT NULL::bigint AS mapping_id, NULL::bigint AS column_id, NULL::text AS source_name, NULL::bigint AS target_field_id,
    NULL::bigint AS parent_column, NULL::boolean AS is_partition WHERE false;
CREATE VIEW surgetank.ducklake_inlined_data_tables AS
SELECT NULL::bigint AS table_id, NULL::text AS table_name, NULL::bigint AS schema_version WHERE false;
CREATE VIEW surgetank.ducklake_partition_info AS
SELECT NULL::bigint AS partition_id, NULL::bigint AS table_id, NULL::bigint AS begin_snapshot, NULL::bigint AS end_snapshot WHERE false;
CREATE VIEW surgetank.ducklake_partition_column AS
SELECT NULL::bigint AS partition_id, NULL::bigint AS table_id, NULL::bigint AS partition_key_index, NULL::bigint AS column_id,
    NULL::text AS transform WHERE false;
CREATE VIEW surgetank.ducklake_file_partition_value AS
SELECT NULL::bigint AS data_file_id, NULL::bigint AS table_id, NULL::bigint AS partition_key_index, NULL::text AS partition_value
WHERE false;
CREATE VIEW surgetank.ducklake_file_variant_stats AS
SELECT NULL::bigint AS data_file_id, NULL::bigint AS table_id, NULL::bigint AS column_id, NULL::text AS variant_path,
    NULL::text AS shredded_type, NULL::bigint AS column_size_bytes, NULL::bigint AS value_count, NULL::bigint AS null_count,
    NULL::text AS min_value, NULL::text AS max_value, NULL::boolean AS contains_nan, NULL::text AS extra_stats WHERE false;
CREATE VIEW surgetank.ducklake_files_scheduled_for_deletion AS
SELECT NULL::bigint AS data_file_id, NULL::text AS path, NULL::boolean AS path_is_relative, NULL::timestamptz AS schedule_start WHERE false;
CREATE VIEW surgetank.ducklake_macro AS
SELECT NULL::bigint AS schema_id, NULL::bigint AS macro_id, NULL::text AS macro_name, NULL::bigint AS begin_snapshot,
    NULL::bigint AS end_snapshot WHERE false;
CREATE VIEW surgetank.ducklake_macro_impl AS
SELECT NULL::bigint AS macro_id, NULL::bigint AS impl_id, NULL::text AS dialect, NULL::text AS sql, NULL::text AS type WHERE false;
CREATE VIEW surgetank.ducklake_macro_parameters AS
SELECT NULL::bigint AS macro_id, NULL::bigint AS impl_id, NULL::bigint AS column_id, NULL::text AS parameter_name,
    NULL::text AS parameter_type, NULL::text AS default_value, NULL::text AS default_value_type WHERE false;
CREATE VIEW surgetank.ducklake_sort_info AS
SELECT NULL::bigint AS sort_id, NULL::bigint AS table_id, NULL::bigint AS begin_snapshot, NULL::bigint AS end_snapshot WHERE false;
CREATE VIEW surgetank.ducklake_sort_expression AS
SELECT NULL::bigint AS sort_id, NULL::bigint AS table_id, NULL::bigint AS sort_key_index, NULL::text AS expression, NULL::text AS dialect,
    NULL::text AS sort_direction, NULL::text AS null_order WHERE false;
