-- The fence of every PostgreSQL sink, and the progress that it keeps (sinks/fence.py).

-- name: fence
-- Take the partitions' rows for this transaction and move them on, unless a newer token was there; returns where they
-- stood. Nothing is taken in another database than the one that the buffer is bound to (null: not bound).
-- Items: [stream, partition, token, seq without epoch, {epoch: [seq, digest, 0, 0]}]. Primary key.
INSERT INTO surgetank.partition_progress AS p (buffer_id, stream, partition, token, seq, epochs)
SELECT %(buffer_id)s, item ->> 0, item ->> 1, (item -> 2)::bigint, (item -> 3)::bigint, item -> 4
FROM jsonb_array_elements(%(items)s) AS u (item)
WHERE %(database_id)s::uuid IS NULL OR %(database_id)s = (SELECT i.id FROM surgetank.database_identity i)
ORDER BY 2, 3
ON CONFLICT (buffer_id, stream, partition) DO UPDATE
    SET token = excluded.token, seq = greatest(p.seq, excluded.seq), seq_before = p.seq, updated_at = now(),
        epochs = surgetank.move_on(p.epochs, excluded.epochs)
WHERE p.token <= excluded.token
RETURNING p.partition, p.seq_before, p.epochs, p.earlier

-- name: tokens
-- The newest tokens seen of partitions. Items: partitions. Primary key.
SELECT p.partition, p.token FROM surgetank.partition_progress p
WHERE p.buffer_id = %(buffer_id)s AND p.stream = %(stream)s
    AND p.partition IN (SELECT jsonb_array_elements_text(%(items)s))

-- name: earlier_epochs
-- Progress of epochs that were used long ago. Items: [partition, epoch]. Primary key.
SELECT e.partition, e.epoch, e.seq, e.digest
FROM jsonb_array_elements(%(items)s) AS u (item)
JOIN surgetank.partition_progress_earlier e ON e.buffer_id = %(buffer_id)s AND e.stream = %(stream)s
    AND e.partition = item ->> 0 AND e.epoch = (item -> 1)::bigint

-- name: set_aside_epochs
-- Keep the epochs of one partition that were used longest ago in rows of their own. Primary keys.
WITH found AS (
    SELECT k.key AS epoch, k.value, row_number() OVER (ORDER BY (k.value -> 0)::bigint DESC) AS age
    FROM surgetank.partition_progress p CROSS JOIN jsonb_each(p.epochs) k
    WHERE p.buffer_id = %(buffer_id)s AND p.stream = %(stream)s AND p.partition = %(partition)s
), kept AS (
    INSERT INTO surgetank.partition_progress_earlier AS e (buffer_id, stream, partition, epoch, seq, digest)
    SELECT %(buffer_id)s, %(stream)s, %(partition)s, f.epoch::bigint, (f.value -> 0)::bigint, (f.value -> 1)::bigint
    FROM found f WHERE f.age > %(most)s
    ON CONFLICT (buffer_id, stream, partition, epoch) DO UPDATE
        SET seq = excluded.seq, digest = excluded.digest, used_on = current_date WHERE e.seq < excluded.seq
)
UPDATE surgetank.partition_progress p
SET earlier = true, epochs = (SELECT jsonb_object_agg(f.epoch, f.value) FROM found f WHERE f.age <= %(most)s)
WHERE p.buffer_id = %(buffer_id)s AND p.stream = %(stream)s AND p.partition = %(partition)s

-- name: standings
-- How far partitions of a buffer are written. Items: [stream, partition]. Primary keys.
SELECT p.stream, p.partition, p.seq, p.epochs || CASE WHEN p.earlier THEN (
        SELECT coalesce(jsonb_object_agg(e.epoch, jsonb_build_array(e.seq, e.digest)), '{}')
        FROM surgetank.partition_progress_earlier e
        WHERE e.buffer_id = p.buffer_id AND e.stream = p.stream AND e.partition = p.partition
            AND NOT p.epochs ? e.epoch::text
    ) ELSE '{}' END
FROM jsonb_array_elements(%(items)s) AS u (item)
JOIN surgetank.partition_progress p ON p.buffer_id = %(buffer_id)s AND p.stream = item ->> 0
    AND p.partition = item ->> 1

-- name: forget_progress
-- Progress is kept 90 days after its last use; some rows at a time. A walk over the table, once a day: an index on
-- updated_at would make each flush write to it.
DELETE FROM surgetank.partition_progress WHERE ctid = ANY(ARRAY(
    SELECT p.ctid FROM surgetank.partition_progress p WHERE p.updated_at < now() - interval '90 days' LIMIT 10000
))

-- name: forget_earlier_progress
-- Index partition_progress_earlier_used_idx.
DELETE FROM surgetank.partition_progress_earlier WHERE used_on < current_date - 90
