-- Threads as the Agent Server API has them (workflows/threads.py). What they hold is the checkpoints' affair.

-- name: create
-- Make a thread; no row when it is there. Primary key.
INSERT INTO surgetank.thread_status (thread_id, owner, metadata, config, ttl_minutes, ttl_strategy)
VALUES (%(thread_id)s, %(owner)s, %(metadata)s, %(config)s, %(ttl_minutes)s, %(ttl_strategy)s)
ON CONFLICT (thread_id) DO NOTHING RETURNING *

-- name: get
-- One thread. Primary key.
SELECT * FROM surgetank.thread_status WHERE thread_id = %(thread_id)s

-- name: patch
-- Add to the metadata of a thread; its time to live stays where none is given. Primary key.
UPDATE surgetank.thread_status SET metadata = metadata || %(metadata)s, updated_at = now(),
    ttl_minutes = coalesce(%(ttl_minutes)s, ttl_minutes), ttl_strategy = coalesce(%(ttl_strategy)s, ttl_strategy)
WHERE thread_id = %(thread_id)s
RETURNING *

-- name: rest
-- What a thread asks after its state was changed by hand; not while a run is under way. Primary key.
UPDATE surgetank.thread_status SET interrupts = %(interrupts)s, status = %(status)s, error = NULL, updated_at = now()
WHERE thread_id = %(thread_id)s AND running_run IS NULL AND status <> 'busy' RETURNING *

-- name: delete
-- Delete a thread with its workflows and runs (0023_serving.sql). Primary key.
SELECT surgetank.delete_thread(%(thread_id)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: search
-- Threads by what is known of them; `values` by the projection of their state. Indexes thread_status_by_owner,
-- thread_status_by_status, thread_status_by_metadata, thread_status_by_update.
SELECT s.* FROM surgetank.thread_status s
WHERE (%(owner)s::text IS NULL OR s.owner = %(owner)s)
    AND (%(ids)s::text[] IS NULL OR s.thread_id = ANY (%(ids)s))
    AND (%(status)s::text IS NULL OR s.status = %(status)s)
    AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(s.thread_id)) > 0)
    AND (%(metadata)s::jsonb IS NULL OR s.metadata @> %(metadata)s)
    AND NOT s.temporary
    AND (%(values)s::jsonb IS NULL OR EXISTS (
        SELECT FROM surgetank.threads t WHERE t.thread_id = s.thread_id AND t.state @> %(values)s))
ORDER BY
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s WHEN 'thread_id' THEN s.thread_id WHEN 'status' THEN s.status END END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s WHEN 'thread_id' THEN s.thread_id WHEN 'status' THEN s.status END END DESC,
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s WHEN 'created_at' THEN s.created_at ELSE s.updated_at END END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s WHEN 'created_at' THEN s.created_at ELSE s.updated_at END END DESC,
    s.thread_id
LIMIT %(limit)s OFFSET %(offset)s

-- name: count
-- How many there are. As search.
SELECT count(*) AS threads FROM surgetank.thread_status s
WHERE (%(owner)s::text IS NULL OR s.owner = %(owner)s)
    AND (%(status)s::text IS NULL OR s.status = %(status)s)
    AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(s.thread_id)) > 0)
    AND (%(metadata)s::jsonb IS NULL OR s.metadata @> %(metadata)s)
    AND NOT s.temporary
    AND (%(values)s::jsonb IS NULL OR EXISTS (
        SELECT FROM surgetank.threads t WHERE t.thread_id = s.thread_id AND t.state @> %(values)s))
