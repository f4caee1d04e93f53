-- Queries of the checkpoint sink (streams/checkpoints/cold/sink.py). Parameters only; the index each relies on is named.

-- name: touch_threads
-- Make the threads with their first state, or lock their rows until the end of the transaction: one writer per
-- thread. Items: [thread, checkpoint, versions, state, the buffer if it puts a checkpoint]. Primary key.
INSERT INTO surgetank.threads AS t (thread_id, checkpoint_id, versions, state, writer)
SELECT item ->> 0, item ->> 1, item -> 2, item -> 3, item ->> 4
FROM jsonb_array_elements(%(items)s) AS u (item) ORDER BY 1
ON CONFLICT (thread_id) DO UPDATE SET updated_at = now(), revision = t.revision + 1,
    writer_before = t.writer, writer = coalesce(excluded.writer, t.writer)
RETURNING t.thread_id, t.revision, t.checkpoint_id, CASE WHEN t.revision > 1 THEN t.versions END AS versions,
    (extract(epoch FROM t.created_at) * 1000000)::bigint AS incarnation, t.writer_before

-- name: new_namespaces
-- Make the namespaces that are not there yet. Items: [thread, namespace]. Unique (thread_id, checkpoint_ns).
INSERT INTO surgetank.checkpoint_namespaces (thread_id, checkpoint_ns)
SELECT item ->> 0, item ->> 1 FROM jsonb_array_elements(%(items)s) AS u (item)
ON CONFLICT (thread_id, checkpoint_ns) DO NOTHING
RETURNING ns_pk, thread_id, checkpoint_ns

-- name: find_namespaces
-- The numbers of namespaces. Unique (thread_id, checkpoint_ns).
SELECT s.ns_pk, s.thread_id, s.checkpoint_ns
FROM unnest(%(threads)s::text[], %(namespaces)s::text[]) AS u (thread_id, checkpoint_ns)
JOIN surgetank.checkpoint_namespaces s USING (thread_id, checkpoint_ns)

-- name: tips
-- The newest blob of each channel with the path of its bases. A base is older than its patch and a path has at most 22
-- blobs (encode/differences/patch.py): rows that somebody else wrote don't lead on and on. Primary key.
WITH RECURSIVE newest AS (
    SELECT u.ns_pk, u.channel, b.n
    FROM unnest(%(ns_pks)s::bigint[], %(channels)s::text[]) AS u (ns_pk, channel)
    CROSS JOIN LATERAL (
        SELECT n FROM surgetank.checkpoint_blobs b
        WHERE b.ns_pk = u.ns_pk AND b.channel = u.channel ORDER BY n DESC LIMIT 1
    ) AS b
), path AS (
    SELECT b.ns_pk, b.channel, b.n, b.base_n, b.position, b.codec, b.raw_bytes, b.type, 1 AS length
    FROM newest JOIN surgetank.checkpoint_blobs b USING (ns_pk, channel, n)
    UNION ALL
    SELECT b.ns_pk, b.channel, b.n, b.base_n, b.position, b.codec, b.raw_bytes, b.type, p.length + 1
    FROM path p
    JOIN surgetank.checkpoint_blobs b ON b.ns_pk = p.ns_pk AND b.channel = p.channel AND b.n = p.base_n AND b.n < p.n
    WHERE p.length < 64
)
SELECT p.ns_pk, p.channel, p.n, p.base_n, p.position, p.codec, p.raw_bytes, p.type,
    CASE WHEN p.raw_bytes <= %(patchable)s AND octet_length(b.data) <= p.raw_bytes THEN b.data END AS data
FROM path p JOIN surgetank.checkpoint_blobs b USING (ns_pk, channel, n)
ORDER BY p.ns_pk, p.channel, p.n

-- name: existing_checkpoints
-- Which of these checkpoints are there. Primary key.
SELECT c.ns_pk, c.checkpoint_id
FROM unnest(%(ns_pks)s::bigint[], %(ids)s::text[]) AS u (ns_pk, checkpoint_id)
JOIN surgetank.checkpoints c USING (ns_pk, checkpoint_id)

-- name: existing_writes
-- The writes of these checkpoints that are there. Primary key, by its first two columns.
SELECT w.ns_pk, w.checkpoint_id, w.task_id, w.idx, w.others
FROM unnest(%(ns_pks)s::bigint[], %(ids)s::text[]) AS u (ns_pk, checkpoint_id)
JOIN surgetank.checkpoint_writes w USING (ns_pk, checkpoint_id)

