-- Queries that forget old runs (workflows/retention.py), in pieces. Threads are locked first, as by all who write of them; one that is
-- locked is left for the next time. What changed meanwhile is looked at again and stays.

-- name: claim
-- True for one process at a time.
SELECT pg_try_advisory_xact_lock(1398033234, 3)

-- name: forget_workflows
-- Workflows that have ended, with their runs. Never one that waits for people. Index workflows_by_end.
WITH old AS (
    SELECT w.workflow_id FROM surgetank.workflows w JOIN surgetank.thread_status t USING (thread_id)
    WHERE w.ended_at < to_timestamp(%(before)s) AND w.status IN ('completed', 'failed', 'cancelled')
        AND NOT EXISTS (SELECT FROM surgetank.runs r WHERE r.workflow_id = w.workflow_id AND r.status IN ('pending', 'running'))
    ORDER BY w.ended_at LIMIT %(limit)s FOR UPDATE OF t SKIP LOCKED
)
DELETE FROM surgetank.workflows w USING old o
WHERE w.workflow_id = o.workflow_id AND w.ended_at < to_timestamp(%(before)s) AND w.status IN ('completed', 'failed', 'cancelled')

-- name: forget_stateless
-- Threads of stateless runs, with these, unless something is under way or waits for people. Index thread_status_temporary.
WITH old AS (
    SELECT t.thread_id FROM surgetank.thread_status t
    WHERE t.temporary AND t.updated_at < to_timestamp(%(before)s) AND t.running_run IS NULL
        AND NOT EXISTS (SELECT FROM surgetank.workflows w
            WHERE w.thread_id = t.thread_id AND w.status IN ('pending', 'running', 'awaiting_checkpoint'))
    ORDER BY t.updated_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED
)
DELETE FROM surgetank.thread_status t USING old o
WHERE t.thread_id = o.thread_id AND t.temporary AND t.updated_at < to_timestamp(%(before)s)

-- name: forget_rates
-- What was counted of users who accept nothing any more. A user is one row.
DELETE FROM surgetank.run_rates WHERE since < to_timestamp(%(before)s) - interval '1 hour'
