-- usable from: 0022
-- A run's fence is a number of its thread: each claim gives a greater one than all claims of the thread before. Buffers keep the
-- greatest and refuse what older ones write. It is at least the time in microseconds, so that it grows also when the thread was
-- deleted and made again, and when the database was restored from a backup.
ALTER TABLE surgetank.thread_status ADD COLUMN fence bigint NOT NULL DEFAULT 0;

-- Claim due runs: of each thread the next one, of threads where none runs. Threads are locked, not runs: who claims run rows
-- alone starts two runs of one thread. What is to be rolled back goes first. `graphs` (NULL: all) are those that the worker has;
-- `most_of_assistant` (NULL: any number) bounds how many runs of an assistant are under way at once.
CREATE OR REPLACE FUNCTION surgetank.claim_runs(
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
        SELECT 'run_claimed', surgetank.number_of('actor', the_worker), surgetank.number_of('thread', c.thread_id),
            c.workflow_id, c.run_id, jsonb_build_object('attempt', c.attempts)
        FROM claimed c
    )
    SELECT * FROM claimed c ORDER BY c.priority DESC, c.seq;
END
$$;
