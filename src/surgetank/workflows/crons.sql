-- Crons (workflows/crons.py): runs that are accepted at their times.

-- name: create
-- Make one; none when its owner has as many as they may (0034_assistants.sql). Index crons_of_owner.
SELECT * FROM surgetank.make_cron(
    %(cron_id)s, %(owner)s, %(assistant_id)s, %(graph_id)s, %(thread_id)s, %(schedule)s, %(timezone)s, %(end_time)s, %(enabled)s,
    %(on_run_completed)s, %(metadata)s, %(payload)s, %(next_run_date)s, %(most)s, surgetank.acting(%(actor)s, %(origin)s)
)

-- name: now
SELECT now() AS now

-- name: get
-- Primary key.
SELECT * FROM surgetank.crons WHERE cron_id = %(cron_id)s

-- name: change
-- Primary key.
WITH changed AS (
    UPDATE surgetank.crons SET schedule = %(schedule)s, timezone = %(timezone)s, end_time = %(end_time)s, enabled = %(enabled)s,
        on_run_completed = %(on_run_completed)s, metadata = %(metadata)s, payload = %(payload)s,
        next_run_date = %(next_run_date)s, failures = 0, last_error = NULL, updated_at = now()
    WHERE cron_id = %(cron_id)s RETURNING *
)
SELECT c.* FROM changed c CROSS JOIN LATERAL surgetank.note('cron_changed', surgetank.acting(%(actor)s, %(origin)s), c.thread_id,
    NULL, NULL, jsonb_build_object('cron_id', c.cron_id, 'schedule', c.schedule, 'enabled', c.enabled))

-- name: delete
-- Primary key.
WITH gone AS (DELETE FROM surgetank.crons WHERE cron_id = %(cron_id)s RETURNING cron_id, thread_id)
SELECT surgetank.note('cron_deleted', surgetank.acting(%(actor)s, %(origin)s), gone.thread_id, NULL, NULL,
    jsonb_build_object('cron_id', gone.cron_id)) FROM gone

-- name: search
-- Index crons_of_owner.
SELECT * FROM surgetank.crons
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)
    AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
    AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
ORDER BY
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s WHEN 'cron_id' THEN cron_id::text WHEN 'assistant_id' THEN assistant_id
        WHEN 'thread_id' THEN thread_id END COLLATE "C" END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s WHEN 'cron_id' THEN cron_id::text WHEN 'assistant_id' THEN assistant_id
        WHEN 'thread_id' THEN thread_id END COLLATE "C" END DESC,
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s WHEN 'updated_at' THEN updated_at WHEN 'next_run_date' THEN next_run_date
        WHEN 'end_time' THEN end_time ELSE created_at END END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s WHEN 'updated_at' THEN updated_at WHEN 'next_run_date' THEN next_run_date
        WHEN 'end_time' THEN end_time ELSE created_at END END DESC,
    cron_id
LIMIT %(limit)s OFFSET %(offset)s

-- name: count
-- As search.
SELECT count(*) AS crons FROM surgetank.crons
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s)
    AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND (%(enabled)s::boolean IS NULL OR enabled = %(enabled)s)
    AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)

-- name: due
-- Crons that are due, which nobody else looks at: with the assistant as it is now. Index crons_due, primary key.
SELECT c.*, now() AS now, to_jsonb(a) AS assistant FROM surgetank.crons c
LEFT JOIN surgetank.assistants a ON a.assistant_id::text = c.assistant_id
WHERE c.enabled AND c.next_run_date <= now()
ORDER BY c.next_run_date LIMIT %(limit)s FOR UPDATE OF c SKIP LOCKED

-- name: next
-- When the next one is due, in seconds. Index crons_due.
SELECT extract(epoch FROM min(next_run_date) - now())::float8 AS in_s FROM surgetank.crons
WHERE enabled AND next_run_date IS NOT NULL

-- name: fired
-- Primary key.
UPDATE surgetank.crons SET next_run_date = %(next_run_date)s, failures = %(failures)s, last_error = %(last_error)s
WHERE cron_id = %(cron_id)s
