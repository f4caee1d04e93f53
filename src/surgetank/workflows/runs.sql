-- name: accept
-- Accept a run; what became of it, and its row (0022_runs.sql and 0023_serving.sql, as all functions here). Primary keys.
SELECT a.result, (a.accepted).* FROM surgetank.accept_run(
    %(run_id)s, %(workflow_id)s, %(thread_id)s, %(assistant_id)s, %(graph_id)s, %(owner)s, %(strategy)s, %(priority)s,
    %(after_s)s, %(kwargs)s, %(metadata)s, %(max_attempts)s, %(timeout_s)s, %(make_thread)s, %(temporary)s,
    %(thread_metadata)s, surgetank.acting(%(actor)s, %(origin)s, NULL, %(quotas)s)
) AS a

-- name: accept_and_claim
-- The same, and claim it for a worker where it can begin at once (0038). Primary keys, index runs_pending_of_thread.
SELECT a.result, (a.accepted).*, c.attempts AS claimed_attempts, c.fence AS claimed_fence, c.lease_until AS claimed_until,
    c.updated_at AS claimed_at
FROM surgetank.accept_run(
    %(run_id)s, %(workflow_id)s, %(thread_id)s, %(assistant_id)s, %(graph_id)s, %(owner)s, %(strategy)s, %(priority)s,
    %(after_s)s, %(kwargs)s, %(metadata)s, %(max_attempts)s, %(timeout_s)s, %(make_thread)s, %(temporary)s,
    %(thread_metadata)s, surgetank.acting(%(actor)s, %(origin)s, NULL, %(quotas)s)
) AS a LEFT JOIN LATERAL surgetank.claim_accepted(
    surgetank.acting(%(worker)s, %(node)s, NULL, %(quotas)s), CASE a.result WHEN 'accepted' THEN (a.accepted).run_id END, %(lease_s)s
) AS c ON true

-- name: give_ttl
-- The usual time to live, for a thread that has none. Primary key.
UPDATE surgetank.thread_status SET ttl_minutes = %(ttl_minutes)s, ttl_strategy = %(ttl_strategy)s
WHERE thread_id = %(thread_id)s AND ttl_minutes IS NULL AND NOT temporary

-- name: cancel
-- Ask a run to end. Primary keys.
SELECT surgetank.cancel_run(%(run_id)s, %(action)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: claim
-- Claim the next runs. Index runs_pending, then runs_of_thread.
SELECT * FROM surgetank.claim_runs(surgetank.acting(%(worker)s, %(origin)s, NULL, %(quotas)s), %(most)s, %(lease_s)s, %(graphs)s, %(most_of_assistant)s)

-- name: held_by
-- What a worker has, except for these: it may not know, where the answer to its claim was lost. Index runs_leased.
SELECT * FROM surgetank.runs WHERE status = 'running' AND worker = %(worker)s AND run_id <> ALL(%(known)s::uuid[])

-- name: renew
-- Renew leases. Primary key.
SELECT run_id, cancel_action FROM surgetank.renew_runs(%(runs)s::uuid[], %(fences)s::bigint[], %(lease_s)s)

-- name: complete
-- Runs that came to their end. Primary keys, index runs_pending_of_thread.
SELECT run_id, rest FROM surgetank.complete_runs(
    %(runs)s::uuid[], %(fences)s::bigint[], surgetank.acting(%(actor)s, %(origin)s, %(buffer)s)
)

-- name: end
-- End runs or give them back, in the order of their threads: two who end the same ones don't wait for each other. Primary keys.
SELECT e.run_id, surgetank.end_run(
    e.run_id, e.fence, e.status, e.error, e.interrupts, e.timed_out, e.retry_s, surgetank.acting(e.actor, e.origin, e.buffer)
) FROM (
    SELECT * FROM unnest(
        %(run_id)s::uuid[], %(fence)s::bigint[], %(status)s::text[], %(error)s::text[], %(interrupts)s::jsonb[],
        %(timed_out)s::boolean[], %(retry_s)s::float8[], %(actor)s::text[], %(origin)s::text[], %(buffer)s::text[],
        %(thread_id)s::text[]
    ) AS u (run_id, fence, status, error, interrupts, timed_out, retry_s, actor, origin, buffer, thread_id)
    ORDER BY u.thread_id OFFSET 0
) AS e

-- name: given_back
-- Attempts are counted for workers that went silent: to be given back in order is none. Primary key.
UPDATE surgetank.runs SET max_attempts = max_attempts + 1 WHERE run_id = ANY (%(runs)s::uuid[]) AND status = 'pending'

-- name: reap
-- End or give back what silent workers hold. Index runs_leased.
SELECT run_id, ended FROM surgetank.reap_runs(%(most)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: reap_in_contact
-- The same for who was in contact since then and had no gap; the time of this contact. OFFSET 0: the function is not called
-- where the times don't fit. now() is when the statement was received, which may be long after it was sent.
SELECT now() AS at, r.run_id, r.ended FROM (VALUES (1)) AS one (n) LEFT JOIN LATERAL (
    SELECT d.run_id, d.ended FROM (
        SELECT %(most)s::integer AS most WHERE now() - %(last)s::timestamptz <= %(gap)s
            AND now() - %(since)s::timestamptz >= make_interval(secs => %(lease_s)s) OFFSET 0
    ) AS allowed CROSS JOIN LATERAL surgetank.reap_runs(allowed.most, surgetank.acting(%(actor)s, %(origin)s)) AS d
) AS r ON true

-- name: get
-- One run. Primary key.
SELECT * FROM surgetank.runs WHERE run_id = %(run_id)s

-- name: of_thread
-- Runs of a thread, newest first. Index runs_of_thread.
SELECT * FROM surgetank.runs WHERE thread_id = %(thread_id)s AND (%(statuses)s::text[] IS NULL OR status = ANY (%(statuses)s))
ORDER BY seq DESC LIMIT %(limit)s OFFSET %(offset)s

-- name: audit_of_workflow
-- What was done with a workflow, in order. Index audit_of_workflow.
SELECT * FROM surgetank.audit_log WHERE workflow_id = %(workflow_id)s ORDER BY id

-- name: counts
-- How many runs there are in each state that is not an end. Indexes runs_pending, runs_running.
SELECT status, count(*) AS runs, extract(epoch FROM now() - min(due_at)) AS oldest_s FROM surgetank.runs
WHERE status IN ('pending', 'running') GROUP BY status

-- name: unfinished
-- Runs that are not over, the oldest first, of one thread or of all, of one owner or of all. Indexes runs_pending, runs_running.
SELECT * FROM surgetank.runs WHERE status IN ('pending', 'running') AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND (%(owner)s::text IS NULL OR owner = %(owner)s)
ORDER BY seq LIMIT %(limit)s

-- name: delete
-- Forget a run that has ended. Primary key.
DELETE FROM surgetank.runs WHERE run_id = %(run_id)s AND status NOT IN ('pending', 'running') RETURNING
    surgetank.note('run_deleted', surgetank.acting(%(actor)s, %(origin)s), thread_id, workflow_id, run_id, '{}')
