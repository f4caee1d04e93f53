-- usable from: 0022
-- What serving runs needs: the graph of a run, workers that have only some graphs, limits, rollback that survives its worker, and
-- places where other rooms hook in (`admit_run`, `open_checkpoints`, `close_checkpoints`, `run_ended`): each is replaced by the
-- migration of the room that fills it.
ALTER TABLE surgetank.runs ADD COLUMN graph_id text;
ALTER TABLE surgetank.thread_status
    ADD COLUMN config jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN temporary boolean NOT NULL DEFAULT false;  -- of a stateless run
CREATE INDEX thread_status_by_status ON surgetank.thread_status (status, updated_at);
CREATE INDEX thread_status_by_metadata ON surgetank.thread_status USING gin (metadata jsonb_path_ops);
CREATE INDEX thread_status_by_update ON surgetank.thread_status (updated_at);
DROP INDEX surgetank.runs_pending;
CREATE INDEX runs_pending ON surgetank.runs (priority DESC, seq) WHERE status = 'pending';
CREATE INDEX runs_running_by_assistant ON surgetank.runs (assistant_id) WHERE status = 'running';

-- Why this run may not be accepted now (a quota), or NULL.
CREATE FUNCTION surgetank.admit_run(the_owner text, the_assistant text) RETURNS text LANGUAGE sql STABLE AS $$ SELECT NULL::text $$;
-- A run ended by asking people: `asked` is what it asks.
CREATE FUNCTION surgetank.open_checkpoints(run surgetank.runs, asked jsonb, actor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RETURN; END $$;
-- What a thread asks is no longer of interest: `why` is 'superseded' by new input, cancelled, rolled back, deleted.
CREATE FUNCTION surgetank.close_checkpoints(the_thread text, why text, actor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RETURN; END $$;
-- A run has come to its end (not: was given back).
CREATE FUNCTION surgetank.run_ended(run surgetank.runs, ended text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RETURN; END $$;

DROP FUNCTION surgetank.accept_run(uuid, uuid, text, text, text, text, integer, double precision, jsonb, jsonb, integer,
    double precision, boolean, text);

-- Accept a run: 'accepted' or 'known' with its row, or why not ('missing', 'foreign', 'busy', 'state', or what admit_run says).
CREATE FUNCTION surgetank.accept_run(
    the_run uuid, the_workflow uuid, the_thread text, the_assistant text, the_graph text, the_owner text, strategy text,
    the_priority integer, after_s double precision, the_kwargs jsonb, the_metadata jsonb, most_attempts integer,
    the_timeout double precision, make_thread boolean, is_temporary boolean, thread_metadata jsonb, actor text
) RETURNS TABLE (result text, accepted surgetank.runs) LANGUAGE plpgsql AS $$
DECLARE
    thread surgetank.thread_status;
    flow surgetank.workflows;
    refusal text;
BEGIN
    IF make_thread THEN
        INSERT INTO surgetank.thread_status (thread_id, owner, assistant_id, temporary)
        VALUES (the_thread, the_owner, the_assistant, is_temporary) ON CONFLICT (thread_id) DO NOTHING;
    END IF;
    SELECT * INTO thread FROM surgetank.thread_status t WHERE t.thread_id = the_thread FOR UPDATE;
    IF NOT FOUND THEN result := 'missing'; RETURN NEXT; RETURN; END IF;
    SELECT * INTO accepted FROM surgetank.runs r WHERE r.run_id = the_run;
    IF FOUND THEN
        result := CASE WHEN accepted.thread_id = the_thread THEN 'known' ELSE 'missing' END;
        RETURN NEXT; RETURN;
    END IF;
    accepted := NULL;
    IF thread.owner IS DISTINCT FROM the_owner AND thread.owner IS NOT NULL AND the_owner IS NOT NULL THEN
        result := 'foreign'; RETURN NEXT; RETURN;
    END IF;
    IF strategy = 'reject' AND EXISTS (
        SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status IN ('pending', 'running')
    ) THEN
        result := 'busy'; RETURN NEXT; RETURN;
    END IF;
    refusal := surgetank.admit_run(the_owner, the_assistant);
    IF refusal IS NOT NULL THEN result := refusal; RETURN NEXT; RETURN; END IF;
    SELECT * INTO flow FROM surgetank.workflows w WHERE w.workflow_id = the_workflow FOR UPDATE;
    IF FOUND THEN
        IF flow.thread_id <> the_thread OR flow.status NOT IN ('awaiting_checkpoint', 'failed') THEN
            result := 'state'; RETURN NEXT; RETURN;
        END IF;
        UPDATE surgetank.workflows w SET status = 'pending', error = NULL, ended_at = NULL, updated_at = now()
        WHERE w.workflow_id = the_workflow;
    ELSE
        -- New input instead of an answer: what waited on this thread is given up.
        PERFORM surgetank.close_checkpoints(the_thread, 'superseded', actor);
        UPDATE surgetank.workflows w SET status = 'cancelled', ended_at = now(), updated_at = now()
        WHERE w.thread_id = the_thread AND w.status = 'awaiting_checkpoint';
        INSERT INTO surgetank.workflows (workflow_id, thread_id, assistant_id, owner, status)
        VALUES (the_workflow, the_thread, the_assistant, coalesce(the_owner, thread.owner), 'pending');
    END IF;
    IF strategy IN ('interrupt', 'rollback') THEN
        PERFORM surgetank.cancel_run(r.run_id, strategy, actor) FROM surgetank.runs r
        WHERE r.thread_id = the_thread AND r.status IN ('pending', 'running') ORDER BY r.seq;
    END IF;
    INSERT INTO surgetank.runs (
        run_id, workflow_id, thread_id, assistant_id, graph_id, owner, status, multitask_strategy, priority, kwargs, metadata,
        timeout_s, max_attempts, due_at
    ) VALUES (
        the_run, the_workflow, the_thread, the_assistant, the_graph, coalesce(the_owner, thread.owner), 'pending', strategy,
        the_priority, the_kwargs, the_metadata, the_timeout, most_attempts, now() + make_interval(secs => after_s)
    ) RETURNING * INTO accepted;
    UPDATE surgetank.thread_status t SET status = 'busy', assistant_id = the_assistant,
        metadata = t.metadata || thread_metadata, updated_at = now()
    WHERE t.thread_id = the_thread;
    PERFORM surgetank.note('run_accepted', actor, the_thread, the_workflow, the_run,
        jsonb_build_object('assistant_id', the_assistant, 'strategy', strategy));
    NOTIFY surgetank_runs;
    result := 'accepted';
    RETURN NEXT;
END
$$;

-- Ask a run to end: 'cancelled' (nothing of it was under way), 'asked' (its worker must), 'ended' before, or 'missing'.
-- A run that is rolled back goes, with its checkpoints; what has some stays until a worker has deleted them.
CREATE OR REPLACE FUNCTION surgetank.cancel_run(the_run uuid, action text, actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run surgetank.runs;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT r.thread_id FROM surgetank.runs r WHERE r.run_id = the_run) FOR UPDATE;
    SELECT * INTO run FROM surgetank.runs r WHERE r.run_id = the_run;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF run.status = 'running' OR (run.status = 'pending' AND run.attempts > 0 AND action = 'rollback') THEN
        UPDATE surgetank.runs r SET cancel_action = action, cancel_actor = actor, updated_at = now(),
            due_at = CASE WHEN r.status = 'pending' THEN now() ELSE r.due_at END
        WHERE r.run_id = the_run AND r.cancel_action IS DISTINCT FROM 'rollback';
        PERFORM surgetank.note('cancel_requested', actor, run.thread_id, run.workflow_id, the_run, jsonb_build_object('action', action));
        NOTIFY surgetank_cancels;
        NOTIFY surgetank_runs;
        RETURN 'asked';
    ELSIF run.status <> 'pending' THEN
        RETURN 'ended';
    END IF;
    UPDATE surgetank.runs r SET status = 'cancelled', cancel_action = action, cancel_actor = actor, ended_at = now(),
        updated_at = now() WHERE r.run_id = the_run RETURNING r.* INTO run;
    PERFORM surgetank.finish_cancelled(run, actor);
    UPDATE surgetank.thread_status t SET updated_at = now(), status = surgetank.rest_of_thread(t.thread_id,
        CASE action WHEN 'rollback' THEN 'completed' ELSE 'cancelled' END)
    WHERE t.thread_id = run.thread_id AND t.running_run IS NULL;
    RETURN 'cancelled';
END
$$;

-- What follows from a run's being cancelled, once it is: its workflow, what it asked, the audit; with 'rollback' its row goes.
CREATE FUNCTION surgetank.finish_cancelled(run surgetank.runs, actor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE surgetank.workflows w SET status = 'cancelled', ended_at = now(), updated_at = now()
    WHERE w.workflow_id = run.workflow_id AND w.status IN ('pending', 'running', 'awaiting_checkpoint');
    PERFORM surgetank.note('run_cancelled', actor, run.thread_id, run.workflow_id, run.run_id,
        jsonb_build_object('action', run.cancel_action));
    PERFORM surgetank.run_ended(run, 'cancelled');
    IF run.cancel_action = 'rollback' THEN
        DELETE FROM surgetank.runs r WHERE r.run_id = run.run_id;
    END IF;
END
$$;

DROP FUNCTION surgetank.claim_runs(text, integer, double precision);
-- Claim due runs: of each thread the next one, of threads where none runs. Threads are locked, not runs: who claims run rows
-- alone starts two runs of one thread. What is to be rolled back goes first. `graphs` (NULL: all) are those that the worker has;
-- `most_of_assistant` (NULL: any number) bounds how many runs of an assistant are under way at once.
CREATE FUNCTION surgetank.claim_runs(
    the_worker text, most integer, lease_s double precision, graphs text[], most_of_assistant integer
) RETURNS SETOF surgetank.runs LANGUAGE plpgsql AS $$
DECLARE
    threads text[];
BEGIN
    IF most_of_assistant IS NOT NULL THEN  -- two who count at once would both find room
        PERFORM pg_advisory_xact_lock(1398033234, 1);
    END IF;
    SELECT array_agg(thread_id) INTO threads FROM (
        SELECT t.thread_id FROM surgetank.runs r JOIN surgetank.thread_status t USING (thread_id)
        WHERE r.status = 'pending' AND r.due_at <= now() AND t.running_run IS NULL
            AND (graphs IS NULL OR coalesce(r.graph_id, r.assistant_id) = ANY (graphs))
            AND (most_of_assistant IS NULL OR r.cancel_action IS NOT NULL OR most_of_assistant > (
                SELECT count(*) FROM surgetank.runs o WHERE o.status = 'running' AND o.assistant_id = r.assistant_id))
        ORDER BY r.priority DESC, r.seq LIMIT most FOR UPDATE OF t SKIP LOCKED
    ) AS locked;
    IF threads IS NULL THEN RETURN; END IF;
    RETURN QUERY WITH chosen AS (
        SELECT n.run_id FROM (
            SELECT n.*, row_number() OVER (PARTITION BY n.assistant_id ORDER BY n.priority DESC, n.seq) AS nth
            FROM (SELECT DISTINCT unnest(threads) AS thread_id) AS u CROSS JOIN LATERAL (
                SELECT r.run_id, r.graph_id, r.assistant_id, r.priority, r.seq, r.cancel_action FROM surgetank.runs r
                WHERE r.thread_id = u.thread_id AND r.status = 'pending' AND r.due_at <= now()
                ORDER BY (r.cancel_action IS NULL), r.priority DESC, r.seq LIMIT 1
            ) AS n
            WHERE graphs IS NULL OR coalesce(n.graph_id, n.assistant_id) = ANY (graphs)
        ) AS n
        WHERE most_of_assistant IS NULL OR n.cancel_action IS NOT NULL OR n.nth <= most_of_assistant - (
            SELECT count(*) FROM surgetank.runs o WHERE o.status = 'running' AND o.assistant_id = n.assistant_id)
    ), claimed AS (
        UPDATE surgetank.runs r SET status = 'running', fence = r.fence + 1, attempts = r.attempts + 1, worker = the_worker,
            lease_until = now() + make_interval(secs => lease_s), started_at = coalesce(r.started_at, now()),
            updated_at = now()
        FROM chosen c WHERE r.run_id = c.run_id RETURNING r.*
    ), flows AS (
        UPDATE surgetank.workflows w SET status = 'running', updated_at = now()
        FROM claimed c WHERE w.workflow_id = c.workflow_id AND w.status = 'pending'
    ), thread AS (
        UPDATE surgetank.thread_status t SET running_run = c.run_id, status = 'busy', interrupts = '[]', error = NULL,
            updated_at = now()
        FROM claimed c WHERE t.thread_id = c.thread_id
    ), noted AS (
        INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
        SELECT 'run_claimed', surgetank.number_of('actor', the_worker), surgetank.number_of('thread', c.thread_id),
            c.workflow_id, c.run_id, jsonb_build_object('attempt', c.attempts)
        FROM claimed c
    )
    SELECT * FROM claimed c ORDER BY c.priority DESC, c.seq;
END
$$;

-- End a run, or give it back ('pending'): the new state of its thread, NULL when the run is not the caller's any more.
CREATE OR REPLACE FUNCTION surgetank.end_run(
    the_run uuid, the_fence bigint, ended text, the_error text, its_interrupts jsonb, late boolean, retry_s double precision,
    actor text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run surgetank.runs;
    rest text;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT r.thread_id FROM surgetank.runs r WHERE r.run_id = the_run) FOR UPDATE;
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
        IF ended = 'awaiting_checkpoint' THEN PERFORM surgetank.open_checkpoints(run, its_interrupts, actor); END IF;
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

-- Deal with runs whose worker went silent: cancelled if that was asked for, pending again while attempts are left, else failed.
-- One that was to be rolled back is pending again: a worker has to delete its checkpoints.
CREATE OR REPLACE FUNCTION surgetank.reap_runs(most integer, actor text) RETURNS TABLE (run_id uuid, ended text)
LANGUAGE plpgsql AS $$
DECLARE
    run record;
    after text;
BEGIN
    FOR run IN
        SELECT r.* FROM surgetank.runs r JOIN surgetank.thread_status t USING (thread_id)
        WHERE r.status = 'running' AND r.lease_until < now() ORDER BY r.lease_until LIMIT most FOR UPDATE OF t SKIP LOCKED
    LOOP
        CONTINUE WHEN NOT EXISTS (  -- it was heard of since
            SELECT FROM surgetank.runs r WHERE r.run_id = run.run_id AND r.fence = run.fence AND r.lease_until < now()
        );
        after := CASE WHEN run.cancel_action = 'rollback' THEN 'pending' WHEN run.cancel_action IS NOT NULL THEN 'cancelled'
            WHEN run.attempts < run.max_attempts THEN 'pending' ELSE 'failed' END;
        IF surgetank.end_run(run.run_id, run.fence, after,
            CASE WHEN after = 'failed' THEN
                format('The worker %s went silent at attempt %s of %s.', run.worker, run.attempts, run.max_attempts) END,
            '[]', false, 0, actor) IS NOT NULL
        THEN
            run_id := run.run_id; ended := after;
            RETURN NEXT;
        END IF;
    END LOOP;
END
$$;

-- Delete a thread's row with its workflows and runs: 'deleted', 'missing', or 'busy' when one of them is not over.
CREATE FUNCTION surgetank.delete_thread(the_thread text, actor text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM surgetank.thread_status t WHERE t.thread_id = the_thread FOR UPDATE;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status = 'running') THEN RETURN 'busy'; END IF;
    PERFORM surgetank.close_checkpoints(the_thread, 'superseded', actor);
    PERFORM surgetank.note('thread_deleted', actor, the_thread, NULL, NULL, '{}');
    DELETE FROM surgetank.thread_status t WHERE t.thread_id = the_thread;
    RETURN 'deleted';
END
$$;
