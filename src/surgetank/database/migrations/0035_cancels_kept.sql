-- usable from: 0022
-- What was asked for while a run came to its end. A cancel that was acknowledged before is carried out by the worker, which is told
-- 'asked' instead of the new state of the thread, and nothing is changed: always when the run is to be rolled back; else when
-- something would be left of it, a question to people or another attempt. What had all been done is completed.
-- And who asks while new input waits on the thread already is answered by that: nobody else hears of the question.

CREATE OR REPLACE FUNCTION surgetank.end_run(
    the_run uuid, the_fence bigint, ended text, the_error text, its_interrupts jsonb, late boolean, retry_s double precision,
    actor text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run surgetank.runs;
    rest text;
    asked text;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT r.thread_id FROM surgetank.runs r WHERE r.run_id = the_run) FOR UPDATE;
    IF ended IN ('completed', 'failed', 'awaiting_checkpoint') OR (ended = 'pending' AND retry_s > 0) THEN
        SELECT r.cancel_action INTO asked FROM surgetank.runs r
        WHERE r.run_id = the_run AND r.fence = the_fence AND r.status = 'running';
        IF asked = 'rollback' OR (asked IS NOT NULL AND ended IN ('awaiting_checkpoint', 'pending')) THEN RETURN 'asked'; END IF;
    END IF;
    UPDATE surgetank.runs r SET status = ended, error = the_error, timed_out = late, worker = NULL, lease_until = NULL,
        ended_at = CASE WHEN ended <> 'pending' THEN now() END,
        due_at = CASE WHEN ended = 'pending' THEN now() + make_interval(secs => retry_s) ELSE r.due_at END,
        updated_at = now()
    WHERE r.run_id = the_run AND r.fence = the_fence AND r.status = 'running' RETURNING r.* INTO run;
    IF NOT FOUND THEN RETURN NULL; END IF;
    IF ended = 'cancelled' THEN
        PERFORM surgetank.finish_cancelled(run, actor);
    ELSE
        UPDATE surgetank.workflows w SET status = ended, error = the_error, updated_at = now(),
            ended_at = CASE WHEN ended IN ('completed', 'failed') THEN now() END
        WHERE w.workflow_id = run.workflow_id;
        PERFORM surgetank.note('run_' || ended, actor, run.thread_id, run.workflow_id, the_run,
            jsonb_strip_nulls(jsonb_build_object('error_digest', md5(the_error), 'attempt', run.attempts)));
        IF ended = 'awaiting_checkpoint' THEN
            PERFORM surgetank.open_checkpoints(run, its_interrupts, actor);
            IF EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = run.thread_id AND r.status = 'pending'
                AND r.workflow_id <> run.workflow_id)
            THEN
                PERFORM surgetank.close_checkpoints(run.thread_id, 'superseded', actor);
                UPDATE surgetank.workflows w SET status = 'cancelled', ended_at = now(), updated_at = now()
                WHERE w.workflow_id = run.workflow_id;
                its_interrupts := '[]';
            END IF;
        END IF;
        IF ended <> 'pending' THEN PERFORM surgetank.run_ended(run, ended); END IF;
    END IF;
    rest := surgetank.rest_of_thread(run.thread_id,
        CASE WHEN ended = 'cancelled' AND run.cancel_action = 'rollback' THEN 'completed' ELSE ended END);
    UPDATE surgetank.thread_status t SET running_run = NULL, status = rest, interrupts = its_interrupts, error = the_error,
        updated_at = now() WHERE t.thread_id = run.thread_id;
    IF rest = 'busy' THEN NOTIFY surgetank_runs; END IF;
    RETURN rest;
END
$$;

-- `end_run` for runs that came to their end ('completed'), in one transaction: each with the new state of its thread. Those that
-- are not the caller's any more are not among the rows. Threads are locked in their order: two callers don't wait for each other.
CREATE OR REPLACE FUNCTION surgetank.complete_runs(the_runs uuid[], fences bigint[], the_actor text)
RETURNS TABLE (run_id uuid, rest text) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    actor_number bigint := surgetank.number_of('actor', the_actor);
    ids uuid[];
    rests text[];
BEGIN
    PERFORM FROM surgetank.thread_status t WHERE t.thread_id IN (
        SELECT r.thread_id FROM surgetank.runs r WHERE r.run_id = ANY (the_runs)) ORDER BY t.thread_id FOR UPDATE;
    WITH ended AS (
        UPDATE surgetank.runs r SET status = 'completed', error = NULL, timed_out = false, worker = NULL, lease_until = NULL,
            ended_at = now(), updated_at = now()
        FROM unnest(the_runs, fences) AS u (run_id, fence)
        WHERE r.run_id = u.run_id AND r.fence = u.fence AND r.status = 'running' AND r.cancel_action IS DISTINCT FROM 'rollback'
        RETURNING r.*
    ), flows AS (
        UPDATE surgetank.workflows w SET status = 'completed', error = NULL, updated_at = now(), ended_at = now()
        FROM ended e WHERE w.workflow_id = e.workflow_id
    ), noted AS (
        INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
        SELECT 'run_completed', actor_number, coalesce(n.number, surgetank.number_of('thread', e.thread_id)), e.workflow_id,
            e.run_id, jsonb_build_object('attempt', e.attempts)
        FROM ended e LEFT JOIN surgetank.audit_names n ON n.kind = 'thread' AND n.name = e.thread_id
    ), threads AS (
        UPDATE surgetank.thread_status t SET running_run = NULL, interrupts = '[]', error = NULL, updated_at = now(),
            status = CASE WHEN EXISTS (SELECT FROM surgetank.runs p WHERE p.thread_id = t.thread_id AND p.status = 'pending')
                THEN 'busy' ELSE 'idle' END
        FROM ended e WHERE t.thread_id = e.thread_id RETURNING e.run_id, t.status
    ), told AS (
        SELECT e.run_id, surgetank.run_ended(e, 'completed') FROM ended e
    )
    SELECT array_agg(t.run_id), array_agg(t.status) INTO ids, rests FROM threads t JOIN told USING (run_id);
    IF 'busy' = ANY (rests) THEN NOTIFY surgetank_runs; END IF;
    RETURN QUERY SELECT unnest(ids), unnest(rests) UNION ALL
        SELECT r.run_id, 'asked' FROM surgetank.runs r JOIN unnest(the_runs, fences) AS u (run_id, fence)
            ON r.run_id = u.run_id AND r.fence = u.fence
        WHERE r.status = 'running' AND r.cancel_action = 'rollback';
END
$$;
