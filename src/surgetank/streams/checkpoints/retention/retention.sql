-- Queries of retention (streams/checkpoints/retention/sweep.py, streams/checkpoints/retention/inventory.py).

-- name: enter
-- A buffer's first pass.
INSERT INTO surgetank.retention_progress (buffer_id) VALUES (%(buffer_id)s) ON CONFLICT (buffer_id) DO NOTHING

-- name: take
-- The right to work until the end of the transaction; no row when another process has it. Primary key.
SELECT limits, last_thread_id, checked_since, threads_seen, threads_pruned, checkpoints_deleted,
    greatest(0, extract(epoch FROM next_at - now()))::float8 AS wait_s
FROM surgetank.retention_progress WHERE buffer_id = %(buffer_id)s FOR UPDATE SKIP LOCKED

-- name: begin
-- A new pass. Primary key.
UPDATE surgetank.retention_progress SET limits = %(limits)s, last_thread_id = '', started_at = now(),
    checked_since = CASE WHEN limits = %(limits)s THEN checked_since END,
    threads_seen = 0, threads_pruned = 0, checkpoints_deleted = 0 WHERE buffer_id = %(buffer_id)s

-- name: advance
-- How far the pass has come. Primary key.
UPDATE surgetank.retention_progress SET last_thread_id = %(last_thread_id)s,
    threads_seen = threads_seen + %(seen)s, threads_pruned = threads_pruned + %(pruned)s,
    checkpoints_deleted = checkpoints_deleted + %(deleted)s WHERE buffer_id = %(buffer_id)s

-- name: finish
-- The pass is done. Primary key.
UPDATE surgetank.retention_progress SET last_thread_id = NULL, finished_at = now(), checked_since = started_at,
    next_at = now() + make_interval(secs => %(interval_s)s) WHERE buffer_id = %(buffer_id)s

-- name: passes
-- What retention did last, for people. The table has one row per buffer.
SELECT buffer_id, last_thread_id IS NOT NULL AS under_way, extract(epoch FROM started_at)::float8 AS started_at,
    extract(epoch FROM finished_at)::float8 AS finished_at, threads_seen, threads_pruned, checkpoints_deleted
FROM surgetank.retention_progress WHERE started_at IS NOT NULL ORDER BY started_at DESC

-- name: slice
-- The next threads in order, and which of them may have something to delete; in the background (`by_hand` false) of
-- those that this buffer wrote last, and those that nobody wrote to for a day. Count and size are asked only of threads that changed since they were last
-- looked at. Primary keys of threads, checkpoints (bounded by `keep`), partition_progress; unique
-- (thread_id, checkpoint_ns). The size reads the thread's rows, but no value of more than about 2 KiB.
SELECT t.thread_id, (%(by_hand)s OR owned.mine OR t.updated_at < now() - interval '1 day') AND (
    (%(age_s)s::float8 IS NOT NULL AND EXISTS (
        SELECT FROM surgetank.checkpoint_namespaces s CROSS JOIN LATERAL (
            SELECT c.checkpoint_id, c.written_at FROM surgetank.checkpoints c WHERE c.ns_pk = s.ns_pk
            ORDER BY c.checkpoint_id LIMIT 1
        ) AS first
        WHERE s.thread_id = t.thread_id AND first.written_at < now() - make_interval(secs => %(age_s)s::float8)
            AND EXISTS (SELECT FROM surgetank.checkpoints c
                WHERE c.ns_pk = s.ns_pk AND c.checkpoint_id > first.checkpoint_id)
    ))
    OR ((%(since)s::timestamptz IS NULL OR t.updated_at >= %(since)s::timestamptz - interval '1 hour' OR NOT owned.mine)
        AND ((%(keep)s::bigint IS NOT NULL AND EXISTS (
            SELECT FROM surgetank.checkpoint_namespaces s CROSS JOIN LATERAL (
                SELECT FROM surgetank.checkpoints c WHERE c.ns_pk = s.ns_pk
                ORDER BY c.checkpoint_id DESC OFFSET %(keep)s::bigint LIMIT 1
            ) AS more
            WHERE s.thread_id = t.thread_id
        ))
        OR (%(max_bytes)s::bigint IS NOT NULL AND %(max_bytes)s::bigint < (
            SELECT sum(
                (SELECT coalesce(sum(octet_length(b.data)), 0) FROM surgetank.checkpoint_blobs b
                    WHERE b.ns_pk = s.ns_pk)
                + (SELECT coalesce(sum(octet_length(w.data) + coalesce(octet_length(w.others), 0)), 0) FROM surgetank.checkpoint_writes w
                    WHERE w.ns_pk = s.ns_pk)
                + (SELECT coalesce(sum(octet_length(c.body) + pg_column_size(c.metadata) + pg_column_size(c.scalars)), 0)
                    FROM surgetank.checkpoints c WHERE c.ns_pk = s.ns_pk))
            FROM surgetank.checkpoint_namespaces s WHERE s.thread_id = t.thread_id
        )))
    )
) AS candidate
FROM (
    SELECT thread_id, updated_at FROM surgetank.threads WHERE thread_id > %(after)s
    ORDER BY thread_id LIMIT %(limit)s
) AS t
CROSS JOIN LATERAL (
    SELECT EXISTS (
        SELECT FROM surgetank.partition_progress p
        WHERE p.buffer_id = %(buffer_id)s AND p.stream = 'checkpoints' AND p.partition = t.thread_id
            AND p.updated_at >= t.updated_at
    ) AS mine
) AS owned
ORDER BY t.thread_id

