-- What holds a thread, and letting go of it (workflows/repair.py). The thread's row is locked first: no run is claimed meanwhile.

-- name: lock
-- The thread, which nobody claims until the transaction ends. Primary key.
SELECT * FROM surgetank.thread_status WHERE thread_id = %(thread_id)s FOR UPDATE

-- name: unfinished
-- Its runs that are not over; whether the worker of one went silent. Indexes runs_of_thread, runs_running.
SELECT run_id, status, fence, worker, attempts, max_attempts, cancel_action,
    status = 'running' AND lease_until < now() AS silent
FROM surgetank.runs WHERE thread_id = %(thread_id)s AND status IN ('pending', 'running') ORDER BY seq

-- name: newest
-- Its newest run. Index runs_of_thread.
SELECT * FROM surgetank.runs WHERE thread_id = %(thread_id)s ORDER BY seq DESC LIMIT 1

-- name: open
-- What it asks people, as it is recorded. Index user_checkpoints_open.
SELECT interrupt_id FROM surgetank.user_checkpoints WHERE thread_id = %(thread_id)s AND status = 'pending'

-- name: held
-- Answers that wait for others. Index user_checkpoints_of_thread.
SELECT interrupt_id FROM surgetank.user_checkpoints
WHERE thread_id = %(thread_id)s AND resolved_at IS NOT NULL AND resume IS NOT NULL AND delivered_by IS NULL

-- name: waiting
-- Workflows that wait for people. Index workflows_by_thread.
SELECT workflow_id FROM surgetank.workflows WHERE thread_id = %(thread_id)s AND status = 'awaiting_checkpoint'

-- name: end_silent
-- End a run whose worker went silent, or give it to another, as a worker's reaper does. Primary key.
SELECT surgetank.end_run(%(run_id)s, %(fence)s, %(ended)s, %(error)s, '[]', false, 0, surgetank.acting(%(actor)s, %(origin)s))

-- name: close_some
-- Close what it asks, except for these interrupts. Index user_checkpoints_open.
SELECT surgetank.close_some(%(thread_id)s, 'superseded', surgetank.acting(%(actor)s, %(origin)s), %(but)s)

-- name: open_again
-- Ask people what the state asks. Primary key.
SELECT surgetank.open_checkpoints(r, %(asked)s, surgetank.acting(%(actor)s, %(origin)s)) FROM surgetank.runs r WHERE r.run_id = %(run_id)s

-- name: end_waiting
-- End the workflows that wait for people. Index workflows_by_thread.
UPDATE surgetank.workflows SET status = 'cancelled', ended_at = now(), updated_at = now()
WHERE thread_id = %(thread_id)s AND status = 'awaiting_checkpoint'

-- name: rest
-- The state of the thread, as its runs and workflows have it. Primary key, index workflows_by_thread.
UPDATE surgetank.thread_status t SET interrupts = %(interrupts)s, updated_at = now(),
    running_run = (SELECT r.run_id FROM surgetank.runs r WHERE r.thread_id = t.thread_id AND r.status = 'running'),
    status = CASE
        WHEN EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running')) THEN 'busy'
        WHEN EXISTS (SELECT FROM surgetank.workflows w WHERE w.thread_id = t.thread_id AND w.status = 'awaiting_checkpoint')
            THEN 'interrupted'
        WHEN %(failed)s THEN 'error' ELSE 'idle' END,
    error = CASE WHEN %(failed)s THEN t.error END
WHERE t.thread_id = %(thread_id)s

-- name: note
-- A line of the audit.
SELECT surgetank.note('thread_repaired', surgetank.acting(%(actor)s, %(origin)s), %(thread_id)s, NULL, NULL, %(detail)s)
