-- Queries of system errors (streams/errors/). Parameters only; the index each relies on is named.

-- name: forget_threads_of_error
-- Primary key.
DELETE FROM surgetank.system_error_threads WHERE error_id = %(id)s::uuid AND thread_id = ANY (%(threads)s)

-- name: claim_errors
-- One writer per group until the end of the transaction, also for a group that has no row yet.
SELECT pg_advisory_xact_lock(731915204, hashtext(g.id))
FROM (SELECT id FROM unnest(%(ids)s::text[]) AS u (id) ORDER BY id) AS g

-- name: lock_errors
-- The rows of these groups, kept from others until the end of the transaction. Primary key.
SELECT *, extract(epoch FROM created_at)::float8 AS created, extract(epoch FROM last_seen)::float8 AS seen,
    extract(epoch FROM resolved_at)::float8 AS resolved, extract(epoch FROM regressed_at)::float8 AS regressed,
    extract(epoch FROM snoozed_until)::float8 AS snoozed
FROM surgetank.system_errors WHERE id = ANY (%(ids)s::uuid[]) ORDER BY id FOR UPDATE

-- name: store_error
-- Primary key.
INSERT INTO surgetank.system_errors AS e (
    id, error_type, severity, thread_id, error_message, stack_trace, error_context, created_at, resolved_at, resolved_by,
    resolution_notes, fingerprint, occurrences, last_seen, regressions, regressed_at, previous_resolution, snoozed_until,
    snoozed_by)
VALUES (
    %(id)s, %(error_type)s, %(severity)s, %(thread_id)s, %(error_message)s, %(stack_trace)s, %(error_context)s,
    to_timestamp(%(created_at)s), to_timestamp(%(resolved_at)s), %(resolved_by)s, %(resolution_notes)s, %(fingerprint)s,
    %(occurrences)s, to_timestamp(%(last_seen)s), %(regressions)s, to_timestamp(%(regressed_at)s),
    %(previous_resolution)s, to_timestamp(%(snoozed_until)s), %(snoozed_by)s)
ON CONFLICT (id) DO UPDATE SET
    error_type = excluded.error_type, severity = excluded.severity, thread_id = excluded.thread_id,
    error_message = excluded.error_message, stack_trace = excluded.stack_trace, error_context = excluded.error_context,
    created_at = excluded.created_at, resolved_at = excluded.resolved_at, resolved_by = excluded.resolved_by,
    resolution_notes = excluded.resolution_notes, occurrences = excluded.occurrences, last_seen = excluded.last_seen,
    regressions = excluded.regressions, regressed_at = excluded.regressed_at,
    previous_resolution = excluded.previous_resolution, snoozed_until = excluded.snoozed_until,
    snoozed_by = excluded.snoozed_by

-- name: delete_errors
-- Primary key.
DELETE FROM surgetank.system_errors WHERE id = ANY (%(ids)s::uuid[])

-- name: count_threads
-- Primary key.
INSERT INTO surgetank.system_error_threads AS t (error_id, thread_id, occurrences, first_seen, last_seen)
SELECT u.id, u.thread, u.n, to_timestamp(u.first), to_timestamp(u.last)
FROM unnest(%(ids)s::uuid[], %(threads)s::text[], %(counts)s::bigint[], %(firsts)s::float8[], %(lasts)s::float8[])
    AS u (id, thread, n, first, last)
ON CONFLICT (error_id, thread_id) DO UPDATE SET
    occurrences = t.occurrences + excluded.occurrences, first_seen = least(t.first_seen, excluded.first_seen),
    last_seen = greatest(t.last_seen, excluded.last_seen)

-- name: count_hours
-- Primary key.
INSERT INTO surgetank.system_error_hours AS h (error_id, hour, occurrences)
SELECT u.id, to_timestamp(u.hour), u.n
FROM unnest(%(ids)s::uuid[], %(hours)s::float8[], %(counts)s::bigint[]) AS u (id, hour, n)
ON CONFLICT (hour, error_id) DO UPDATE SET occurrences = h.occurrences + excluded.occurrences

-- name: audit
INSERT INTO surgetank.system_error_audit (error_id, at, actor, action, notes, detail)
VALUES (%(error_id)s, to_timestamp(%(at)s), %(actor)s, %(action)s, %(notes)s, %(detail)s)

-- name: find_errors
-- A page, newest first. system_errors_last_seen_idx, system_errors_unresolved_idx.
SELECT e.*, extract(epoch FROM created_at)::float8 AS created, extract(epoch FROM last_seen)::float8 AS seen,
    extract(epoch FROM resolved_at)::float8 AS resolved, extract(epoch FROM regressed_at)::float8 AS regressed,
    extract(epoch FROM snoozed_until)::float8 AS snoozed
