-- usable from: 0022
-- What graphs ask people: written in the transaction in which the run ends that asks, answered in the one that accepts the run
-- which carries the answer.
CREATE TABLE surgetank.user_checkpoints (
    checkpoint_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    checkpoint_number bigint GENERATED ALWAYS AS IDENTITY,
    interrupt_id text NOT NULL,
    thread_id text NOT NULL REFERENCES surgetank.thread_status ON DELETE CASCADE,
    workflow_id uuid NOT NULL REFERENCES surgetank.workflows ON DELETE CASCADE,
    run_id uuid NOT NULL,
    task_id text,
    step_name text,
    namespace jsonb NOT NULL DEFAULT '[]',
    iteration integer NOT NULL DEFAULT 1,
    assistant_id text NOT NULL,
    owner text,
    kind text NOT NULL CHECK (kind IN ('batched', 'tool_approval', 'agent_inbox', 'schema', 'free')),
    agent_outputs jsonb,
    instructions text,
    actions jsonb NOT NULL DEFAULT '[]',
    editable_content jsonb,
    response_schema jsonb,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'approved', 'edited', 'rejected', 'responded', 'ignored',
        'expired', 'superseded')),
    user_edited_content jsonb,
    user_notes text,
    resume jsonb,
    diff jsonb,
    assignee text,
    assigned_role text,
    approvals_needed integer NOT NULL DEFAULT 1 CHECK (approvals_needed BETWEEN 1 AND 2),
    first_approver text,
    first_approved_at timestamptz,
    expires_at timestamptz,
    default_action text CHECK (default_action IN ('approve', 'reject', 'ignore')),
    escalated_at timestamptz,
    delivered_by uuid,  -- the run that carries the answer
    created_at timestamptz NOT NULL DEFAULT now(),
    resolved_at timestamptz,
    resolved_by text
);
CREATE UNIQUE INDEX user_checkpoints_open ON surgetank.user_checkpoints (thread_id, interrupt_id) WHERE status = 'pending';
CREATE INDEX user_checkpoints_inbox ON surgetank.user_checkpoints (checkpoint_number) WHERE status = 'pending';
CREATE INDEX user_checkpoints_of_thread ON surgetank.user_checkpoints (thread_id, checkpoint_number);
CREATE INDEX user_checkpoints_of_workflow ON surgetank.user_checkpoints (workflow_id, checkpoint_number);
CREATE INDEX user_checkpoints_expiring ON surgetank.user_checkpoints (expires_at) WHERE status = 'pending';
CREATE INDEX user_checkpoints_by_step ON surgetank.user_checkpoints (assistant_id, step_name, created_at);