-- name: shown_version
-- The newest blob of a version with the path of its bases, bounded as in `tips`. Index checkpoint_blobs_version_idx, primary key.
WITH RECURSIVE found AS (
    SELECT n, base_n, type FROM surgetank.checkpoint_blobs
    WHERE ns_pk = %(ns_pk)s AND channel = %(channel)s AND hashtext(version) = hashtext(%(version)s)
        AND version = %(version)s ORDER BY n DESC LIMIT 1
), path AS (
    SELECT n, base_n, 1 AS length FROM found
    UNION ALL
    SELECT b.n, b.base_n, p.length + 1 FROM path p
    JOIN surgetank.checkpoint_blobs b ON b.ns_pk = %(ns_pk)s AND b.channel = %(channel)s AND b.n = p.base_n
        AND b.n < p.n
    WHERE p.length < 64
)
SELECT f.n, f.type, array_agg(p.n ORDER BY p.n) AS ns, array_agg(p.base_n ORDER BY p.n) AS bases
FROM found f CROSS JOIN path p GROUP BY f.n, f.type

-- name: storage_level
-- How rows are to be written. One row.
SELECT level FROM surgetank.storage_format

-- name: parents
-- What these checkpoints have in their own rows. Primary key.
SELECT c.ns_pk, c.checkpoint_id, c.codec, c.body, c.blob_numbers
FROM unnest(%(ns_pks)s::bigint[], %(ids)s::text[]) AS u (ns_pk, checkpoint_id)
JOIN surgetank.checkpoints c USING (ns_pk, checkpoint_id)

-- name: bodies_before
-- The same of the checkpoints of a namespace, newest first. Primary key.
SELECT c.checkpoint_id, c.codec, c.body, c.blob_numbers FROM surgetank.checkpoints c
WHERE c.ns_pk = %(ns_pk)s AND (%(before)s::text IS NULL OR c.checkpoint_id < %(before)s COLLATE "C")
ORDER BY c.checkpoint_id DESC LIMIT %(limit)s

-- name: copy_checkpoints
COPY surgetank.checkpoints (ns_pk, checkpoint_id, parent_id, codec, metadata, scalars, blob_numbers, body)
FROM STDIN (FORMAT BINARY)

-- name: copy_blobs
COPY surgetank.checkpoint_blobs (ns_pk, n, base_n, raw_bytes, position, codec, channel, version, type, data)
FROM STDIN (FORMAT BINARY)

-- name: copy_writes
COPY surgetank.checkpoint_writes (ns_pk, idx, codec, checkpoint_id, task_id, task_path, channel, type, others, data)
FROM STDIN (FORMAT BINARY)

-- name: replace_checkpoint
-- A checkpoint that was put again. Primary key.
UPDATE surgetank.checkpoints SET parent_id = %s, codec = %s, body = %s, metadata = %s, scalars = %s,
    blob_numbers = %s, written_at = now() WHERE ns_pk = %s AND checkpoint_id = %s

-- name: replace_write
-- A special write (error, interrupt, resume ...) that replaces an older one. Primary key.
UPDATE surgetank.checkpoint_writes SET task_path = %s, channel = %s, codec = %s, type = %s, data = %s
WHERE ns_pk = %s AND checkpoint_id = %s AND task_id = %s AND idx = %s

-- name: save_states
-- The latest state of threads, projected. Items: [thread, checkpoint, versions, channels that are gone, channels that
-- changed]. Primary key.
UPDATE surgetank.threads t SET checkpoint_id = item ->> 1, versions = item -> 2,
    state = (t.state - ARRAY(SELECT jsonb_array_elements_text(item -> 3))) || (item -> 4)
FROM jsonb_array_elements(%(items)s) AS u (item) WHERE t.thread_id = item ->> 0

-- name: deletions
-- Checkpoints deleted lately with these threads and not put again since. Index thread_deletions_thread_idx.
SELECT d.thread_id, u.ns, u.id
FROM surgetank.thread_deletions d
CROSS JOIN LATERAL unnest(d.checkpoint_ns, d.checkpoint_ids) AS u (ns, id)
WHERE d.thread_id = ANY(%(threads)s) AND NOT EXISTS (
    SELECT FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
    WHERE s.thread_id = d.thread_id AND s.checkpoint_ns = u.ns AND c.checkpoint_id = u.id
)

-- name: stored_version
-- The newest blob of a version of a channel, if it is stored. Index checkpoint_blobs_version_idx.
SELECT n FROM surgetank.checkpoint_blobs
WHERE ns_pk = %(ns_pk)s AND channel = %(channel)s AND hashtext(version) = hashtext(%(version)s)
    AND version = %(version)s ORDER BY n DESC LIMIT 1

