-- name: beat
-- Primary key.
INSERT INTO surgetank.workers AS w (worker_id, node, host, pid, roles, claims_as, buffer_id, version, since, beat_at, beat_s, stopping, report)
VALUES (%(id)s, %(node)s, %(host)s, %(pid)s, %(roles)s, %(claims_as)s, %(buffer)s, %(version)s,
    now() - %(age_s)s * interval '1 second', now(), %(every_s)s, %(stopping)s, %(report)s)
ON CONFLICT (worker_id) DO UPDATE SET roles = excluded.roles, claims_as = excluded.claims_as, beat_at = excluded.beat_at,
    stopping = excluded.stopping, report = excluded.report
-- name: leave
DELETE FROM surgetank.workers WHERE worker_id = %(id)s
-- name: forget
-- Those that were killed and nobody asks for any more.
DELETE FROM surgetank.workers WHERE beat_at < now() - interval '1 day'
-- name: list
-- With the runs that each has now, also the silent ones. Index runs_leased.
SELECT w.worker_id, w.node, w.host, w.pid, w.roles, w.buffer_id, w.version, w.stopping, w.report,
    extract(epoch FROM w.since)::float8 AS since,
    extract(epoch FROM w.beat_at)::float8 AS beat_at,
    extract(epoch FROM now() - w.beat_at)::float8 AS silent_s,
    now() - w.beat_at > greatest(3 * w.beat_s, 5) * interval '1 second' AS silent,
    (SELECT count(*) FROM surgetank.runs r WHERE r.status = 'running' AND r.worker = ANY (w.claims_as)) AS runs
FROM surgetank.workers w
ORDER BY silent, w.since, w.worker_id
