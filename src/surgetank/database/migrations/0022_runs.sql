-- usable from: 0021
-- Runs, workflows, the state of threads, and the audit. A run's row is the queue. Every function here is one round trip and one
-- transaction; each locks the thread's row first, so that two of them can't wait for each other. All times are the database's.
CREATE TABLE surgetank.thread_status (
    thread_id text PRIMARY KEY,
    owner text,
    status text NOT NULL DEFAULT 'idle' CHECK (status IN ('idle', 'busy', 'interrupted', 'error')),
    assistant_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    interrupts jsonb NOT NULL DEFAULT '[]',
    error text,
    running_run uuid,  -- claims test it on the row that they lock, where it is never out of date
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE surgetank.workflows (
    workflow_id uuid PRIMARY KEY,
    thread_id text NOT NULL REFERENCES surgetank.thread_status ON DELETE CASCADE,
    assistant_id text NOT NULL,
    owner text,
    status text NOT NULL,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    ended_at timestamptz
);
CREATE INDEX workflows_by_thread ON surgetank.workflows (thread_id, created_at);
CREATE INDEX thread_status_by_owner ON surgetank.thread_status (owner);
CREATE INDEX workflows_by_status ON surgetank.workflows (status, created_at);

CREATE TABLE surgetank.runs (
    run_id uuid PRIMARY KEY,
    seq bigint GENERATED ALWAYS AS IDENTITY,
    workflow_id uuid NOT NULL REFERENCES surgetank.workflows ON DELETE CASCADE,
    thread_id text NOT NULL REFERENCES surgetank.thread_status ON DELETE CASCADE,
    assistant_id text NOT NULL,
    owner text,
    status text NOT NULL,
    multitask_strategy text NOT NULL CHECK (multitask_strategy IN ('reject', 'enqueue', 'interrupt', 'rollback')),
    priority integer NOT NULL DEFAULT 0,
    kwargs jsonb NOT NULL DEFAULT '{}',
    metadata jsonb NOT NULL DEFAULT '{}',
    timeout_s double precision,
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 3,
    fence bigint NOT NULL DEFAULT 0,
    worker text,
    lease_until timestamptz,
    cancel_action text CHECK (cancel_action IN ('interrupt', 'rollback')),
    cancel_actor text,
    timed_out boolean NOT NULL DEFAULT false,
    error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    due_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    ended_at timestamptz
);
-- However claims race, two runs of one thread never run.
CREATE UNIQUE INDEX runs_running ON surgetank.runs (thread_id) WHERE status = 'running';
CREATE INDEX runs_pending ON surgetank.runs (due_at) WHERE status = 'pending';
CREATE INDEX runs_of_thread ON surgetank.runs (thread_id, seq);
CREATE INDEX runs_of_workflow ON surgetank.runs (workflow_id, seq);
CREATE INDEX runs_leased ON surgetank.runs (lease_until) WHERE status = 'running';

-- The transitions of workflows/status.py; a test compares them.
CREATE TABLE surgetank.status_transitions (
    kind text NOT NULL, before text NOT NULL, after text NOT NULL, PRIMARY KEY (kind, before, after)
);
INSERT INTO surgetank.status_transitions VALUES
    ('runs', 'pending', 'running'), ('runs', 'pending', 'failed'), ('runs', 'pending', 'cancelled'),
    ('runs', 'running', 'pending'), ('runs', 'running', 'awaiting_checkpoint'), ('runs', 'running', 'completed'),
    ('runs', 'running', 'failed'), ('runs', 'running', 'cancelled'),
    ('workflows', 'pending', 'running'), ('workflows', 'pending', 'failed'), ('workflows', 'pending', 'cancelled'),
    ('workflows', 'running', 'pending'), ('workflows', 'running', 'awaiting_checkpoint'),
    ('workflows', 'running', 'completed'), ('workflows', 'running', 'failed'), ('workflows', 'running', 'cancelled'),
    ('workflows', 'awaiting_checkpoint', 'pending'), ('workflows', 'awaiting_checkpoint', 'failed'),
    ('workflows', 'awaiting_checkpoint', 'cancelled'), ('workflows', 'failed', 'pending');

CREATE FUNCTION surgetank.check_transition() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' THEN
            RAISE EXCEPTION '%: begins as %, not as pending', TG_TABLE_NAME, NEW.status USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NEW.status <> OLD.status AND NOT EXISTS (
        SELECT FROM surgetank.status_transitions t
        WHERE t.kind = TG_TABLE_NAME AND t.before = OLD.status AND t.after = NEW.status
    ) THEN
        RAISE EXCEPTION '%: % does not become %', TG_TABLE_NAME, OLD.status, NEW.status USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER transition BEFORE INSERT OR UPDATE OF status ON surgetank.runs
    FOR EACH ROW EXECUTE FUNCTION surgetank.check_transition();
CREATE TRIGGER transition BEFORE INSERT OR UPDATE OF status ON surgetank.workflows
    FOR EACH ROW EXECUTE FUNCTION surgetank.check_transition();

-- Who did what. Rows are only added. People and threads stand in them by a number, and texts by a digest, so that an erasure
-- removes names and leaves the rows.
CREATE TABLE surgetank.audit_names (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('actor', 'thread')),
    name text NOT NULL
);
CREATE UNIQUE INDEX audit_names_by_name ON surgetank.audit_names (kind, name);
CREATE TABLE surgetank.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    action text NOT NULL,
    actor bigint NOT NULL,
    thread bigint NOT NULL,
    workflow_id uuid,
    run_id uuid,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_of_workflow ON surgetank.audit (workflow_id, id);
