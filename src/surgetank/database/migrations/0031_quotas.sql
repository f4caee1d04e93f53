-- usable from: 0022
-- Quotas of users, and what retention of runs asks for. The limits come with the statement (`surgetank.acting`): each process has its
-- settings, and nothing has to be written when it starts. A user's several threads are several locks, so that a lock of the user is
-- taken beside them.
CREATE INDEX runs_pending_by_owner ON surgetank.runs (owner) WHERE status = 'pending';
CREATE INDEX runs_running_by_owner ON surgetank.runs (owner) WHERE status = 'running';
CREATE TABLE surgetank.run_rates (
    owner text PRIMARY KEY,
    since timestamptz NOT NULL,
    accepted integer NOT NULL
) WITH (fillfactor = 60);

CREATE FUNCTION surgetank.quota(the_name text) RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT (nullif(current_setting('surgetank.quotas', true), '')::jsonb ->> the_name)::integer
$$;

CREATE FUNCTION surgetank.waiting_of(the_owner text, most integer) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN (SELECT count(*) FROM (
        SELECT FROM surgetank.runs r WHERE r.owner = the_owner AND r.status = 'pending' LIMIT most) AS w);
END
$$;

CREATE OR REPLACE FUNCTION surgetank.admit_run(the_owner text, the_assistant text) RETURNS text LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    waiting integer := surgetank.quota('runs_waiting_per_user');
    per_minute integer := surgetank.quota('runs_per_minute_per_user');
    most integer := current_setting('max_connections')::integer;
    far boolean;
    rate surgetank.run_rates;
BEGIN
    IF the_owner IS NULL THEN RETURN NULL; END IF;
    IF waiting IS NOT NULL THEN
        -- Far from the limit they wait for nobody: all connections together can't reach it. Near it one comes after the other.
        far := surgetank.waiting_of(the_owner, waiting) + 2 * most < waiting;
        IF far THEN
            PERFORM pg_advisory_xact_lock_shared(1398033235, hashtext(the_owner));
        ELSE
            PERFORM pg_advisory_xact_lock(1398033235, hashtext(the_owner));
        END IF;
        IF surgetank.waiting_of(the_owner, waiting) + (CASE WHEN far THEN most ELSE 0 END) >= waiting THEN
            RETURN format('%s runs of this user wait already (runs_waiting_per_user).', waiting);
        END IF;
    END IF;
    IF per_minute IS NOT NULL THEN
        INSERT INTO surgetank.run_rates AS r (owner, since, accepted) VALUES (the_owner, clock_timestamp(), 1)
        ON CONFLICT (owner) DO UPDATE
            SET since = CASE WHEN r.since <= clock_timestamp() - interval '1 minute' THEN clock_timestamp() ELSE r.since END,
                accepted = CASE WHEN r.since <= clock_timestamp() - interval '1 minute' THEN 1 ELSE r.accepted + 1 END
            WHERE r.accepted < per_minute OR r.since <= clock_timestamp() - interval '1 minute'
        RETURNING * INTO rate;
        IF NOT FOUND THEN
            RETURN format('This user has begun %s runs within a minute (runs_per_minute_per_user).', per_minute);
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- A run that would be one too many of its user stays pending, and its thread is looked at again in a moment: at the head of the
-- queue it would be in the way of others. Who counts holds the user's lock to the end; it waits for nobody who does.
CREATE FUNCTION surgetank.hold_back() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    running integer := surgetank.quota('runs_running_per_user');
BEGIN
    IF running IS NULL OR NEW.owner IS NULL OR NEW.cancel_action IS NOT NULL THEN RETURN NEW; END IF;
    IF pg_try_advisory_xact_lock(1398033236, hashtext(NEW.owner)) THEN
        IF (SELECT count(*) FROM surgetank.runs r WHERE r.owner = NEW.owner AND r.status = 'running') < running THEN
            RETURN NEW;
        END IF;
    END IF;
    UPDATE surgetank.runs r SET due_at = now() + interval '250 milliseconds'
    WHERE r.thread_id = NEW.thread_id AND r.status = 'pending' AND r.due_at <= now();
    RETURN NULL;
END
$$;
CREATE TRIGGER hold_back BEFORE UPDATE OF status ON surgetank.runs FOR EACH ROW
    WHEN (OLD.status = 'pending' AND NEW.status = 'running') EXECUTE FUNCTION surgetank.hold_back();

CREATE INDEX workflows_by_end ON surgetank.workflows (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX thread_status_temporary ON surgetank.thread_status (updated_at) WHERE temporary;
