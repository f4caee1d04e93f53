-- The schema `system` of SQL (app/relations.py): what administrators may select from. Each is read within
-- SELECT columns FROM (...) WHERE thread_id = ... LIMIT ...

-- name: threads
SELECT c.thread_id, s.owner, s.status, s.assistant_id, s.metadata, s.interrupts, s.error, c.checkpoint_id, c.state,
    least(c.created_at, s.created_at) AS created_at, greatest(c.updated_at, s.updated_at) AS updated_at
FROM surgetank.threads c LEFT JOIN surgetank.thread_status s ON s.thread_id = c.thread_id COLLATE "default"

-- name: checkpoints
SELECT n.thread_id, n.checkpoint_ns, c.checkpoint_id, c.parent_id, c.written_at, c.metadata, c.scalars
FROM surgetank.checkpoints c JOIN surgetank.checkpoint_namespaces n USING (ns_pk)

-- name: thread_logs
SELECT l.thread_id, l.seq, l.level, l.created_at, l.logger, l.user_id, l.message, l.fields FROM surgetank.thread_logs l

-- name: system_errors
SELECT e.id, e.error_type, e.severity, e.thread_id, e.error_message, e.stack_trace, e.error_context, e.created_at,
    e.resolved_at, e.resolved_by, e.resolution_notes, e.fingerprint, e.occurrences, e.first_seen, e.last_seen
FROM surgetank.system_errors e

-- name: workflows
SELECT w.workflow_id, w.thread_id, w.assistant_id, w.owner, w.status, w.error, w.created_at, w.updated_at, w.ended_at
FROM surgetank.workflows w

-- name: runs
-- Not what a run is given (kwargs): addresses and secrets of callers may be in it.
SELECT r.run_id, r.workflow_id, r.thread_id, r.assistant_id, r.owner, r.status, r.attempts, r.error, r.created_at, r.started_at,
    r.ended_at, r.metadata
FROM surgetank.runs r

-- name: user_checkpoints
SELECT q.checkpoint_id, q.checkpoint_number, q.thread_id, q.workflow_id, q.run_id, q.step_name, q.iteration, q.assistant_id,
    q.owner, q.kind, q.status, q.agent_outputs, q.instructions, q.actions, q.editable_content, q.user_edited_content, q.user_notes,
    q.assignee, q.created_at, q.resolved_at, q.resolved_by
FROM surgetank.user_checkpoints q
