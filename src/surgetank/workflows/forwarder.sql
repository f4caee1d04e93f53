-- Queries of the forwarder (workflows/forwarder.py).

-- name: news
-- Rows that were committed since a snapshot, and the snapshot of now: exactly those whose transaction was not over then, whatever
-- their numbers are. Index audit_by_xid.
SELECT s.now_seen, s.now_at, s.xmax < pg_snapshot_xmax(%(seen)s::pg_snapshot) AS another_server, n.* FROM (
    SELECT pg_current_snapshot()::text AS now_seen, pg_snapshot_xmax(pg_current_snapshot()) AS xmax,
        extract(epoch FROM now())::float8 AS now_at
) AS s LEFT JOIN LATERAL (
    SELECT a.xid::text AS xid, a.id, a.thread AS chain, a.nth, a.action, t.name AS thread_id, a.workflow_id, a.run_id, a.detail
    FROM surgetank.audit a LEFT JOIN surgetank.audit_names t ON t.number = a.thread
    WHERE a.thread <> 0 AND a.xid >= pg_snapshot_xmin(%(seen)s::pg_snapshot)
        AND (a.xid >= pg_snapshot_xmax(%(seen)s::pg_snapshot) OR a.xid = ANY (ARRAY(SELECT pg_snapshot_xip(%(seen)s::pg_snapshot))))
        AND (a.xid, a.id) > (%(xid)s::xid8, %(id)s)
        AND a.at > greatest(now() - interval '1 day', coalesce(to_timestamp(%(since)s), now() - interval '1 minute'))
    ORDER BY a.xid, a.id LIMIT %(limit)s
) AS n ON true

-- name: between
-- Rows of chains between two places: who came later in a chain may have the smaller transaction number. Index audit_chain.
SELECT a.id, a.thread AS chain, a.nth, a.action, t.name AS thread_id, a.workflow_id, a.run_id, a.detail
FROM unnest(%(chains)s::bigint[], %(after)s::bigint[], %(before)s::bigint[]) AS u (chain, after, before)
JOIN surgetank.audit a ON a.thread = u.chain AND a.nth > u.after AND a.nth < u.before
LEFT JOIN surgetank.audit_names t ON t.number = a.thread
WHERE a.at > greatest(now() - interval '1 day', to_timestamp(%(since)s))
ORDER BY a.thread, a.nth

-- name: still_there
-- Primary key.
SELECT a.id, a.xid::text AS xid FROM surgetank.audit a WHERE a.id = ANY (%(ids)s::bigint[])

-- name: note_saved
-- Primary keys, index audit_of_workflow.
SELECT run_id FROM surgetank.note_saved(%(runs)s::uuid[], surgetank.acting(%(actor)s, %(actor)s)) AS s (run_id)

-- name: unsaved
-- Runs of this buffer that were completed, and not yet known to be saved. Index audit_by_time.
SELECT a.run_id, t.name AS thread_id FROM surgetank.audit a JOIN surgetank.audit_names t ON t.number = a.thread
WHERE a.at > now() - interval '1 day' AND a.action = 'run_completed' AND a.detail ->> 'buffer' = %(buffer)s
    AND NOT EXISTS (SELECT FROM surgetank.audit s
        WHERE s.workflow_id = a.workflow_id AND s.run_id = a.run_id AND s.action = 'run_saved')
LIMIT 10000
