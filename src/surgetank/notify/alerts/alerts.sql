-- Queries of the alert rules (notify/alerts/facts.py).

-- name: snoozed
-- Which errors nobody wants to be alerted of just now. system_errors_unresolved_idx.
SELECT id::text AS id, extract(epoch FROM snoozed_until)::float8 AS until
FROM surgetank.system_errors
WHERE resolved_at IS NULL AND snoozed_until > to_timestamp(%(now)s)
ORDER BY last_seen DESC LIMIT %(limit)s

-- name: threads_with_errors
-- Threads with several unresolved errors of late, and the named ones with any. system_errors_unresolved_idx.
SELECT t.thread_id, array_agg(e.id::text) AS errors, extract(epoch FROM max(t.last_seen))::float8 AS last
FROM surgetank.system_errors e JOIN surgetank.system_error_threads t ON t.error_id = e.id
WHERE e.resolved_at IS NULL AND (e.snoozed_until IS NULL OR e.snoozed_until <= to_timestamp(%(now)s))
    AND e.last_seen >= to_timestamp(%(since)s) AND t.last_seen >= to_timestamp(%(since)s)
    AND NOT e.id = ANY (%(except_ids)s::uuid[])
GROUP BY t.thread_id HAVING count(*) >= %(at_least)s OR t.thread_id = ANY (%(threads)s::text[])
ORDER BY count(*) DESC, 3 DESC LIMIT %(limit)s
