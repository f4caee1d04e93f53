-- usable from: 0022
-- A run that is accepted where a worker has room is claimed for it in the same transaction: one commit and one look at the queue less
-- before it starts. To be called by who has just accepted it, and holds its thread. Nothing where its thread has others, or its
-- owner may not have one more running (`hold_back`): then it is in the queue like all.
CREATE FUNCTION surgetank.claim_accepted(the_worker text, the_run uuid, lease_s double precision) RETURNS SETOF surgetank.runs
LANGUAGE plpgsql AS $$
DECLARE
    claimed surgetank.runs;
BEGIN
    UPDATE surgetank.runs r SET status = 'running', attempts = r.attempts + 1, worker = the_worker,
        lease_until = now() + make_interval(secs => lease_s), started_at = coalesce(r.started_at, now()), updated_at = now(),
        fence = greatest(t.fence + 1, r.fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    FROM surgetank.thread_status t
    WHERE r.run_id = the_run AND r.status = 'pending' AND r.due_at <= now() AND r.cancel_action IS NULL
        AND t.thread_id = r.thread_id AND t.running_run IS NULL
        AND NOT EXISTS (SELECT FROM surgetank.runs o
            WHERE o.thread_id = r.thread_id AND o.status = 'pending' AND o.run_id <> the_run)
    RETURNING r.* INTO claimed;
    IF NOT FOUND THEN RETURN; END IF;
    UPDATE surgetank.workflows w SET status = 'running', updated_at = now()
    WHERE w.workflow_id = claimed.workflow_id AND w.status = 'pending';
    UPDATE surgetank.thread_status t SET running_run = claimed.run_id, fence = claimed.fence, status = 'busy', interrupts = '[]',
        error = NULL, updated_at = now()
    WHERE t.thread_id = claimed.thread_id;
    INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
    VALUES ('run_claimed', surgetank.number_of('actor', the_worker), surgetank.number_of('thread', claimed.thread_id),
        claimed.workflow_id, claimed.run_id, jsonb_build_object('attempt', claimed.attempts));
    RETURN NEXT claimed;
END
$$;
