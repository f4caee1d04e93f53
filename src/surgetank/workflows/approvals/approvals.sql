-- User checkpoints (workflows/approvals/manager.py, 0029_user_checkpoints.sql).

-- name: answer
-- Answer, and accept the run that carries the answers. Primary keys, index user_checkpoints_open.
SELECT a.result, a.detail, (a.accepted).* FROM surgetank.answer_checkpoints(
    %(thread_id)s, %(answers)s, %(close_as)s, %(partial)s, %(if_held)s, %(is_expiry)s, %(run_id)s, %(assistant_id)s, %(graph_id)s,
    %(owner)s, %(kwargs)s, %(metadata)s, %(max_attempts)s, %(timeout_s)s, %(priority)s, surgetank.acting(%(actor)s, %(origin)s)
) AS a

-- name: close
-- Close what a thread asks. Index user_checkpoints_open.
SELECT surgetank.close_checkpoints(%(thread_id)s, %(why)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: expire
-- Close one that was never answered. Primary key.
SELECT surgetank.expire_checkpoint(%(checkpoint_id)s, surgetank.acting(%(actor)s, %(origin)s)) AS expired

-- name: get
-- One. Primary key.
SELECT * FROM surgetank.user_checkpoints WHERE checkpoint_id = %(checkpoint_id)s

-- name: of_thread
-- What a thread asks and asked, the newest last. Index user_checkpoints_of_thread.
SELECT * FROM (
    SELECT * FROM surgetank.user_checkpoints WHERE thread_id = %(thread_id)s ORDER BY checkpoint_number DESC LIMIT 1000
) AS newest ORDER BY checkpoint_number

-- name: of_workflow
-- What a workflow asked. Index user_checkpoints_of_workflow.
SELECT * FROM surgetank.user_checkpoints WHERE workflow_id = %(workflow_id)s ORDER BY checkpoint_number LIMIT 1000

-- name: search
-- Those that wait longest first. Indexes user_checkpoints_inbox, user_checkpoints_of_thread, user_checkpoints_expiring.
SELECT * FROM surgetank.user_checkpoints
WHERE (%(status)s::text IS NULL OR status = %(status)s) AND (%(kind)s::text IS NULL OR kind = %(kind)s)
    AND (%(assignee)s::text IS NULL OR assignee = %(assignee)s) AND (%(role)s::text IS NULL OR assigned_role = %(role)s)
    AND (%(step)s::text IS NULL OR step_name = %(step)s)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s)
    AND (%(owner)s::text IS NULL OR owner = %(owner)s OR assignee = %(owner)s OR assigned_role = ANY (%(roles)s))
    AND (%(expires_before)s::timestamptz IS NULL OR expires_at < %(expires_before)s)
    AND checkpoint_number > %(after)s
ORDER BY checkpoint_number LIMIT %(limit)s

-- name: waiting
-- What is open: what expires first, then what waits longest. Index user_checkpoints_expiring.
SELECT * FROM surgetank.user_checkpoints
WHERE status = 'pending'
    AND (%(owner)s::text IS NULL OR owner = %(owner)s OR assignee = %(owner)s OR assigned_role = ANY (%(roles)s))
    AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(step)s::text IS NULL OR step_name = %(step)s)
    AND (%(assignee)s::text IS NULL OR assignee = %(assignee)s)
    AND (%(after)s::bigint IS NULL OR (coalesce(expires_at, 'infinity'), checkpoint_number)
        > (coalesce(%(after_at)s::timestamptz, 'infinity'), %(after)s))
ORDER BY expires_at, checkpoint_number LIMIT %(limit)s

-- name: closed
-- What was decided or closed otherwise, the newest question first. Index user_checkpoints_closed.
SELECT * FROM surgetank.user_checkpoints
WHERE status <> 'pending' AND checkpoint_number < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
    AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(step)s::text IS NULL OR step_name = %(step)s)
ORDER BY checkpoint_number DESC LIMIT %(limit)s

-- name: closed_assigned
-- Of these what was assigned to a user. Index user_checkpoints_closed_assigned.
SELECT * FROM surgetank.user_checkpoints
WHERE status <> 'pending' AND checkpoint_number < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
    AND assignee = %(assignee)s
    AND (%(owner)s::text IS NULL OR owner = %(owner)s OR assignee = %(owner)s OR assigned_role = ANY (%(roles)s))
    AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(step)s::text IS NULL OR step_name = %(step)s)
ORDER BY checkpoint_number DESC LIMIT %(limit)s