CREATE OR REPLACE FUNCTION surgetank.open_checkpoints(run surgetank.runs, asked jsonb, actor text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    each jsonb;
    offer jsonb;
    made uuid;
BEGIN
    FOR each IN SELECT * FROM jsonb_array_elements(asked) LOOP
        -- Answered already, but not delivered, because others are open: the answer is kept.
        CONTINUE WHEN EXISTS (
            SELECT FROM surgetank.user_checkpoints c WHERE c.thread_id = run.thread_id AND c.interrupt_id = each ->> 'id'
                AND c.workflow_id = run.workflow_id AND c.resolved_at IS NOT NULL AND c.resume IS NOT NULL
                AND c.delivered_by IS NULL
        );
        offer := coalesce(each -> 'offer', '{}');
        INSERT INTO surgetank.user_checkpoints AS c (
            interrupt_id, thread_id, workflow_id, run_id, task_id, step_name, namespace, iteration, assistant_id, owner, kind,
            agent_outputs, instructions, actions, editable_content, response_schema, assignee, assigned_role, approvals_needed,
            expires_at, default_action
        ) VALUES (
            each ->> 'id', run.thread_id, run.workflow_id, run.run_id, each ->> 'task_id', each ->> 'node',
            coalesce(each -> 'namespace', '[]'),
            1 + (SELECT count(*) FROM surgetank.user_checkpoints o WHERE o.workflow_id = run.workflow_id
                AND o.step_name IS NOT DISTINCT FROM each ->> 'node'),
            run.assistant_id, run.owner, coalesce(offer ->> 'kind', 'free'), each -> 'value', offer ->> 'instructions',
            coalesce(offer -> 'actions', '[]'), offer -> 'editable_content', each -> 'response_schema', offer ->> 'assignee',
            offer ->> 'role', coalesce((offer ->> 'approvals')::integer, 1),
            now() + make_interval(secs => (offer ->> 'expires_in')::float8), offer ->> 'default_action'
        )
        ON CONFLICT (thread_id, interrupt_id) WHERE status = 'pending' DO NOTHING
        RETURNING c.checkpoint_id INTO made;
        IF made IS NOT NULL THEN
            PERFORM surgetank.note('checkpoint_created', actor, run.thread_id, run.workflow_id, run.run_id,
                jsonb_build_object('checkpoint_id', made, 'kind', coalesce(offer ->> 'kind', 'free'), 'step', each ->> 'node',
                    'digest', md5((each -> 'value')::text)));
        END IF;
    END LOOP;
    -- What the graph does not ask any more.
    PERFORM surgetank.close_some(run.thread_id, 'superseded', actor,
        ARRAY(SELECT value ->> 'id' FROM jsonb_array_elements(asked)));
END
$$;

-- Close what a thread asks, except for the interrupts in `but`.
CREATE FUNCTION surgetank.close_some(the_thread text, why text, actor text, but text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    closed surgetank.user_checkpoints;
BEGIN
    FOR closed IN
        UPDATE surgetank.user_checkpoints c SET status = why, resolved_at = now(), resolved_by = actor
        WHERE c.thread_id = the_thread AND c.status = 'pending' AND NOT c.interrupt_id = ANY (but) RETURNING c.*
    LOOP
        PERFORM surgetank.note('checkpoint_' || why, actor, the_thread, closed.workflow_id, closed.run_id,
            jsonb_build_object('checkpoint_id', closed.checkpoint_id));
    END LOOP;
END
$$;
CREATE OR REPLACE FUNCTION surgetank.close_checkpoints(the_thread text, why text, actor text) RETURNS void LANGUAGE sql AS $$
    SELECT surgetank.close_some(the_thread, why, actor, '{}')
$$;

-- Answer what a thread asks, and accept the run that carries the answers, in one transaction.
-- `answers`: [{checkpoint_id, outcome, resume, edited, notes, diff}]. `close_as` closes what is open beside them. The graph goes on
-- when nothing is open any more, or with `partial`. Otherwise the run is accepted only `if_held`: it ends at once, asking still.
-- Results: 'accepted', 'held', 'second' (a second person is needed), or nothing was done: 'missing', 'answered', 'expired',
-- 'same_person' (`detail` names the row, and who answered it), or what accept_run refuses.
CREATE FUNCTION surgetank.answer_checkpoints(
    the_thread text, answers jsonb, close_as text, partial boolean, if_held boolean, is_expiry boolean, the_run uuid,
    the_assistant text, the_graph text, the_owner text, the_kwargs jsonb, the_metadata jsonb, most_attempts integer,
    the_timeout double precision, the_priority integer, actor text
) RETURNS TABLE (result text, detail text, accepted surgetank.runs) LANGUAGE plpgsql AS $$
DECLARE
    each jsonb;
    question surgetank.user_checkpoints;
    flow uuid;
    map jsonb;
    still integer;
    second boolean := false;
    kwargs jsonb := the_kwargs;
    made record;
BEGIN
    PERFORM FROM surgetank.thread_status t WHERE t.thread_id = the_thread FOR UPDATE;
    SELECT r.* INTO accepted FROM surgetank.runs r WHERE r.run_id = the_run AND r.thread_id = the_thread;
    IF FOUND THEN result := 'accepted'; RETURN NEXT; RETURN; END IF;  -- sent again
    accepted := NULL;
    FOR each IN SELECT * FROM jsonb_array_elements(answers) LOOP  -- all or none
        SELECT * INTO question FROM surgetank.user_checkpoints c
        WHERE c.checkpoint_id = (each ->> 'checkpoint_id')::uuid AND c.thread_id = the_thread;
        detail := each ->> 'checkpoint_id';
        IF NOT FOUND THEN result := 'missing'; RETURN NEXT; RETURN; END IF;
        IF question.status <> 'pending' THEN
            result := 'answered'; detail := format('%s by %s', question.status, coalesce(question.resolved_by, 'nobody known'));
            RETURN NEXT; RETURN;
        END IF;
        IF question.expires_at <= now() AND NOT is_expiry THEN result := 'expired'; RETURN NEXT; RETURN; END IF;
        IF question.approvals_needed > 1 AND question.first_approver = actor AND each ->> 'outcome' IN ('approved', 'edited') THEN
            result := 'same_person'; RETURN NEXT; RETURN;
        END IF;
    END LOOP;
    detail := NULL;
    result := surgetank.admit_run(the_owner, the_assistant);
    IF result IS NOT NULL THEN RETURN NEXT; RETURN; END IF;
    FOR each IN SELECT * FROM jsonb_array_elements(answers) LOOP
        SELECT * INTO question FROM surgetank.user_checkpoints c WHERE c.checkpoint_id = (each ->> 'checkpoint_id')::uuid;
        IF question.approvals_needed > 1 AND question.first_approver IS NULL AND NOT is_expiry
            AND each ->> 'outcome' IN ('approved', 'edited')
        THEN
            UPDATE surgetank.user_checkpoints c SET first_approver = actor, first_approved_at = now()
            WHERE c.checkpoint_id = question.checkpoint_id;
            PERFORM surgetank.note('checkpoint_first_approval', actor, the_thread, question.workflow_id, question.run_id,
                jsonb_build_object('checkpoint_id', question.checkpoint_id, 'digest', md5(each ->> 'resume')));
            second := true;
            CONTINUE;
        END IF;
        UPDATE surgetank.user_checkpoints c SET status = CASE WHEN is_expiry THEN 'expired' ELSE each ->> 'outcome' END,
            resume = each -> 'resume', user_edited_content = each -> 'edited', user_notes = each ->> 'notes', diff = each -> 'diff',
            resolved_at = now(), resolved_by = actor
        WHERE c.checkpoint_id = question.checkpoint_id;
        PERFORM surgetank.note('checkpoint_resolved', actor, the_thread, question.workflow_id, question.run_id,
            jsonb_build_object('checkpoint_id', question.checkpoint_id, 'outcome', each ->> 'outcome', 'expired', is_expiry,
                'digest', md5(each ->> 'resume')));
    END LOOP;
    IF close_as IS NOT NULL THEN PERFORM surgetank.close_checkpoints(the_thread, close_as, actor); END IF;
    SELECT w.workflow_id INTO flow FROM surgetank.workflows w
    WHERE w.thread_id = the_thread AND w.status = 'awaiting_checkpoint' ORDER BY w.created_at DESC LIMIT 1;
    SELECT count(*) INTO still FROM surgetank.user_checkpoints c WHERE c.thread_id = the_thread AND c.status = 'pending';
    IF second OR (still > 0 AND NOT partial) THEN
        IF NOT if_held THEN
            result := CASE WHEN second THEN 'second' ELSE 'held' END; RETURN NEXT; RETURN;
        END IF;
        kwargs := (kwargs - 'command') || '{"held": true}';
    ELSE
        SELECT jsonb_object_agg(c.interrupt_id, c.resume) INTO map FROM surgetank.user_checkpoints c
        WHERE c.thread_id = the_thread AND c.workflow_id IS NOT DISTINCT FROM flow AND c.resume IS NOT NULL
            AND c.delivered_by IS NULL;
        IF map IS NOT NULL THEN
            kwargs := jsonb_set(kwargs || jsonb_build_object('command', coalesce(kwargs -> 'command', '{}'), 'input', NULL),
                '{command,resume}', map);
            UPDATE surgetank.user_checkpoints c SET delivered_by = the_run
            WHERE c.thread_id = the_thread AND c.workflow_id = flow AND c.resume IS NOT NULL AND c.delivered_by IS NULL;
        END IF;
    END IF;
    SELECT a.result, a.accepted INTO made FROM surgetank.accept_run(
        the_run, coalesce(flow, gen_random_uuid()), the_thread, the_assistant, the_graph, the_owner, 'enqueue', the_priority, 0,
        kwargs || '{"durability": "sync"}', the_metadata, most_attempts, the_timeout, false, false, '{}', actor
    ) AS a;
    result := made.result;
    accepted := made.accepted;
    IF result NOT IN ('accepted', 'known') THEN
        RAISE EXCEPTION 'the run of an answer is refused: %', result USING ERRCODE = 'raise_exception';
    END IF;
    RETURN NEXT;
END
$$;

-- Close what was never answered and has no default: its workflow fails.
CREATE FUNCTION surgetank.expire_checkpoint(the_checkpoint uuid, actor text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    question surgetank.user_checkpoints;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT c.thread_id FROM surgetank.user_checkpoints c WHERE c.checkpoint_id = the_checkpoint) FOR UPDATE;
    UPDATE surgetank.user_checkpoints c SET status = 'expired', resolved_at = now(), resolved_by = actor
    WHERE c.checkpoint_id = the_checkpoint AND c.status = 'pending' AND c.expires_at <= now() RETURNING c.* INTO question;
    IF NOT FOUND THEN RETURN false; END IF;
    PERFORM surgetank.note('checkpoint_expired', actor, question.thread_id, question.workflow_id, question.run_id,
        jsonb_build_object('checkpoint_id', the_checkpoint));
    UPDATE surgetank.workflows w SET status = 'failed', error = 'Nobody answered in time.', ended_at = now(), updated_at = now()
    WHERE w.workflow_id = question.workflow_id AND w.status = 'awaiting_checkpoint';
    UPDATE surgetank.thread_status t SET status = 'error', error = 'Nobody answered in time.', interrupts = '[]', updated_at = now()
    WHERE t.thread_id = question.thread_id AND t.running_run IS NULL AND t.status = 'interrupted';
    RETURN true;
END
$$;

-- End a workflow that waits for people: 'cancelled', 'missing', or 'state' when it waits for nobody.
CREATE FUNCTION surgetank.cancel_waiting(the_workflow uuid, actor text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    flow surgetank.workflows;
BEGIN
    PERFORM FROM surgetank.thread_status t
    WHERE t.thread_id = (SELECT w.thread_id FROM surgetank.workflows w WHERE w.workflow_id = the_workflow) FOR UPDATE;
    SELECT * INTO flow FROM surgetank.workflows w WHERE w.workflow_id = the_workflow;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF flow.status <> 'awaiting_checkpoint' THEN RETURN 'state'; END IF;
    PERFORM surgetank.close_checkpoints(flow.thread_id, 'superseded', actor);
    UPDATE surgetank.workflows w SET status = 'cancelled', ended_at = now(), updated_at = now() WHERE w.workflow_id = the_workflow;
    UPDATE surgetank.thread_status t SET status = 'idle', interrupts = '[]', updated_at = now()
    WHERE t.thread_id = flow.thread_id AND t.running_run IS NULL AND t.status = 'interrupted';
    PERFORM surgetank.note('workflow_cancelled', actor, flow.thread_id, the_workflow, NULL, '{}');
    RETURN 'cancelled';
END
$$;
