-- The views that analysts read (app/analysts.py makes them, in this order, with each analyst that is added). Columns may only be added,
-- at the end. A migration that can't have them drops the schema surgetank_views first.
--
-- security_barrier: what a query asks is evaluated on rows that passed the view's own predicate, unless it is known to tell nothing.
-- Views read tables with the rights of their owner, and call no function of ours: those are called with the rights of who asks.
-- {key} is the setting owner_key.

-- name: schema
CREATE SCHEMA IF NOT EXISTS surgetank_views;
COMMENT ON SCHEMA surgetank_views IS 'What analysts read: each sees the rows of the users that it was given (surgetank analyst list).'

-- name: threads_of_analyst
-- Threads of the users that the session's role was given, by the rule of server/access/threads.sql. Indexes checkpoints_owner_idx (read
-- once for each namespace), thread_status_by_owner, unique (thread_id, checkpoint_ns).
CREATE OR REPLACE VIEW surgetank.analyst_threads AS
WITH RECURSIVE people AS (
    SELECT u.user_name FROM surgetank.analyst_users u WHERE u.role_name = session_user
), mine (user_name, ns_pk) AS (
    SELECT p.user_name, (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> {key} = p.user_name
        ORDER BY c.ns_pk LIMIT 1) FROM people p
    UNION ALL
    SELECT m.user_name, (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> {key} = m.user_name AND c.ns_pk > m.ns_pk
        ORDER BY c.ns_pk LIMIT 1) FROM mine m WHERE m.ns_pk IS NOT NULL
), named AS MATERIALIZED (
    SELECT DISTINCT m.user_name, n.thread_id FROM mine m JOIN surgetank.checkpoint_namespaces n USING (ns_pk)
)
SELECT t.thread_id COLLATE "C" AS thread_id FROM surgetank.thread_status t JOIN people p ON t.owner = p.user_name
UNION
SELECT n.thread_id FROM named n
WHERE coalesce(
    (SELECT t.owner FROM surgetank.thread_status t WHERE t.thread_id = n.thread_id COLLATE "default"),
    (SELECT c.metadata ->> {key} FROM surgetank.checkpoint_namespaces r JOIN surgetank.checkpoints c USING (ns_pk)
     WHERE r.thread_id = n.thread_id AND r.checkpoint_ns = '' AND c.metadata ->> {key} IS NOT NULL ORDER BY c.checkpoint_id LIMIT 1),
    (SELECT c.metadata ->> {key} FROM surgetank.checkpoint_namespaces r JOIN surgetank.checkpoints c USING (ns_pk)
     WHERE r.thread_id = n.thread_id AND c.metadata ->> {key} IS NOT NULL ORDER BY c.checkpoint_id LIMIT 1)
) = n.user_name

-- name: threads
CREATE OR REPLACE VIEW surgetank_views.threads WITH (security_barrier) AS
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
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR c.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)
UNION ALL
SELECT s.thread_id COLLATE "C", s.owner, s.status, s.assistant_id, s.metadata, s.interrupts, s.error, s.created_at, s.updated_at,
    NULL::text COLLATE "C", NULL::jsonb
FROM surgetank.thread_status s
WHERE NOT EXISTS (SELECT FROM surgetank.threads c WHERE c.thread_id = s.thread_id COLLATE "C")
    AND (EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
        OR s.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o))

-- name: checkpoints
CREATE OR REPLACE VIEW surgetank_views.checkpoints WITH (security_barrier) AS
SELECT n.thread_id, n.checkpoint_ns, c.checkpoint_id, c.parent_id, c.written_at, c.metadata, c.scalars, t.state
FROM surgetank.checkpoints c
JOIN surgetank.checkpoint_namespaces n USING (ns_pk)
LEFT JOIN surgetank.threads t ON t.thread_id = n.thread_id AND t.checkpoint_id = c.checkpoint_id AND n.checkpoint_ns = ''
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR n.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: thread_logs
CREATE OR REPLACE VIEW surgetank_views.thread_logs WITH (security_barrier) AS
SELECT l.thread_id, l.seq, l.level, l.created_at, l.logger, l.user_id, l.message, l.fields, l.buffer_id
FROM surgetank.thread_logs l
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR l.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: system_errors
CREATE OR REPLACE VIEW surgetank_views.system_errors WITH (security_barrier) AS
SELECT e.id, e.error_type, e.severity, e.thread_id, e.error_message, e.stack_trace, e.error_context, e.created_at, e.resolved_at,
    e.resolved_by, e.resolution_notes, e.fingerprint, e.occurrences, e.first_seen, e.last_seen, e.regressions, e.regressed_at,
    e.snoozed_until, e.snoozed_by
FROM surgetank.system_errors e
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR e.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: workflows
CREATE OR REPLACE VIEW surgetank_views.workflows WITH (security_barrier) AS
SELECT w.workflow_id, w.thread_id, w.assistant_id, w.owner, w.status, w.error, w.created_at, w.updated_at, w.ended_at
FROM surgetank.workflows w
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR w.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: runs
-- Not what a run is given (kwargs): addresses and secrets of callers may be in it.
CREATE OR REPLACE VIEW surgetank_views.runs WITH (security_barrier) AS
SELECT r.run_id, r.workflow_id, r.thread_id, r.assistant_id, r.owner, r.status, r.multitask_strategy, r.priority, r.metadata,
    r.attempts, r.max_attempts, r.timeout_s, r.timed_out, r.cancel_action, r.error, r.created_at, r.due_at, r.started_at,
    r.updated_at, r.ended_at
FROM surgetank.runs r
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR r.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: user_checkpoints
CREATE OR REPLACE VIEW surgetank_views.user_checkpoints WITH (security_barrier) AS
SELECT q.checkpoint_id, q.checkpoint_number, q.interrupt_id, q.thread_id, q.workflow_id, q.run_id, q.step_name, q.iteration,
    q.assistant_id, q.owner, q.kind, q.status, q.agent_outputs, q.instructions, q.actions, q.editable_content, q.response_schema,
    q.user_edited_content, q.user_notes, q.diff, q.assignee, q.assigned_role, q.approvals_needed, q.expires_at, q.escalated_at,
    q.created_at, q.resolved_at, q.resolved_by
FROM surgetank.user_checkpoints q
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR q.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: audit
-- Only for those who see everybody's data: it names people of all threads.
CREATE OR REPLACE VIEW surgetank_views.audit WITH (security_barrier) AS
SELECT l.id, l.at, l.action, l.actor, l.thread_id, l.workflow_id, l.run_id, l.detail, l.origin
FROM surgetank.audit_log l
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)

-- name: jobs
-- Flushes of user tables, which concern many users each.
CREATE OR REPLACE VIEW surgetank_views.jobs WITH (security_barrier) AS
SELECT j.* FROM surgetank.table_jobs j
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
