-- Queries of the store (workflows/store/store.py). Parameters only; the index each relies on is named.

-- name: get
-- Primary key.
SELECT asked.n, i.path, i.key, i.value, i.created_at, i.updated_at, i.ttl_s IS NOT NULL AS ages
FROM unnest(%(paths)s::text[], %(keys)s::text[]) WITH ORDINALITY AS asked(path, key, n)
JOIN surgetank.store_items i ON i.path = asked.path AND i.key = asked.key
WHERE i.expires_at IS NULL OR i.expires_at > now()

-- name: search
-- Primary key, by the range of the namespace. Values are left out where all together are more than `most_bytes`.
WITH found AS (
SELECT i.path, i.key, i.value, i.created_at, i.updated_at, i.ttl_s IS NOT NULL AS ages, NULL::double precision AS distance, i.written
FROM surgetank.store_items i
WHERE i.path >= %(low)s AND (%(high)s::text IS NULL OR i.path < %(high)s) AND (i.expires_at IS NULL OR i.expires_at > now())
    AND (%(label)s::text IS NULL OR position(%(label)s::text IN '.' || i.path) > 0)
    AND (%(path)s::jsonpath IS NULL OR jsonb_path_match(i.projection, %(path)s::jsonpath, %(values)s::jsonb, true))
    AND (%(filter)s::jsonb IS NULL OR surgetank.store_value_matches(i.projection, %(filter)s::jsonb))
ORDER BY i.written DESC LIMIT %(limit)s OFFSET %(offset)s)
SELECT path, key, created_at, updated_at, ages, distance,
    CASE WHEN %(most_bytes)s::bigint IS NULL OR sum(octet_length(value)) OVER () <= %(most_bytes)s::bigint THEN value END AS value
FROM found ORDER BY written DESC

-- name: search_vectors
-- Every vector of the range is compared, so that none is missed. Primary keys. {vector} is the schema of pgvector.
-- Distances first, so that vectors are not sorted.
WITH each AS MATERIALIZED (
    SELECT v.path, v.key, coalesce(nullif(
        v.embedding::{vector}.vector OPERATOR({vector}.{operator}) %(query)s::{vector}.vector, 'NaN'), 1) AS distance
    FROM surgetank.store_vectors v
    WHERE v.path >= %(low)s AND (%(high)s::text IS NULL OR v.path < %(high)s) AND cardinality(v.embedding) = %(dims)s
), near AS (
    SELECT path, key, min(distance) AS distance FROM each GROUP BY path, key
), found AS (
SELECT i.path, i.key, i.value, i.created_at, i.updated_at, i.ttl_s IS NOT NULL AS ages, near.distance, i.written
FROM near JOIN surgetank.store_items i USING (path, key)
WHERE (i.expires_at IS NULL OR i.expires_at > now())
    AND (%(label)s::text IS NULL OR position(%(label)s::text IN '.' || i.path) > 0)
    AND (%(path)s::jsonpath IS NULL OR jsonb_path_match(i.projection, %(path)s::jsonpath, %(values)s::jsonb, true))
    AND (%(filter)s::jsonb IS NULL OR surgetank.store_value_matches(i.projection, %(filter)s::jsonb))
ORDER BY near.distance, i.written DESC LIMIT %(limit)s OFFSET %(offset)s)
SELECT path, key, created_at, updated_at, ages, distance,
    CASE WHEN %(most_bytes)s::bigint IS NULL OR sum(octet_length(value)) OVER () <= %(most_bytes)s::bigint THEN value END AS value
FROM found ORDER BY distance, written DESC

-- name: namespaces
-- One step in the primary key for each namespace, however many items it has.
WITH RECURSIVE found AS (
    (SELECT i.path FROM surgetank.store_items i
    WHERE i.path >= %(low)s AND (%(high)s::text IS NULL OR i.path < %(high)s) AND (i.expires_at IS NULL OR i.expires_at > now())
    ORDER BY i.path LIMIT 1)
    UNION ALL
    SELECT (SELECT i.path FROM surgetank.store_items i
        WHERE i.path > f.path AND (%(high)s::text IS NULL OR i.path < %(high)s) AND (i.expires_at IS NULL OR i.expires_at > now())
        ORDER BY i.path LIMIT 1)
    FROM found f WHERE f.path IS NOT NULL
), visible AS (
    SELECT (string_to_array(left(path, -1), '.'))[%(skip)s::integer + 1:] AS labels FROM found
    WHERE path IS NOT NULL AND (%(label)s::text IS NULL OR position(%(label)s::text IN '.' || path) > 0)
)
SELECT DISTINCT CASE WHEN %(depth)s::integer IS NULL THEN labels ELSE labels[1:%(depth)s::integer] END COLLATE "C" AS namespace
FROM visible WHERE surgetank.store_labels_match(labels, %(conditions)s::jsonb)
ORDER BY 1 LIMIT %(limit)s OFFSET %(offset)s

-- name: lock
-- In the order of the numbers, which is the same for all.
SELECT pg_advisory_xact_lock(%(room)s, number) FROM unnest(%(numbers)s::integer[]) AS number

-- name: delete
-- Primary key.
DELETE FROM surgetank.store_items i USING unnest(%(paths)s::text[], %(keys)s::text[]) AS asked(path, key)
WHERE i.path = asked.path AND i.key = asked.key

-- name: put
-- Primary key. What had expired is a new item. A trigger forgets the vectors of old values.
INSERT INTO surgetank.store_items AS i (path, key, value, projection, ttl_s, expires_at)
SELECT path, key, value, projection::jsonb, ttl_s, now() + make_interval(secs => ttl_s)
FROM unnest(%(paths)s::text[], %(keys)s::text[], %(values)s::bytea[], %(projections)s::text[], %(ttls)s::double precision[])
    AS asked(path, key, value, projection, ttl_s)
ON CONFLICT (path, key) DO UPDATE SET
    value = excluded.value, projection = excluded.projection, ttl_s = excluded.ttl_s, expires_at = excluded.expires_at,
    updated_at = excluded.updated_at, written = excluded.written,
    created_at = CASE WHEN i.expires_at <= now() THEN excluded.created_at ELSE i.created_at END

-- name: put_vectors
INSERT INTO surgetank.store_vectors (path, key, position, embedding)
SELECT path, key, position, embedding::real[]
FROM unnest(%(paths)s::text[], %(keys)s::text[], %(positions)s::integer[], %(embeddings)s::text[])
    AS asked(path, key, position, embedding)

-- name: refresh
-- What somebody else is changing is left out: it never waits, so it may come last whatever it holds. Primary key.
UPDATE surgetank.store_items i SET expires_at = now() + make_interval(secs => i.ttl_s)
FROM (
    SELECT j.path, j.key FROM surgetank.store_items j
    JOIN unnest(%(paths)s::text[], %(keys)s::text[]) AS asked(path, key) ON j.path = asked.path AND j.key = asked.key
    WHERE j.expires_at > now() FOR UPDATE OF j SKIP LOCKED) AS due
WHERE i.path = due.path AND i.key = due.key

-- name: sweep
-- Index store_items_expiry.
DELETE FROM surgetank.store_items WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM surgetank.store_items WHERE expires_at <= now() ORDER BY expires_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED))

-- name: vector_schema
-- Where pgvector is installed.
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'

-- name: install_vector
CREATE EXTENSION IF NOT EXISTS vector
