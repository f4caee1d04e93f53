-- Queries of the storage report (streams/checkpoints/retention/storage.py). On large tables they read a sample of
-- `percent` pages, and values of a mebibyte and more exactly; octet_length and pg_column_size never fetch what is
-- stored out of line.

-- name: tables
-- What each table occupies on disk, with indexes and free space. Catalog only.
SELECT c.relname AS name, pg_total_relation_size(c.oid) AS total_bytes, pg_indexes_size(c.oid) AS index_bytes,
    pg_relation_size(c.oid) AS main_bytes, greatest(c.reltuples, 0)::float8 AS rows_estimate
FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
WHERE s.nspname = 'surgetank' AND c.relkind = 'r' ORDER BY total_bytes DESC

-- name: kinds_sampled
-- Rows and bytes by kind and channel, and the namespaces that weigh most. A sample of the tables' pages; index
-- checkpoint_blobs_large_idx for the large values.
WITH used AS (
    SELECT c.ns_pk, 'checkpoints' AS kind, NULL::text AS channel, 1 / %(share)s::float8 AS weight,
        octet_length(c.body) + pg_column_size(c.metadata) + pg_column_size(c.scalars) AS size, 0 AS raw_bytes
    FROM surgetank.checkpoints c TABLESAMPLE SYSTEM (100 * %(share)s::float8)
    UNION ALL
    SELECT w.ns_pk, 'writes', w.channel, 1 / %(share)s::float8,
        octet_length(w.data) + coalesce(octet_length(w.others), 0), 0
    FROM surgetank.checkpoint_writes w TABLESAMPLE SYSTEM (100 * %(share)s::float8)
    UNION ALL
    SELECT b.ns_pk, CASE WHEN b.base_n IS NULL THEN 'whole' ELSE 'patches' END, b.channel, 1 / %(share)s::float8,
        octet_length(b.data), b.raw_bytes
    FROM surgetank.checkpoint_blobs b TABLESAMPLE SYSTEM (100 * %(share)s::float8) WHERE octet_length(b.data) < 1048576
    UNION ALL
    SELECT b.ns_pk, CASE WHEN b.base_n IS NULL THEN 'whole' ELSE 'patches' END, b.channel, 1,
        octet_length(b.data), b.raw_bytes
    FROM surgetank.checkpoint_blobs b WHERE octet_length(b.data) >= 1048576
), summed AS (
    SELECT ns_pk, kind, channel, grouping(ns_pk) AS by_channel, sum(weight) AS rows, sum(weight * size) AS size,
        sum(weight * raw_bytes) AS raw_bytes
    FROM used GROUP BY GROUPING SETS ((ns_pk), (kind, channel))
), threads AS (
    SELECT s.thread_id, sum(u.size) AS size FROM summed u JOIN surgetank.checkpoint_namespaces s USING (ns_pk)
    WHERE u.by_channel = 0 GROUP BY s.thread_id ORDER BY size DESC, s.thread_id LIMIT %(top)s
)
SELECT kind, channel, NULL AS thread_id, rows::float8, size::float8, raw_bytes::float8 FROM summed WHERE by_channel = 1
UNION ALL
SELECT NULL, NULL, thread_id, 0, size::float8, 0 FROM threads

-- name: threads
-- Exact figures of some threads by kind and channel. Unique (thread_id, checkpoint_ns), primary keys by their first
-- column.
SELECT s.thread_id, u.kind, u.channel, sum(u.rows)::bigint AS rows, sum(u.size)::bigint AS size,
    sum(u.raw_bytes)::bigint AS raw_bytes
FROM surgetank.checkpoint_namespaces s CROSS JOIN LATERAL (
    SELECT 'checkpoints' AS kind, NULL::text AS channel, count(*) AS rows, 0 AS raw_bytes,
        sum(octet_length(c.body) + pg_column_size(c.metadata) + pg_column_size(c.scalars)) AS size
    FROM surgetank.checkpoints c WHERE c.ns_pk = s.ns_pk
    UNION ALL
    SELECT 'writes', w.channel, count(*), 0, sum(octet_length(w.data) + coalesce(octet_length(w.others), 0))
    FROM surgetank.checkpoint_writes w WHERE w.ns_pk = s.ns_pk GROUP BY w.channel
    UNION ALL
    SELECT CASE WHEN b.base_n IS NULL THEN 'whole' ELSE 'patches' END, b.channel, count(*), sum(b.raw_bytes),
        sum(octet_length(b.data))
    FROM surgetank.checkpoint_blobs b WHERE b.ns_pk = s.ns_pk GROUP BY b.base_n IS NULL, b.channel
) AS u
WHERE s.thread_id = ANY(%(threads)s) AND u.rows > 0
GROUP BY s.thread_id, u.kind, u.channel

-- name: thread_rows
-- When threads were last written to, and how much their projected state weighs. Primary key.
SELECT thread_id, extract(epoch FROM updated_at)::float8 AS updated_at, pg_column_size(state) AS state_bytes
FROM surgetank.threads WHERE thread_id = ANY(%(threads)s)

-- name: raise_format
-- One row.
UPDATE surgetank.storage_format SET level = 2, changed_at = now() WHERE level < 2
