-- Queries of the cold reader (streams/checkpoints/cold/reader.py).

-- name: checkpoint
-- The thread's mark (kind 3), then a checkpoint with its writes and, its values. All in one snapshot.
-- Primary key of threads; function in 0019_storage_format.sql.
SELECT 3::smallint AS kind, concat_ws('.', (extract(epoch FROM t.created_at) * 1000000)::bigint, t.revision,
    coalesce(t.checkpoint_id, '')) AS a, NULL::text AS b, NULL::text AS c, NULL::integer AS n, NULL::integer AS base_n,
    NULL::smallint AS codec, NULL::integer AS raw_bytes, NULL::text AS type, NULL::bytea AS data
FROM surgetank.threads t WHERE t.thread_id = %(thread_id)s
UNION ALL
SELECT * FROM surgetank.read_whole_checkpoint(%(thread_id)s, %(ns)s, %(id)s, %(hidden)s, %(values)s)

-- name: mark
-- Which state a thread is in: nothing of it has changed while this is the same. Primary key.
SELECT concat_ws('.', (extract(epoch FROM t.created_at) * 1000000)::bigint, t.revision, coalesce(t.checkpoint_id, ''))
FROM surgetank.threads t WHERE t.thread_id = %s

-- name: marks
-- The same of many threads. Primary key.
SELECT t.thread_id, concat_ws('.', (extract(epoch FROM t.created_at) * 1000000)::bigint, t.revision,
    coalesce(t.checkpoint_id, '')) AS mark
FROM surgetank.threads t WHERE t.thread_id = ANY(%(threads)s)

-- name: deleted
-- Threads that were deleted lately. Index thread_deletions_thread_idx.
SELECT DISTINCT thread_id FROM surgetank.thread_deletions WHERE thread_id = ANY(%(threads)s)

-- name: writes
-- The writes of a checkpoint that is itself not here (it is hot). Unique (thread_id, checkpoint_ns), primary key.
SELECT w.task_id, w.idx, w.task_path, w.channel, w.codec, w.type, w.data, w.others
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoint_writes w USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND w.checkpoint_id = %(checkpoint_id)s

-- name: blobs
-- Channel versions with the path of their bases, and the newest checkpoint's body where that isn't all.
-- Function in 0019_storage_format.sql.
SELECT * FROM surgetank.read_values(%s, %s, %s, %s)

-- name: bodies_before
-- Checkpoints of a namespace, newest first. Unique (thread_id, checkpoint_ns), primary key.
SELECT c.checkpoint_id, c.codec, c.body
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s
    AND c.checkpoint_id < %(before)s COLLATE "C"
ORDER BY c.checkpoint_id DESC LIMIT %(limit)s

-- name: still_there
-- Whether a checkpoint exists. Unique (thread_id, checkpoint_ns), primary key.
SELECT EXISTS (
    SELECT FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
    WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id = %(checkpoint_id)s
) AS there

-- name: projections
-- The projections of a checkpoint. Unique (thread_id, checkpoint_ns), primary key.
SELECT c.metadata::text AS metadata, c.scalars::text AS scalars
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id = %(checkpoint_id)s

-- name: page
-- Checkpoint ids, newest first, from a thread (or all) and namespace (or all), after a place in that order.
-- For one thread: unique (thread_id, checkpoint_ns) and the primary key of checkpoints.
SELECT s.thread_id, s.checkpoint_ns, c.checkpoint_id
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE (%(thread_id)s::text IS NULL OR s.thread_id = %(thread_id)s)
    AND (%(checkpoint_ns)s::text IS NULL OR s.checkpoint_ns = %(checkpoint_ns)s)
    AND (%(before)s::text IS NULL OR c.checkpoint_id < %(before)s COLLATE "C")
    AND (%(metadata)s::jsonb IS NULL OR c.metadata @> %(metadata)s)
    AND (%(last_id)s::text IS NULL OR (c.checkpoint_id, s.thread_id, s.checkpoint_ns)
        < (%(last_id)s COLLATE "C", %(last_thread)s COLLATE "C", %(last_ns)s COLLATE "C"))
ORDER BY c.checkpoint_id DESC, s.thread_id DESC, s.checkpoint_ns DESC
LIMIT %(limit)s

-- name: many
-- Checkpoints of a namespace, with the numbers of their blobs. Unique (thread_id, checkpoint_ns), primary key.
SELECT c.checkpoint_id, c.parent_id, c.codec, c.body, c.blob_numbers
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id = ANY(%(ids)s)

-- name: many_writes
-- Their writes. Unique (thread_id, checkpoint_ns), primary key.
SELECT w.checkpoint_id, w.task_id, w.idx, w.task_path, w.channel, w.codec, w.type, w.data, w.others
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoint_writes w USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND w.checkpoint_id = ANY(%(ids)s)

-- name: many_numbers
-- The newest blob of each channel version. Unique (thread_id, checkpoint_ns), index checkpoint_blobs_version_idx.
SELECT u.channel, u.version, max(b.n)
FROM surgetank.checkpoint_namespaces s
CROSS JOIN unnest(%(channels)s::text[], %(versions)s::text[]) AS u (channel, version)
JOIN surgetank.checkpoint_blobs b ON b.ns_pk = s.ns_pk AND b.channel = u.channel
    AND hashtext(b.version) = hashtext(u.version) AND b.version = u.version
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s GROUP BY 1, 2

-- name: many_values
-- Blobs by number with all their bases, each once. A base is older than its patch (0021_bounded_paths.sql).
-- Unique (thread_id, checkpoint_ns), primary key.
WITH RECURSIVE paths AS (
    SELECT b.ns_pk, b.channel, b.n, b.base_n
    FROM surgetank.checkpoint_namespaces s
    CROSS JOIN unnest(%(channels)s::text[], %(numbers)s::integer[]) AS u (channel, n)
    JOIN surgetank.checkpoint_blobs b ON b.ns_pk = s.ns_pk AND b.channel = u.channel AND b.n = u.n
    WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s
    UNION
    SELECT b.ns_pk, b.channel, b.n, b.base_n
    FROM paths p
    JOIN surgetank.checkpoint_blobs b ON b.ns_pk = p.ns_pk AND b.channel = p.channel AND b.n = p.base_n AND b.n < p.n
)
SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.type,
    CASE WHEN octet_length(b.data) <= b.raw_bytes THEN b.data END AS data
FROM paths JOIN surgetank.checkpoint_blobs b USING (ns_pk, channel, n) ORDER BY 1, 2

-- name: run_checkpoints
-- Checkpoints that belong to runs. Index checkpoints_run_idx.
SELECT s.thread_id, s.checkpoint_ns, c.checkpoint_id
FROM surgetank.checkpoints c JOIN surgetank.checkpoint_namespaces s USING (ns_pk)
WHERE c.metadata ? 'run_id' AND c.metadata ->> 'run_id' = ANY(%(run_ids)s)

-- name: threads
-- All thread ids, in order. Primary key of threads.
SELECT thread_id FROM surgetank.threads ORDER BY thread_id
