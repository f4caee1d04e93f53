-- The views that analysts read (app/analysts.py makes them, in this order, with each analyst that is added). Columns may only be added,
-- at the end. A migration that can't have them drops the schema surgetank_views first.
--
-- security_barrier: what a query asks is evaluated on rows that passed the view's own predicate, unless it is known to tell nothing.
-- Views read tables with the rights of their owner, and call no function of ours: those are called with the rights of who asks.
-- {key} is the setting owner_key, {body} a relation of app/relations.sql.

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

-- name: of_threads
-- A relation whose rows are of threads.
CREATE OR REPLACE VIEW surgetank_views.{name} WITH (security_barrier) AS
SELECT q.* FROM ({body}) q
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
    OR q.thread_id IN (SELECT o.thread_id FROM surgetank.analyst_threads o)

-- name: audit
-- Only for those who see everybody's data: it names people of all threads.
CREATE OR REPLACE VIEW surgetank_views.audit WITH (security_barrier) AS
SELECT l.id, l.at, l.action, l.actor, l.thread_id, l.workflow_id, l.run_id, l.detail, l.origin
FROM surgetank.audit_log l
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)

-- name: jobs
-- What flushes of user tables have committed, which concern many users each. Columns that system.jobs has mean the same.
CREATE OR REPLACE VIEW surgetank_views.jobs WITH (security_barrier) AS
SELECT j.job_id AS id, 'tables'::text AS stream, j.trigger, j.node, j.at AS finished_at, (j.outcome ->> 'changes')::bigint AS rows_flushed,
    (j.outcome ->> 'bytes')::bigint AS bytes, j.outcome AS result, n.name AS namespace_id, t.name AS table_name, j.snapshot_id
FROM surgetank.table_jobs j
LEFT JOIN surgetank.tables t USING (table_id)
LEFT JOIN surgetank.table_namespaces n USING (namespace_id)
WHERE EXISTS (SELECT FROM surgetank.analysts a WHERE a.role_name = session_user AND a.everyone)