-- name: deleted_at
-- When these threads were deleted lately. Index thread_deletions_thread_idx.
SELECT thread_id, extract(epoch FROM max(deleted_at))::float8 FROM surgetank.thread_deletions
WHERE thread_id = ANY(%(threads)s) GROUP BY thread_id

-- name: deletion_done
-- Whether an operation was carried out, and what it removed. Primary key.
SELECT checkpoint_ns, checkpoint_ids FROM surgetank.thread_deletions WHERE operation_id = %(operation_id)s

-- name: newest_of_thread
-- The newest checkpoints of a thread. Unique (thread_id, checkpoint_ns), primary key of checkpoints.
SELECT s.checkpoint_ns, c.checkpoint_id
FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE s.thread_id = %(thread_id)s ORDER BY c.checkpoint_id DESC LIMIT 1000

-- name: record_deletion
INSERT INTO surgetank.thread_deletions (operation_id, thread_id, checkpoint_ns, checkpoint_ids)
VALUES (%(operation_id)s, %(thread_id)s, %(namespaces)s, %(ids)s)
ON CONFLICT (operation_id) DO NOTHING

-- name: forget_deletions
-- Late arrivals come within seconds, what is recovered from a lost buffer's files within weeks.
-- Index thread_deletions_age_idx.
DELETE FROM surgetank.thread_deletions WHERE deleted_at < now() - interval '30 days'

-- name: delete_thread_writes
DELETE FROM surgetank.checkpoint_writes w USING surgetank.checkpoint_namespaces s
WHERE s.thread_id = %(thread_id)s AND w.ns_pk = s.ns_pk

-- name: delete_thread_blobs
DELETE FROM surgetank.checkpoint_blobs b USING surgetank.checkpoint_namespaces s
WHERE s.thread_id = %(thread_id)s AND b.ns_pk = s.ns_pk

-- name: delete_thread_checkpoints
DELETE FROM surgetank.checkpoints c USING surgetank.checkpoint_namespaces s
WHERE s.thread_id = %(thread_id)s AND c.ns_pk = s.ns_pk

-- name: delete_thread_namespaces
DELETE FROM surgetank.checkpoint_namespaces WHERE thread_id = %(thread_id)s

-- name: delete_thread
DELETE FROM surgetank.threads WHERE thread_id = %(thread_id)s

-- name: delete_checkpoints
-- Primary key.
DELETE FROM surgetank.checkpoints WHERE ns_pk = %(ns_pk)s AND checkpoint_id = ANY(%(ids)s)

-- name: delete_writes
-- Primary key, by its first two columns.
DELETE FROM surgetank.checkpoint_writes WHERE ns_pk = %(ns_pk)s AND checkpoint_id = ANY(%(ids)s)

-- name: orphan_parents
-- A checkpoint whose parent is gone has none.
UPDATE surgetank.checkpoints SET parent_id = NULL WHERE ns_pk = %(ns_pk)s AND parent_id = ANY(%(ids)s)

-- name: remaining_bodies
SELECT checkpoint_id, codec, body FROM surgetank.checkpoints WHERE ns_pk = %(ns_pk)s

-- name: namespace_blobs
-- All blobs of a namespace without their data. Primary key.
SELECT channel, n, version, base_n FROM surgetank.checkpoint_blobs WHERE ns_pk = %(ns_pk)s ORDER BY channel, n

-- name: channel_blobs
-- Blobs of one channel with their data. Primary key.
SELECT n, base_n, position, codec, raw_bytes, CASE WHEN octet_length(data) <= raw_bytes THEN data END AS data
FROM surgetank.checkpoint_blobs
WHERE ns_pk = %(ns_pk)s AND channel = %(channel)s AND n = ANY(%(ns)s) ORDER BY n

-- name: rebase_blob
UPDATE surgetank.checkpoint_blobs SET base_n = %s, codec = %s, data = %s WHERE ns_pk = %s AND channel = %s AND n = %s

-- name: delete_blobs
DELETE FROM surgetank.checkpoint_blobs WHERE ns_pk = %(ns_pk)s AND channel = %(channel)s AND n = ANY(%(ns)s)

-- name: delete_namespace
-- A namespace with nothing left in it.
DELETE FROM surgetank.checkpoint_namespaces s WHERE s.ns_pk = %(ns_pk)s
    AND NOT EXISTS (SELECT FROM surgetank.checkpoints c WHERE c.ns_pk = s.ns_pk)
    AND NOT EXISTS (SELECT FROM surgetank.checkpoint_writes w WHERE w.ns_pk = s.ns_pk)
    AND NOT EXISTS (SELECT FROM surgetank.checkpoint_blobs b WHERE b.ns_pk = s.ns_pk)