-- name: closed_of
-- Of these what concerns a user: owned by, assigned to, or to a role of theirs; each way by an index of its own, in order.
-- Indexes user_checkpoints_closed_of, user_checkpoints_closed_assigned, user_checkpoints_closed_role.
WITH found AS (
    (SELECT * FROM surgetank.user_checkpoints
    WHERE status <> 'pending' AND checkpoint_number < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
        AND owner = %(owner)s
        AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
        AND (%(step)s::text IS NULL OR step_name = %(step)s)
    ORDER BY checkpoint_number DESC LIMIT %(limit)s)
    UNION ALL
    (SELECT * FROM surgetank.user_checkpoints
    WHERE status <> 'pending' AND checkpoint_number < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
        AND assignee = %(owner)s AND owner IS DISTINCT FROM %(owner)s
        AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
        AND (%(step)s::text IS NULL OR step_name = %(step)s)
    ORDER BY checkpoint_number DESC LIMIT %(limit)s)
    UNION ALL
    SELECT c.* FROM (SELECT DISTINCT unnest(%(roles)s::text[]) AS role) AS r, LATERAL (
        SELECT * FROM surgetank.user_checkpoints
        WHERE status <> 'pending' AND checkpoint_number < %(before)s AND (%(status)s::text IS NULL OR status = %(status)s)
            AND assigned_role = r.role AND owner IS DISTINCT FROM %(owner)s AND assignee IS DISTINCT FROM %(owner)s
            AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
            AND (%(step)s::text IS NULL OR step_name = %(step)s)
        ORDER BY checkpoint_number DESC LIMIT %(limit)s) AS c)
SELECT * FROM found ORDER BY checkpoint_number DESC LIMIT %(limit)s

-- name: assign
-- Say who shall answer. Primary key.
UPDATE surgetank.user_checkpoints SET assignee = %(assignee)s, assigned_role = %(role)s
WHERE checkpoint_id = %(checkpoint_id)s AND status = 'pending'
RETURNING surgetank.note('checkpoint_assigned', surgetank.acting(%(actor)s, %(origin)s), thread_id, workflow_id, run_id,
    jsonb_build_object('checkpoint_id', checkpoint_id, 'assignee_digest', md5(%(assignee)s), 'role', %(role)s::text))

-- name: due
-- Those whose time is over. Index user_checkpoints_expiring.
SELECT * FROM surgetank.user_checkpoints WHERE status = 'pending' AND expires_at <= now() ORDER BY expires_at LIMIT 100

-- name: escalate
-- Those that wait longer than they should, each once. Index user_checkpoints_inbox.
UPDATE surgetank.user_checkpoints SET escalated_at = now()
WHERE status = 'pending' AND escalated_at IS NULL AND created_at < now() - make_interval(secs => %(after_s)s) RETURNING *

-- name: stats
-- Outcomes by assistant and step. Index user_checkpoints_by_step.
SELECT assistant_id, step_name, count(*) AS asked,
    count(*) FILTER (WHERE status = 'pending') AS pending, count(*) FILTER (WHERE status = 'approved') AS approved,
    count(*) FILTER (WHERE status = 'edited') AS edited, count(*) FILTER (WHERE status = 'rejected') AS rejected,
    count(*) FILTER (WHERE status = 'responded') AS responded, count(*) FILTER (WHERE status = 'ignored') AS ignored,
    count(*) FILTER (WHERE status = 'expired') AS expired, count(*) FILTER (WHERE status = 'superseded') AS superseded,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at))
        FILTER (WHERE status IN ('approved', 'edited', 'rejected', 'responded', 'ignored')) AS p50_s,
    percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM resolved_at - created_at))
        FILTER (WHERE status IN ('approved', 'edited', 'rejected', 'responded', 'ignored')) AS p95_s
FROM surgetank.user_checkpoints c
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s) AND created_at >= now() - make_interval(secs => %(since_s)s)
    AND (%(metadata)s::jsonb IS NULL OR EXISTS (
        SELECT FROM surgetank.thread_status t WHERE t.thread_id = c.thread_id AND t.metadata @> %(metadata)s::jsonb))
GROUP BY assistant_id, step_name ORDER BY asked DESC LIMIT 1000

-- name: workflows
-- Workflows, newest first. Indexes workflows_by_status, workflows_by_thread.
SELECT * FROM surgetank.workflows
WHERE (%(status)s::text IS NULL OR status = %(status)s) AND (%(assistant_id)s::text IS NULL OR assistant_id = %(assistant_id)s)
    AND (%(thread_id)s::text IS NULL OR thread_id = %(thread_id)s) AND (%(owner)s::text IS NULL OR owner = %(owner)s)
    AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
    AND (%(before_at)s::timestamptz IS NULL OR (created_at, workflow_id) < (%(before_at)s, %(before_id)s::uuid))
ORDER BY created_at DESC, workflow_id DESC LIMIT %(limit)s

-- name: workflow
-- One workflow. Primary key.
SELECT * FROM surgetank.workflows WHERE workflow_id = %(workflow_id)s

-- name: runs_of_workflow
-- Its runs, in order. Index runs_of_workflow.
SELECT * FROM surgetank.runs WHERE workflow_id = %(workflow_id)s ORDER BY seq LIMIT 1000

-- name: cancel_waiting
-- End one that waits for people. Primary key.
SELECT surgetank.cancel_waiting(%(workflow_id)s, surgetank.acting(%(actor)s, %(origin)s)) AS result
