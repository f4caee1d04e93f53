-- The catalogue of user tables (migration 0039).

-- name: version
-- Primary key, of one row.
SELECT catalog_id::text, version FROM surgetank.table_catalog

-- name: advance
-- Held to the end of the transaction: changes of the catalogue come one after the other.
UPDATE surgetank.table_catalog
SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
RETURNING version

-- name: newer
-- Index tables_by_version.
SELECT t.*, n.name AS namespace FROM surgetank.tables t JOIN surgetank.table_namespaces n USING (namespace_id)
WHERE t.version > %(after)s ORDER BY t.table_id

-- name: columns
-- Primary key.
SELECT table_id, column_id, name, type, nullable, default_kind, default_value::text, since, initial::text
FROM surgetank.table_columns WHERE table_id = ANY(%(tables)s) ORDER BY table_id, column_id

-- name: namespaces
SELECT name FROM surgetank.table_namespaces ORDER BY lower(name)

-- name: namespace
-- Index table_namespaces_by_name.
SELECT namespace_id, name FROM surgetank.table_namespaces WHERE lower(name) = lower(%(name)s)

-- name: insert_namespace
INSERT INTO surgetank.table_namespaces (name) VALUES (%(name)s) ON CONFLICT DO NOTHING RETURNING namespace_id

-- name: tables_in
-- Index tables_by_name.
SELECT count(*) FROM surgetank.tables WHERE namespace_id = %(namespace)s AND dropped_at IS NULL

-- name: delete_namespace
-- With the rows of tables that were dropped in it.
DELETE FROM surgetank.table_namespaces WHERE namespace_id = %(namespace)s

-- name: insert_table
INSERT INTO surgetank.tables (namespace_id, name, kind, key, access, flush_rows, flush_interval_s, ttl_s, storage, owner,
    next_column_id, version)
VALUES (%(namespace)s, %(name)s, %(kind)s, %(key)s, %(access)s, %(rows)s, %(interval)s, %(ttl)s, %(storage)s, %(owner)s,
    %(next)s, %(version)s)
ON CONFLICT (namespace_id, lower(name)) WHERE dropped_at IS NULL DO NOTHING
RETURNING table_id

-- name: insert_column
INSERT INTO surgetank.table_columns (table_id, column_id, name, type, nullable, default_kind, default_value, since, initial)
VALUES (%(table)s, %(id)s, %(name)s, %(type)s, %(nullable)s, %(kind)s, %(default)s, %(since)s, %(initial)s)

-- name: change_table
-- Compare and set. Primary key.
UPDATE surgetank.tables
SET schema_version = schema_version + 1, next_column_id = next_column_id + 1, updated_at = now(), version = %(version)s
WHERE table_id = %(table)s AND schema_version = %(expected)s AND dropped_at IS NULL
RETURNING next_column_id - 1

-- name: drop_table
-- Compare and set. Primary key.
UPDATE surgetank.tables SET dropped_at = now(), updated_at = now(), version = %(version)s, owner = NULL
WHERE table_id = %(table)s AND dropped_at IS NULL
RETURNING table_id

-- name: drop_columns
DELETE FROM surgetank.table_columns WHERE table_id = %(table)s

-- name: note
SELECT surgetank.note(%(action)s, surgetank.acting(%(actor)s, %(origin)s), NULL, NULL, NULL, %(detail)s)

-- name: acted
-- The user as a number of audit_names, which an erasure takes the name of.
SELECT surgetank.note('acted_as_user', surgetank.acting(%(actor)s, %(origin)s), NULL, NULL, NULL,
    jsonb_build_object('user', surgetank.number_of('actor', %(user)s)))
