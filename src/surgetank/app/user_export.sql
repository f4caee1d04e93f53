-- Queries of exporting a user's data (app/user_export.py): each row is one line of JSON. What an erasure (app/erasure.sql)
-- removes is here, by the same conditions and indexes. Parameters only.

-- name: threads
SELECT to_jsonb(t) - 'state' AS line FROM surgetank.threads t WHERE t.thread_id = ANY (%(threads)s) ORDER BY t.thread_id

-- name: thread_status
SELECT to_jsonb(t) FROM surgetank.thread_status t WHERE t.thread_id = ANY (%(threads)s) OR t.owner = %(user)s ORDER BY t.thread_id

-- name: namespaces
SELECT n.thread_id, n.checkpoint_ns FROM surgetank.checkpoint_namespaces n WHERE n.thread_id = ANY (%(threads)s) ORDER BY 1, 2

-- name: logs
-- Lines of the user's threads, and those that the user wrote in threads of others.
SELECT to_jsonb(l) FROM surgetank.thread_logs l WHERE l.thread_id = ANY (%(threads)s) OR l.user_id = %(user)s
ORDER BY l.thread_id, l.seq

-- name: workflows
SELECT to_jsonb(w) FROM surgetank.workflows w WHERE w.thread_id = ANY (%(threads)s) OR w.owner = %(user)s
ORDER BY w.created_at, w.workflow_id

-- name: runs
SELECT to_jsonb(r) FROM surgetank.runs r
WHERE r.thread_id = ANY (%(threads)s) OR r.owner = %(user)s OR r.cancel_actor = %(user)s
ORDER BY r.created_at, r.run_id

-- name: approvals
SELECT to_jsonb(q) FROM surgetank.user_checkpoints q
WHERE q.thread_id = ANY (%(threads)s) OR %(user)s IN (q.owner, q.resolved_by, q.first_approver, q.assignee)
ORDER BY q.created_at, q.checkpoint_id

-- name: errors
SELECT to_jsonb(e) FROM surgetank.system_errors e
WHERE e.thread_id = ANY (%(threads)s) OR e.error_context ->> %(key)s = %(user)s
    OR e.id IN (SELECT t.error_id FROM surgetank.system_error_threads t WHERE t.thread_id = ANY (%(threads)s))
    OR %(user)s IN (e.resolved_by, e.snoozed_by)
ORDER BY e.first_seen, e.id

-- name: error_audit
SELECT to_jsonb(a) FROM surgetank.system_error_audit a WHERE a.actor = %(user)s ORDER BY a.at

-- name: audit
SELECT to_jsonb(a) FROM surgetank.audit_log a WHERE a.actor = %(user)s OR a.thread_id = ANY (%(threads)s) ORDER BY a.id

-- name: webhooks
SELECT to_jsonb(w) FROM surgetank.webhook_deliveries w WHERE w.owner = %(user)s OR w.run ->> 'cancel_actor' = %(user)s
ORDER BY w.delivery_id

-- name: assistants
SELECT to_jsonb(a) FROM surgetank.assistants a WHERE a.owner = %(user)s ORDER BY a.assistant_id

-- name: assistant_versions
SELECT to_jsonb(v) FROM surgetank.assistant_versions v JOIN surgetank.assistants a USING (assistant_id)
WHERE a.owner = %(user)s ORDER BY v.assistant_id, v.version

-- name: crons
SELECT to_jsonb(c) FROM surgetank.crons c WHERE c.owner = %(user)s ORDER BY c.cron_id

-- name: store
SELECT to_jsonb(i) - 'projection' FROM surgetank.store_items i
WHERE (i.path >= %(low)s AND i.path < %(high)s) OR (%(named)s AND position(%(label)s::text IN '.' || i.path) > 0)
ORDER BY i.path, i.key

-- name: tokens
-- Not what could be used to log in.
SELECT to_jsonb(k) - 'hash' FROM surgetank.api_tokens k
WHERE %(user)s IN (k.user_name, k.created_by, k.revoked_by) ORDER BY k.created_at, k.id

-- name: answers
SELECT jsonb_build_object('key', a.key, 'claimed_at', a.claimed_at, 'status', a.status, 'media_type', a.media_type,
    'body', encode(a.body, 'base64'))
FROM surgetank.idempotency_keys a
WHERE a.scope IN ('user:' || %(user)s, 'project:' || %(user)s)
    OR a.scope IN (SELECT 'token:' || k.id FROM surgetank.api_tokens k WHERE k.user_name = %(user)s)
ORDER BY a.claimed_at

-- name: rates
SELECT to_jsonb(r) FROM surgetank.run_rates r WHERE r.owner = %(user)s

-- name: analysts
SELECT to_jsonb(a) FROM surgetank.analyst_users a WHERE a.user_name = %(user)s ORDER BY a.role_name

-- name: owned_tables
SELECT to_jsonb(t) FROM surgetank.tables t WHERE t.owner = %(user)s ORDER BY t.table_id