CREATE INDEX audit_of_thread ON surgetank.audit (thread, id);
CREATE VIEW surgetank.audit_log AS
    SELECT a.id, a.at, a.action, p.name AS actor, t.name AS thread_id, a.workflow_id, a.run_id, a.detail
    FROM surgetank.audit a
    LEFT JOIN surgetank.audit_names p ON p.number = a.actor
    LEFT JOIN surgetank.audit_names t ON t.number = a.thread;

CREATE FUNCTION surgetank.number_of(the_kind text, the_name text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    SELECT n.number INTO found FROM surgetank.audit_names n WHERE n.kind = the_kind AND n.name = the_name;
    IF found IS NULL THEN
        INSERT INTO surgetank.audit_names (kind, name) VALUES (the_kind, the_name)
        ON CONFLICT (kind, name) DO UPDATE SET name = excluded.name RETURNING number INTO found;
    END IF;
    RETURN found;
END
$$;
CREATE FUNCTION surgetank.note(
    the_action text, the_actor text, the_thread text, the_workflow uuid, the_run uuid, the_detail jsonb
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
    VALUES (the_action, surgetank.number_of('actor', the_actor), surgetank.number_of('thread', the_thread), the_workflow,
        the_run, the_detail)
$$;
CREATE FUNCTION surgetank.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit is only added to' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON surgetank.audit
    FOR EACH ROW EXECUTE FUNCTION surgetank.refuse_change();
CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON surgetank.audit
    FOR EACH STATEMENT EXECUTE FUNCTION surgetank.refuse_change();

-- What the state of a thread is when none of its runs runs.
CREATE FUNCTION surgetank.rest_of_thread(the_thread text, ended text) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status = 'pending') THEN 'busy'
        WHEN ended = 'awaiting_checkpoint' THEN 'interrupted'
        WHEN ended = 'failed' THEN 'error'
        WHEN ended = 'cancelled' THEN 'interrupted'
        ELSE 'idle' END
$$;

-- Accept a run: 'accepted', or why not ('known', 'missing', 'foreign', 'busy', 'state').
CREATE FUNCTION surgetank.accept_run(
    the_run uuid, the_workflow uuid, the_thread text, the_assistant text, the_owner text, strategy text, the_priority integer,
    after_s double precision, the_kwargs jsonb, the_metadata jsonb, most_attempts integer, the_timeout double precision,
    make_thread boolean, actor text
) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    thread surgetank.thread_status;
    flow surgetank.workflows;
BEGIN
    IF make_thread THEN
        INSERT INTO surgetank.thread_status (thread_id, owner, assistant_id) VALUES (the_thread, the_owner, the_assistant)
        ON CONFLICT (thread_id) DO NOTHING;
    END IF;
    SELECT * INTO thread FROM surgetank.thread_status t WHERE t.thread_id = the_thread FOR UPDATE;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF EXISTS (SELECT FROM surgetank.runs r WHERE r.run_id = the_run) THEN RETURN 'known'; END IF;
    IF thread.owner IS DISTINCT FROM the_owner AND thread.owner IS NOT NULL AND the_owner IS NOT NULL THEN
        RETURN 'foreign';
    END IF;
    IF strategy = 'reject' AND EXISTS (
        SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status IN ('pending', 'running')
    ) THEN
        RETURN 'busy';
    END IF;
    SELECT * INTO flow FROM surgetank.workflows w WHERE w.workflow_id = the_workflow FOR UPDATE;
    IF FOUND THEN
        IF flow.thread_id <> the_thread OR flow.status NOT IN ('awaiting_checkpoint', 'failed') THEN RETURN 'state'; END IF;
        UPDATE surgetank.workflows w SET status = 'pending', error = NULL, ended_at = NULL, updated_at = now()
        WHERE w.workflow_id = the_workflow;
    ELSE
        INSERT INTO surgetank.workflows (workflow_id, thread_id, assistant_id, owner, status)
        VALUES (the_workflow, the_thread, the_assistant, the_owner, 'pending');
    END IF;
    IF strategy IN ('interrupt', 'rollback') THEN
        PERFORM surgetank.cancel_run(r.run_id, strategy, actor) FROM surgetank.runs r
        WHERE r.thread_id = the_thread AND r.status IN ('pending', 'running') ORDER BY r.seq;
    END IF;
    INSERT INTO surgetank.runs (
        run_id, workflow_id, thread_id, assistant_id, owner, status, multitask_strategy, priority, kwargs, metadata, timeout_s,
        max_attempts, due_at
    ) VALUES (
        the_run, the_workflow, the_thread, the_assistant, the_owner, 'pending', strategy, the_priority, the_kwargs,
        the_metadata, the_timeout, most_attempts, now() + make_interval(secs => after_s)
    );
    UPDATE surgetank.thread_status t SET status = 'busy', assistant_id = the_assistant, updated_at = now()
    WHERE t.thread_id = the_thread;
    PERFORM surgetank.note('run_accepted', actor, the_thread, the_workflow, the_run,
        jsonb_build_object('assistant_id', the_assistant, 'strategy', strategy));
    NOTIFY surgetank_runs;
    RETURN 'accepted';
END
$$;

-- Ask a run to end: 'cancelled' (it had not begun), 'asked', 'ended' before, or 'missing'.
CREATE FUNCTION surgetank.cancel_run(the_run uuid, action text, actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    run surgetank.runs;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT r.thread_id FROM surgetank.runs r WHERE r.run_id = the_run) FOR UPDATE;
    SELECT * INTO run FROM surgetank.runs r WHERE r.run_id = the_run;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF run.status = 'running' THEN
        UPDATE surgetank.runs r SET cancel_action = action, cancel_actor = actor, updated_at = now()
        WHERE r.run_id = the_run AND r.cancel_action IS DISTINCT FROM 'rollback';
        PERFORM surgetank.note('cancel_requested', actor, run.thread_id, run.workflow_id, the_run, jsonb_build_object('action', action));
        NOTIFY surgetank_cancels;
        RETURN 'asked';
    ELSIF run.status <> 'pending' THEN
        RETURN 'ended';
    END IF;
    UPDATE surgetank.runs r SET status = 'cancelled', cancel_action = action, cancel_actor = actor, ended_at = now(),
        updated_at = now() WHERE r.run_id = the_run;
    UPDATE surgetank.workflows w SET status = 'cancelled', ended_at = now(), updated_at = now()
    WHERE w.workflow_id = run.workflow_id AND w.status = 'pending';
    UPDATE surgetank.thread_status t SET status = surgetank.rest_of_thread(t.thread_id, 'cancelled'), updated_at = now()
    WHERE t.thread_id = run.thread_id AND t.running_run IS NULL;
    PERFORM surgetank.note('run_cancelled', actor, run.thread_id, run.workflow_id, the_run, jsonb_build_object('action', action));
    RETURN 'cancelled';
END
$$;

-- Claim due runs: of each thread the next one, of threads where none runs. Threads are locked, not runs: who claims run rows
-- alone starts two runs of one thread.
CREATE FUNCTION surgetank.claim_runs(the_worker text, most integer, lease_s double precision)
RETURNS SETOF surgetank.runs LANGUAGE plpgsql AS $$
DECLARE
    threads text[];
BEGIN
    SELECT array_agg(thread_id) INTO threads FROM (
        SELECT t.thread_id
        FROM (
            SELECT r.thread_id, max(r.priority) AS priority, min(r.seq) AS seq FROM surgetank.runs r
            WHERE r.status = 'pending' AND r.due_at <= now() GROUP BY r.thread_id
        ) AS due
        JOIN surgetank.thread_status t USING (thread_id)
        WHERE t.running_run IS NULL
        ORDER BY due.priority DESC, due.seq LIMIT most FOR UPDATE OF t SKIP LOCKED
    ) AS locked;
    IF threads IS NULL THEN RETURN; END IF;
    RETURN QUERY WITH chosen AS (
        SELECT n.run_id FROM unnest(threads) AS u (thread_id) CROSS JOIN LATERAL (
            SELECT r.run_id FROM surgetank.runs r
            WHERE r.thread_id = u.thread_id AND r.status = 'pending' AND r.due_at <= now()
            ORDER BY r.priority DESC, r.seq LIMIT 1
        ) AS n
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

-- Renew leases: of each run whether it is still ours, and what its end was asked for.
CREATE FUNCTION surgetank.renew_runs(the_runs uuid[], fences bigint[], lease_s double precision)
RETURNS TABLE (run_id uuid, cancel_action text) LANGUAGE sql AS $$
    UPDATE surgetank.runs r SET lease_until = now() + make_interval(secs => lease_s)
    FROM unnest(the_runs, fences) AS u (run_id, fence)
    WHERE r.run_id = u.run_id AND r.fence = u.fence AND r.status = 'running'
    RETURNING r.run_id, r.cancel_action
$$;

-- End a run, or give it back ('pending'): the new state of its thread, NULL when the run is not the caller's any more.
CREATE FUNCTION surgetank.end_run(
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
    UPDATE surgetank.workflows w SET status = ended, error = the_error, updated_at = now(),
        ended_at = CASE WHEN ended IN ('completed', 'failed', 'cancelled') THEN now() END
    WHERE w.workflow_id = run.workflow_id;
    rest := surgetank.rest_of_thread(run.thread_id, ended);
    UPDATE surgetank.thread_status t SET running_run = NULL, status = rest, interrupts = its_interrupts, error = the_error,
        updated_at = now() WHERE t.thread_id = run.thread_id;
    PERFORM surgetank.note('run_' || ended, actor, run.thread_id, run.workflow_id, the_run,
        jsonb_strip_nulls(jsonb_build_object('error_digest', md5(the_error), 'attempt', run.attempts)));
    IF rest = 'busy' THEN NOTIFY surgetank_runs; END IF;
    RETURN rest;
END
$$;

-- Deal with runs whose worker went silent: cancelled if that was asked for, pending again while attempts are left, else failed.
CREATE FUNCTION surgetank.reap_runs(most integer, actor text) RETURNS TABLE (run_id uuid, ended text)
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
        after := CASE WHEN run.cancel_action IS NOT NULL THEN 'cancelled'
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
