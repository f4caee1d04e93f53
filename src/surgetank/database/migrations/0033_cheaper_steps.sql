-- usable from: 0022
-- What each step of a run costs. Functions in SQL are planned at each call by older servers, those in PL/pgSQL once in a session;
-- the end of a chain is updated before it is inserted, because it is there for all rows but the first; and runs that have come
-- to their end in one worker end in one transaction.
-- What waits on a thread: without an index of its own a server that knows little about the table yet reads all that waits
-- anywhere, for each thread.
CREATE INDEX runs_pending_of_thread ON surgetank.runs (thread_id) WHERE status = 'pending';

CREATE OR REPLACE FUNCTION surgetank.rest_of_thread(the_thread text, ended text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    IF EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status = 'pending') THEN RETURN 'busy'; END IF;
    RETURN CASE ended WHEN 'awaiting_checkpoint' THEN 'interrupted' WHEN 'failed' THEN 'error' WHEN 'cancelled' THEN 'interrupted'
        ELSE 'idle' END;
END
$$;

CREATE OR REPLACE FUNCTION surgetank.note(
    the_action text, the_actor text, the_thread text, the_workflow uuid, the_run uuid, the_detail jsonb
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
    VALUES (the_action, surgetank.number_of('actor', the_actor),
        CASE WHEN the_thread IS NULL THEN 0 ELSE surgetank.number_of('thread', the_thread) END, the_workflow, the_run, the_detail);
END
$$;

CREATE OR REPLACE FUNCTION surgetank.chain_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    origin text := nullif(current_setting('surgetank.origin', true), '');
    buffer text := nullif(current_setting('surgetank.buffer', true), '');
    head surgetank.audit_heads;
BEGIN
    IF origin IS NOT NULL THEN
        NEW.origin := surgetank.number_of('origin', NEW.actor || '@' || left(origin, 200));
    END IF;
    IF buffer IS NOT NULL AND NEW.action = 'run_completed' THEN
        NEW.detail := NEW.detail || jsonb_build_object('buffer', buffer);
    END IF;
    UPDATE surgetank.audit_heads h SET nth = h.nth + 1, prev_hash = h.hash, hash = surgetank.audit_hash(NEW, h.nth + 1, h.hash)
    WHERE h.thread = NEW.thread RETURNING * INTO head;
    IF NOT FOUND THEN  -- or somebody else begins the chain at this moment
        INSERT INTO surgetank.audit_heads AS h (thread, nth, prev_hash, hash)
        VALUES (NEW.thread, 1, '', surgetank.audit_hash(NEW, 1, ''))
        ON CONFLICT (thread) DO UPDATE SET nth = h.nth + 1, prev_hash = h.hash,
            hash = surgetank.audit_hash(NEW, h.nth + 1, h.hash)
        RETURNING * INTO head;
    END IF;
    NEW.nth := head.nth;
    NEW.prev_hash := head.prev_hash;
    NEW.hash := head.hash;
    NEW.xid := pg_current_xact_id();
    RETURN NEW;
END
$$;

-- Claim due runs: of each thread the next one, of threads where none runs. Threads are locked, not runs: who claims run rows
-- alone starts two runs of one thread. What is to be rolled back goes first. `graphs` (NULL: all) are those that the worker has;
-- `most_of_assistant` (NULL: any number) bounds how many runs of an assistant are under way at once.
CREATE OR REPLACE FUNCTION surgetank.claim_runs(
    the_worker text, most integer, lease_s double precision, graphs text[], most_of_assistant integer
) RETURNS SETOF surgetank.runs LANGUAGE plpgsql AS $$
DECLARE
    threads text[];
    worker_number bigint;
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
    worker_number := surgetank.number_of('actor', the_worker);
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
        UPDATE surgetank.runs r SET status = 'running', attempts = r.attempts + 1, worker = the_worker,
            lease_until = now() + make_interval(secs => lease_s), started_at = coalesce(r.started_at, now()),
            updated_at = now(),
            fence = greatest(t.fence + 1, r.fence + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
        FROM chosen c, surgetank.thread_status t
        WHERE r.run_id = c.run_id AND t.thread_id = r.thread_id RETURNING r.*
    ), flows AS (
        UPDATE surgetank.workflows w SET status = 'running', updated_at = now()
        FROM claimed c WHERE w.workflow_id = c.workflow_id AND w.status = 'pending'
    ), thread AS (
        UPDATE surgetank.thread_status t SET running_run = c.run_id, fence = c.fence, status = 'busy', interrupts = '[]',
            error = NULL, updated_at = now()
        FROM claimed c WHERE t.thread_id = c.thread_id
    ), noted AS (
        INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
        SELECT 'run_claimed', worker_number, coalesce(n.number, surgetank.number_of('thread', c.thread_id)),
            c.workflow_id, c.run_id, jsonb_build_object('attempt', c.attempts)
        FROM claimed c LEFT JOIN surgetank.audit_names n ON n.kind = 'thread' AND n.name = c.thread_id
    )
    SELECT * FROM claimed c ORDER BY c.priority DESC, c.seq;
END
$$;

-- `end_run` for runs that came to their end ('completed'), in one transaction: each with the new state of its thread. Those that
-- are not the caller's any more are not among the rows. Threads are locked in their order: two callers don't wait for each other.
CREATE FUNCTION surgetank.complete_runs(the_runs uuid[], fences bigint[], the_actor text)
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
        WHERE r.run_id = u.run_id AND r.fence = u.fence AND r.status = 'running' RETURNING r.*
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
    RETURN QUERY SELECT unnest(ids), unnest(rests);
END
$$;
