-- usable from: 0022
-- Assistants that clients made, and crons. An assistant is a graph with what it is given in each run; each change is a version, and
-- one of them is the one in use. A cron accepts runs at its times.
CREATE TABLE surgetank.assistants (
    assistant_id uuid PRIMARY KEY,
    owner text,
    graph_id text NOT NULL,
    version integer NOT NULL,
    newest integer NOT NULL,  -- version
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX assistants_of_owner ON surgetank.assistants (owner, created_at);
CREATE INDEX assistants_by_time ON surgetank.assistants (created_at);
CREATE INDEX assistants_by_metadata ON surgetank.assistants USING gin (metadata jsonb_path_ops);
CREATE TABLE surgetank.assistant_versions (
    assistant_id uuid NOT NULL REFERENCES surgetank.assistants ON DELETE CASCADE,
    version integer NOT NULL,
    graph_id text NOT NULL,
    name text NOT NULL,
    description text,
    config jsonb NOT NULL,
    context jsonb NOT NULL,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (assistant_id, version)
);

CREATE TABLE surgetank.crons (
    cron_id uuid PRIMARY KEY,
    owner text,
    assistant_id text NOT NULL,
    graph_id text NOT NULL,
    thread_id text,  -- none: a thread of its own for each run
    schedule text NOT NULL,
    timezone text,
    end_time timestamptz,
    enabled boolean NOT NULL,
    on_run_completed text NOT NULL CHECK (on_run_completed IN ('delete', 'keep')),
    metadata jsonb NOT NULL,
    payload jsonb NOT NULL,
    next_run_date timestamptz,
    failures integer NOT NULL DEFAULT 0,  -- one after the other
    last_error text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX crons_due ON surgetank.crons (next_run_date) WHERE enabled AND next_run_date IS NOT NULL;
CREATE INDEX crons_of_owner ON surgetank.crons (owner, created_at);
CREATE INDEX crons_of_thread ON surgetank.crons (thread_id) WHERE thread_id IS NOT NULL;

-- What stands in an assistant now becomes a version of it.
CREATE FUNCTION surgetank.keep_version(a surgetank.assistants, action text, actor text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO surgetank.assistant_versions (assistant_id, version, graph_id, name, description, config, context, metadata)
    VALUES (a.assistant_id, a.version, a.graph_id, a.name, a.description, a.config, a.context, a.metadata);
    PERFORM surgetank.note(action, actor, NULL, NULL, NULL, jsonb_build_object(
        'assistant_id', a.assistant_id, 'version', a.version, 'graph_id', a.graph_id,
        'content_digest', encode(sha256(convert_to(jsonb_build_array(a.config, a.context, a.metadata)::text, 'UTF8')), 'hex')));
END
$$;

-- Make an assistant: its row; none when the id is taken; a row without an id when its owner has as many as they may.
CREATE FUNCTION surgetank.make_assistant(
    the_id uuid, the_owner text, the_graph text, the_name text, the_description text, the_config jsonb, the_context jsonb,
    the_metadata jsonb, most integer, actor text
) RETURNS SETOF surgetank.assistants LANGUAGE plpgsql AS $$
DECLARE
    made surgetank.assistants;
BEGIN
    IF most IS NOT NULL AND the_owner IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(1398033236, hashtext(the_owner));
        IF (SELECT count(*) FROM surgetank.assistants a WHERE a.owner = the_owner) >= most
            AND NOT EXISTS (SELECT FROM surgetank.assistants a WHERE a.assistant_id = the_id) THEN
            RETURN NEXT made; RETURN;
        END IF;
    END IF;
    INSERT INTO surgetank.assistants (assistant_id, owner, graph_id, version, newest, name, description, config, context, metadata)
    VALUES (the_id, the_owner, the_graph, 1, 1, the_name, the_description, the_config, the_context, the_metadata)
    ON CONFLICT (assistant_id) DO NOTHING RETURNING * INTO made;
    IF made.assistant_id IS NULL THEN RETURN; END IF;
    PERFORM surgetank.keep_version(made, 'assistant_created', actor);
    RETURN NEXT made;
END
$$;

-- Change an assistant, which makes a version; metadata are added to. NULL leaves what there is.
CREATE FUNCTION surgetank.change_assistant(
    the_id uuid, the_graph text, the_name text, the_description text, the_config jsonb, the_context jsonb, the_metadata jsonb,
    actor text
) RETURNS SETOF surgetank.assistants LANGUAGE plpgsql AS $$
DECLARE
    changed surgetank.assistants;
BEGIN
    UPDATE surgetank.assistants a SET graph_id = coalesce(the_graph, a.graph_id), name = coalesce(the_name, a.name),
        description = coalesce(the_description, a.description), config = coalesce(the_config, a.config),
        context = coalesce(the_context, a.context), metadata = a.metadata || coalesce(the_metadata, '{}'),
        version = a.newest + 1, newest = a.newest + 1, updated_at = now()
    WHERE a.assistant_id = the_id RETURNING * INTO changed;
    IF changed.assistant_id IS NULL THEN RETURN; END IF;
    PERFORM surgetank.keep_version(changed, 'assistant_changed', actor);
    RETURN NEXT changed;
END
$$;

-- Use a version again; none when there is none.
CREATE FUNCTION surgetank.use_version(the_id uuid, the_version integer, actor text) RETURNS SETOF surgetank.assistants
LANGUAGE plpgsql AS $$
DECLARE
    changed surgetank.assistants;
BEGIN
    UPDATE surgetank.assistants a SET graph_id = v.graph_id, name = v.name, description = v.description, config = v.config,
        context = v.context, metadata = v.metadata, version = v.version, updated_at = now()
    FROM surgetank.assistant_versions v
    WHERE a.assistant_id = the_id AND v.assistant_id = the_id AND v.version = the_version RETURNING a.* INTO changed;
    IF changed.assistant_id IS NULL THEN RETURN; END IF;
    PERFORM surgetank.note('assistant_version_used', actor, NULL, NULL, NULL,
        jsonb_build_object('assistant_id', the_id, 'version', the_version));
    RETURN NEXT changed;
END
$$;

CREATE FUNCTION surgetank.make_cron(
    the_id uuid, the_owner text, the_assistant text, the_graph text, the_thread text, the_schedule text, the_timezone text,
    the_end timestamptz, is_enabled boolean, on_completed text, the_metadata jsonb, the_payload jsonb, next_at timestamptz,
    most integer, actor text
) RETURNS SETOF surgetank.crons LANGUAGE plpgsql AS $$
DECLARE
    made surgetank.crons;
BEGIN
    IF most IS NOT NULL AND the_owner IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(1398033236, hashtext(the_owner));
        IF (SELECT count(*) FROM surgetank.crons c WHERE c.owner = the_owner) >= most THEN RETURN; END IF;
    END IF;
    INSERT INTO surgetank.crons (cron_id, owner, assistant_id, graph_id, thread_id, schedule, timezone, end_time, enabled,
        on_run_completed, metadata, payload, next_run_date)
    VALUES (the_id, the_owner, the_assistant, the_graph, the_thread, the_schedule, the_timezone, the_end, is_enabled, on_completed,
        the_metadata, the_payload, next_at) RETURNING * INTO made;
    PERFORM surgetank.note('cron_created', actor, the_thread, NULL, NULL,
        jsonb_build_object('cron_id', the_id, 'assistant_id', the_assistant, 'schedule', the_schedule));
    RETURN NEXT made;
END
$$;

-- A thread takes its crons with it: they would be refused for ever.
CREATE FUNCTION surgetank.forget_crons() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM surgetank.crons c WHERE c.thread_id = OLD.thread_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER forget_crons AFTER DELETE ON surgetank.thread_status FOR EACH ROW EXECUTE FUNCTION surgetank.forget_crons();