FROM surgetank.system_errors e
WHERE (%(error_type)s::text IS NULL OR error_type = %(error_type)s)
    AND (%(severity)s::text IS NULL OR severity = %(severity)s)
    AND (%(resolved)s::bool IS NULL OR (resolved_at IS NOT NULL) = %(resolved)s)
    AND (%(since)s::float8 IS NULL OR last_seen >= to_timestamp(%(since)s))
    AND (%(until)s::float8 IS NULL OR last_seen < to_timestamp(%(until)s))
    AND (%(text)s::text IS NULL OR strpos(lower(error_message || ' ' || error_type), lower(%(text)s)) > 0)
    AND (%(thread_id)s::text IS NULL OR EXISTS (
        SELECT FROM surgetank.system_error_threads t WHERE t.error_id = e.id AND t.thread_id = %(thread_id)s))
    AND NOT id = ANY (%(except_ids)s::uuid[])
    AND (%(cursor_at)s::float8 IS NULL OR (last_seen, id) < (to_timestamp(%(cursor_at)s), %(cursor_id)s::uuid))
ORDER BY last_seen DESC, id DESC LIMIT %(limit)s

-- name: error_bases
-- What the database knows of these groups, and up to which of this buffer's entries, in one statement: what is hot can
-- then be folded on exactly once. Primary keys.
SELECT u.name, coalesce(p.seq, 0) AS written, p.epochs, e.*, extract(epoch FROM e.created_at)::float8 AS created,
    extract(epoch FROM e.last_seen)::float8 AS seen, extract(epoch FROM e.resolved_at)::float8 AS resolved,
    extract(epoch FROM e.regressed_at)::float8 AS regressed, extract(epoch FROM e.snoozed_until)::float8 AS snoozed
FROM unnest(%(ids)s::uuid[], %(names)s::text[]) AS u (id, name)
LEFT JOIN surgetank.system_errors e ON e.id = u.id
LEFT JOIN surgetank.partition_progress p
    ON p.buffer_id = %(buffer_id)s AND p.stream = 'system_errors' AND p.partition = u.name

-- name: errors_of_thread
-- Primary key.
SELECT error_id FROM surgetank.system_error_threads
WHERE error_id = ANY (%(ids)s::uuid[]) AND thread_id = %(thread_id)s

-- name: error_threads
-- The threads that an error touched, newest first. Primary key.
SELECT thread_id, occurrences, extract(epoch FROM first_seen)::float8 AS first, extract(epoch FROM last_seen)::float8 AS last
FROM surgetank.system_error_threads WHERE error_id = %(id)s ORDER BY last_seen DESC LIMIT %(limit)s

-- name: error_audit
-- system_error_audit_error_idx.
SELECT extract(epoch FROM at)::float8 AS at, actor, action, notes, detail
FROM surgetank.system_error_audit WHERE error_id = %(id)s ORDER BY audit_id

-- name: error_counts
SELECT error_type, severity, count(*) AS groups, sum(occurrences)::bigint AS occurrences,
    count(*) FILTER (WHERE resolved_at IS NULL) AS unresolved
FROM surgetank.system_errors WHERE NOT id = ANY (%(except_ids)s::uuid[]) GROUP BY error_type, severity

-- name: error_trends
-- system_error_hours' primary key.
SELECT extract(epoch FROM date_trunc(%(bucket)s, h.hour, 'UTC'))::float8 AS at, e.error_type, e.severity,
    sum(h.occurrences)::bigint AS occurrences
FROM surgetank.system_error_hours h JOIN surgetank.system_errors e ON e.id = h.error_id
WHERE h.hour >= to_timestamp(%(since)s) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- name: hours_of_error
-- Index system_error_hours_error_idx.
SELECT extract(epoch FROM hour)::float8 AS at, occurrences FROM surgetank.system_error_hours
WHERE error_id = %(id)s::uuid AND hour >= to_timestamp(%(since)s) ORDER BY hour

-- name: troubled_threads
-- Threads with several unresolved errors. system_error_threads_thread_idx.
SELECT t.thread_id, count(*) AS errors, sum(t.occurrences)::bigint AS occurrences,
    extract(epoch FROM max(t.last_seen))::float8 AS last
FROM surgetank.system_error_threads t JOIN surgetank.system_errors e ON e.id = t.error_id
WHERE e.resolved_at IS NULL GROUP BY t.thread_id HAVING count(*) >= %(at_least)s
ORDER BY errors DESC, last DESC LIMIT %(limit)s
