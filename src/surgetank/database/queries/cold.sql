-- Queries of the cold reader (checkpoints/cold.py).

-- name: checkpoint
-- One checkpoint with its writes. Unique (thread_id, checkpoint_ns), primary keys.
SELECT c.ns_pk, c.checkpoint_id, c.parent_id, c.codec, c.body,
    (SELECT array_agg(ROW(w.task_id, w.idx, w.task_path, w.channel, w.codec, w.type, w.data))
     FROM surgetank.checkpoint_writes w WHERE w.ns_pk = c.ns_pk AND w.checkpoint_id = c.checkpoint_id) AS writes
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND c.checkpoint_id = %(checkpoint_id)s

-- name: latest
-- The newest checkpoint of a namespace that is not hidden. Unique (thread_id, checkpoint_ns), primary keys.
SELECT c.ns_pk, c.checkpoint_id, c.parent_id, c.codec, c.body,
    (SELECT array_agg(ROW(w.task_id, w.idx, w.task_path, w.channel, w.codec, w.type, w.data))
     FROM surgetank.checkpoint_writes w WHERE w.ns_pk = c.ns_pk AND w.checkpoint_id = c.checkpoint_id) AS writes
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s
    AND NOT c.checkpoint_id = ANY(%(hidden)s::text[])
ORDER BY c.checkpoint_id DESC LIMIT 1

-- name: writes
-- The writes of a checkpoint that is itself not here (it is hot). Unique (thread_id, checkpoint_ns), primary key.
SELECT w.task_id, w.idx, w.task_path, w.channel, w.codec, w.type, w.data
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoint_writes w USING (ns_pk)
WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s AND w.checkpoint_id = %(checkpoint_id)s

-- name: blobs
-- Channel versions with the path of their bases. Index checkpoint_blobs_version_idx, primary key.
WITH RECURSIVE wanted AS (
    SELECT s.ns_pk, f.channel, f.n
    FROM surgetank.checkpoint_namespaces s
    CROSS JOIN unnest(%(channels)s::text[], %(versions)s::text[]) AS u (channel, version)
    CROSS JOIN LATERAL (
        SELECT b.channel, b.n FROM surgetank.checkpoint_blobs b
        WHERE b.ns_pk = s.ns_pk AND b.channel = u.channel AND hashtext(b.version) = hashtext(u.version)
            AND b.version = u.version ORDER BY b.n DESC LIMIT 1
    ) AS f
    WHERE s.thread_id = %(thread_id)s AND s.checkpoint_ns = %(checkpoint_ns)s
), path AS (
    SELECT w.ns_pk, w.channel, w.n AS wanted, w.n FROM wanted w
    UNION ALL
    SELECT p.ns_pk, p.channel, p.wanted, b.base_n
    FROM path p JOIN surgetank.checkpoint_blobs b USING (ns_pk, channel, n) WHERE b.base_n IS NOT NULL
)
SELECT b.channel, p.wanted = b.n AS is_wanted, b.n, b.base_n, b.position, b.codec, b.raw_bytes, b.type, b.data
FROM path p JOIN surgetank.checkpoint_blobs b USING (ns_pk, channel, n)
ORDER BY b.channel, b.n

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

-- name: run_checkpoints
-- Checkpoints that belong to runs. Index checkpoints_run_idx.
SELECT s.thread_id, s.checkpoint_ns, c.checkpoint_id
FROM surgetank.checkpoints c JOIN surgetank.checkpoint_namespaces s USING (ns_pk)
WHERE c.metadata ? 'run_id' AND c.metadata ->> 'run_id' = ANY(%(run_ids)s)
