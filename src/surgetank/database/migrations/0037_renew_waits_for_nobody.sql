-- usable from: 0022
-- Renew leases: of each run that is still ours what its end was asked for. A run whose row somebody else has locked is ending, or its
-- end is asked for just now; it is renewed the next time. To wait for it while other rows are locked was a deadlock with whoever
-- ends several runs at once, and clients whose threads they were got an error.
CREATE OR REPLACE FUNCTION surgetank.renew_runs(the_runs uuid[], fences bigint[], lease_s double precision)
RETURNS TABLE (run_id uuid, cancel_action text) LANGUAGE sql AS $$
    WITH mine AS (
        SELECT r.run_id, r.cancel_action FROM unnest(the_runs, fences) AS u (run_id, fence)
        JOIN surgetank.runs r ON r.run_id = u.run_id AND r.fence = u.fence WHERE r.status = 'running'
    ), free AS (
        SELECT r.run_id FROM surgetank.runs r JOIN unnest(the_runs, fences) AS u (run_id, fence)
            ON r.run_id = u.run_id AND r.fence = u.fence
        WHERE r.status = 'running' FOR NO KEY UPDATE OF r SKIP LOCKED
    ), renewed AS (
        UPDATE surgetank.runs r SET lease_until = now() + make_interval(secs => lease_s)
        FROM free f WHERE r.run_id = f.run_id RETURNING r.run_id, r.cancel_action
    )
    SELECT m.run_id, coalesce(n.cancel_action, m.cancel_action) FROM mine m LEFT JOIN renewed n ON n.run_id = m.run_id
$$;
