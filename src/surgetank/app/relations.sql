-- The schema `system` of SQL (app/relations.py), and what views of analysts show of it (app/analysts.py): one text for both, so that a
-- column has one name and one meaning. Callers read SELECT columns FROM (...) WHERE thread_id = ... LIMIT ...; {key} is owner_key.

-- name: threads
SELECT c.thread_id,
    coalesce(
        s.owner,
        (SELECT k.metadata ->> {key} FROM surgetank.checkpoint_namespaces n JOIN surgetank.checkpoints k USING (ns_pk)
         WHERE n.thread_id = c.thread_id AND n.checkpoint_ns = '' AND k.metadata ->> {key} IS NOT NULL ORDER BY k.checkpoint_id LIMIT 1),
        (SELECT k.metadata ->> {key} FROM surgetank.checkpoint_namespaces n JOIN surgetank.checkpoints k USING (ns_pk)
         WHERE n.thread_id = c.thread_id AND k.metadata ->> {key} IS NOT NULL ORDER BY k.checkpoint_id LIMIT 1)
    ) AS owner,
    s.status, s.assistant_id, s.metadata, s.interrupts, s.error, least(c.created_at, s.created_at) AS created_at,
    greatest(c.updated_at, s.updated_at) AS updated_at, c.checkpoint_id, c.state
FROM surgetank.threads c LEFT JOIN surgetank.thread_status s ON s.thread_id = c.thread_id COLLATE "default"
UNION ALL
SELECT s.thread_id COLLATE "C", s.owner, s.status, s.assistant_id, s.metadata, s.interrupts, s.error, s.created_at, s.updated_at,
    NULL::text COLLATE "C", NULL::jsonb
FROM surgetank.thread_status s
WHERE NOT EXISTS (SELECT FROM surgetank.threads c WHERE c.thread_id = s.thread_id COLLATE "C")

-- name: checkpoints
SELECT n.thread_id, n.checkpoint_ns, c.checkpoint_id, c.parent_id, c.written_at, c.metadata, c.scalars, t.state
FROM surgetank.checkpoints c
JOIN surgetank.checkpoint_namespaces n USING (ns_pk)
LEFT JOIN surgetank.threads t ON t.thread_id = n.thread_id AND t.checkpoint_id = c.checkpoint_id AND n.checkpoint_ns = ''

-- name: thread_logs
SELECT l.thread_id, l.seq, l.level, l.created_at, l.logger, l.user_id, l.message, l.fields, l.buffer_id
FROM surgetank.thread_logs l

-- name: system_errors
SELECT e.id, e.error_type, e.severity, e.thread_id, e.error_message, e.stack_trace, e.error_context, e.created_at, e.resolved_at,
    e.resolved_by, e.resolution_notes, e.fingerprint, e.occurrences, e.first_seen, e.last_seen, e.regressions, e.regressed_at,
    e.snoozed_until, e.snoozed_by
FROM surgetank.system_errors e

-- name: workflows
SELECT w.workflow_id, w.thread_id, w.assistant_id, w.owner, w.status, w.error, w.created_at, w.updated_at, w.ended_at
FROM surgetank.workflows w

-- name: runs
-- Not what a run is given (kwargs): addresses and secrets of callers may be in it.
SELECT r.run_id, r.workflow_id, r.thread_id, r.assistant_id, r.owner, r.status, r.multitask_strategy, r.priority, r.metadata,
    r.attempts, r.max_attempts, r.timeout_s, r.timed_out, r.cancel_action, r.error, r.created_at, r.due_at, r.started_at,
    r.updated_at, r.ended_at
FROM surgetank.runs r

-- name: user_checkpoints
SELECT q.checkpoint_id, q.checkpoint_number, q.interrupt_id, q.thread_id, q.workflow_id, q.run_id, q.step_name, q.iteration,
    q.assistant_id, q.owner, q.kind, q.status, q.agent_outputs, q.instructions, q.actions, q.editable_content, q.response_schema,
    q.user_edited_content, q.user_notes, q.diff, q.assignee, q.assigned_role, q.approvals_needed, q.expires_at, q.escalated_at,
    q.created_at, q.resolved_at, q.resolved_by
FROM surgetank.user_checkpoints q

-- name: files
-- Live ones. Index table_files_live.
SELECT f.file_id, n.name AS namespace_id, t.name AS table_name, f.path, f.rows, d.rows AS deleted_rows, f.bytes, f.min_user, f.max_user,
    f.schema_version, s.at AS created_at
FROM surgetank.table_files f
JOIN surgetank.tables t USING (table_id)
JOIN surgetank.table_namespaces n USING (namespace_id)
LEFT JOIN surgetank.table_delete_files d ON d.file_id = f.file_id AND d.end_snapshot IS NULL
LEFT JOIN surgetank.table_snapshots s ON s.snapshot_id = f.begin_snapshot
WHERE f.end_snapshot IS NULL

-- name: storages
SELECT g.storage AS storage_id, g.root FROM surgetank.table_storages g

-- name: users
-- Those who have tokens.
SELECT k.user_name, surgetank.token_role(k.role, k.reads_only) AS role, count(*) FILTER (WHERE k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true)) AS usable_tokens,
    min(k.created_at) AS created_at, max(k.last_used_at) AS last_used_at
FROM surgetank.api_tokens k GROUP BY 1, 2

-- name: recorded_owners
-- Owners that outlive the checkpoints of their threads. Primary key.
SELECT s.thread_id COLLATE "C" AS thread_id, s.owner FROM surgetank.thread_status s

-- name: own_threads
-- Threads of one user, by the rule of server/access/threads.sql. Indexes checkpoints_owner_idx (read once for each namespace),
-- thread_status_by_owner, unique (thread_id, checkpoint_ns).
WITH RECURSIVE mine (ns_pk) AS (
    (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> %(key)s = %(user)s ORDER BY c.ns_pk LIMIT 1)
    UNION ALL
    SELECT (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> %(key)s = %(user)s AND c.ns_pk > m.ns_pk
        ORDER BY c.ns_pk LIMIT 1)
    FROM mine m WHERE m.ns_pk IS NOT NULL
), named AS MATERIALIZED (SELECT DISTINCT n.thread_id FROM mine m JOIN surgetank.checkpoint_namespaces n USING (ns_pk))
SELECT t.thread_id COLLATE "C" AS thread_id FROM surgetank.thread_status t WHERE t.owner = %(user)s
UNION
SELECT n.thread_id FROM named n
WHERE coalesce(
    (SELECT t.owner FROM surgetank.thread_status t WHERE t.thread_id = n.thread_id COLLATE "default"),
    (SELECT c.metadata ->> %(key)s FROM surgetank.checkpoint_namespaces r JOIN surgetank.checkpoints c USING (ns_pk)
     WHERE r.thread_id = n.thread_id AND r.checkpoint_ns = '' AND c.metadata ->> %(key)s IS NOT NULL ORDER BY c.checkpoint_id LIMIT 1),
    (SELECT c.metadata ->> %(key)s FROM surgetank.checkpoint_namespaces r JOIN surgetank.checkpoints c USING (ns_pk)
     WHERE r.thread_id = n.thread_id AND c.metadata ->> %(key)s IS NOT NULL ORDER BY c.checkpoint_id LIMIT 1)
) = %(user)s