-- name: idle_threads
-- The next threads in order with the age of their newest checkpoint, written by whomever. Primary keys of threads and
-- checkpoints, unique (thread_id, checkpoint_ns).
SELECT t.thread_id, newest.age_s FROM (
    SELECT thread_id FROM surgetank.threads WHERE thread_id > %(after)s ORDER BY thread_id LIMIT %(limit)s
) AS t
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM now() - max(c.written_at))::float8 AS age_s
    FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
    WHERE s.thread_id = t.thread_id
) AS newest
ORDER BY t.thread_id

-- name: outline
-- A thread's checkpoints with their ages, sizes and DeltaChannels, without bodies. Unique (thread_id,
-- checkpoint_ns), primary key by its first column.
SELECT c.ns_pk, s.checkpoint_ns, c.checkpoint_id, c.parent_id,
    extract(epoch FROM now() - c.written_at)::float8 AS age_s,
    octet_length(c.body) + pg_column_size(c.metadata) + pg_column_size(c.scalars) AS size,
    CASE WHEN jsonb_typeof(c.metadata -> 'counters_since_delta_snapshot') = 'object'
        THEN ARRAY(SELECT jsonb_object_keys(c.metadata -> 'counters_since_delta_snapshot')) END AS delta
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s

-- name: bodies
-- What the checkpoints of a thread refer to. As above.
SELECT c.ns_pk, c.checkpoint_id, c.codec, c.body
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk) WHERE s.thread_id = %(thread_id)s

-- name: blobs
-- A thread's channel versions without their data. Unique (thread_id, checkpoint_ns), primary key by its first column.
SELECT b.ns_pk, b.channel, b.n, b.version, b.base_n, b.codec, b.raw_bytes, octet_length(b.data) AS size
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoint_blobs b USING (ns_pk)
WHERE s.thread_id = %(thread_id)s ORDER BY b.ns_pk, b.channel, b.n

-- name: writes
-- The weight of each checkpoint's writes. Unique (thread_id, checkpoint_ns), primary key by its first column.
SELECT w.ns_pk, w.checkpoint_id, sum(octet_length(w.data) + coalesce(octet_length(w.others), 0))::bigint AS size
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoint_writes w USING (ns_pk)
WHERE s.thread_id = %(thread_id)s GROUP BY w.ns_pk, w.checkpoint_id
