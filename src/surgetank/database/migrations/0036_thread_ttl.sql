-- usable from: 0022
-- Threads that live for a time. It counts from what was last done with them (updated_at), so a trigger keeps expires_at; NULL is one
-- that lives for ever, or that was pruned (keep_latest) since anything was done with it.
ALTER TABLE surgetank.thread_status
    ADD COLUMN ttl_minutes double precision,
    ADD COLUMN ttl_strategy text CHECK (ttl_strategy IN ('delete', 'keep_latest')),
    ADD COLUMN expires_at timestamptz;
CREATE INDEX thread_status_expiring ON surgetank.thread_status (expires_at) WHERE expires_at IS NOT NULL;

CREATE FUNCTION surgetank.set_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.expires_at := NEW.updated_at + NEW.ttl_minutes * interval '1 minute';
    RETURN NEW;
END
$$;
CREATE TRIGGER expiry BEFORE INSERT ON surgetank.thread_status FOR EACH ROW
    WHEN (NEW.ttl_minutes IS NOT NULL) EXECUTE FUNCTION surgetank.set_expiry();
CREATE TRIGGER expiry_moved BEFORE UPDATE ON surgetank.thread_status FOR EACH ROW
    WHEN ((NEW.ttl_minutes IS NOT NULL OR OLD.ttl_minutes IS NOT NULL)
        AND (NEW.updated_at, NEW.ttl_minutes, NEW.ttl_strategy) IS DISTINCT FROM (OLD.updated_at, OLD.ttl_minutes, OLD.ttl_strategy))
    EXECUTE FUNCTION surgetank.set_expiry();

-- Delete a thread's row with its workflows and runs: 'deleted', 'missing', or 'busy' when one of them is not over. `why` goes into the
-- audit.
DROP FUNCTION surgetank.delete_thread(text, text);
CREATE FUNCTION surgetank.delete_thread(the_thread text, actor text, why jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM surgetank.thread_status t WHERE t.thread_id = the_thread FOR UPDATE;
    IF NOT FOUND THEN RETURN 'missing'; END IF;
    IF EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = the_thread AND r.status = 'running') THEN RETURN 'busy'; END IF;
    PERFORM surgetank.close_checkpoints(the_thread, 'superseded', actor);
    PERFORM surgetank.note('thread_deleted', actor, the_thread, NULL, NULL, why);
    DELETE FROM surgetank.thread_status t WHERE t.thread_id = the_thread;
    RETURN 'deleted';
END
$$;
