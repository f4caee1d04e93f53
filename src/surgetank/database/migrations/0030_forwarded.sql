-- usable from: 0022
-- A run's data has left the buffer: that is noted once, by the home of the buffer. Gives the runs that need no more of this.
-- Only ends of chains are locked, and one that is locked is left for the next time: the thread stays free for claims, and who waits for
-- nothing while it holds a lock is in no deadlock. That is also why names are looked up first.
CREATE FUNCTION surgetank.note_saved(the_runs uuid[], actor text) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
DECLARE
    run record;
BEGIN
    PERFORM surgetank.number_of('origin', surgetank.number_of('actor', actor) || '@' || left(actor, 200));
    RETURN QUERY SELECT u.id FROM unnest(the_runs) AS u (id) WHERE NOT EXISTS (SELECT FROM surgetank.runs r WHERE r.run_id = u.id);
    FOR run IN
        SELECT r.run_id, r.workflow_id, r.thread_id FROM surgetank.runs r
        JOIN surgetank.audit_names n ON n.kind = 'thread' AND n.name = r.thread_id
        JOIN surgetank.audit_heads h ON h.thread = n.number
        WHERE r.run_id = ANY (the_runs) FOR UPDATE OF h SKIP LOCKED
    LOOP
        IF NOT EXISTS (
            SELECT FROM surgetank.audit a
            WHERE a.workflow_id = run.workflow_id AND a.run_id = run.run_id AND a.action = 'run_saved'
        ) THEN
            PERFORM surgetank.note('run_saved', actor, run.thread_id, run.workflow_id, run.run_id, '{}');
        END IF;
        RETURN NEXT run.run_id;
    END LOOP;
END
$$;
