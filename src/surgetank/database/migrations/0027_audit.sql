-- usable from: 0022
-- The audit is a chain for each thread: each row holds the hash of the row before it, over what it says itself. Chains per thread,
-- because whoever notes something holds the lock of the thread already; one chain would let all runs wait for each other. Seals
-- over all chains, each with the hash of the seal before, show that a chain as a whole, or its end, is gone. Rows hold numbers, so
-- that names can be erased and the chain still verifies. What is done to no thread is in the chain 0.
ALTER TABLE surgetank.audit
    ADD COLUMN origin bigint,
    ADD COLUMN nth bigint,
    ADD COLUMN prev_hash bytea,
    ADD COLUMN hash bytea,
    ADD COLUMN xid xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE surgetank.audit_names DROP CONSTRAINT audit_names_kind_check,
    ADD CONSTRAINT audit_names_kind_check CHECK (kind IN ('actor', 'thread', 'origin'));

-- The end of each chain; and where it begins, when retention has taken its beginning away.
CREATE TABLE surgetank.audit_heads (
    thread bigint PRIMARY KEY,
    nth bigint NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL,
    pruned_nth bigint NOT NULL DEFAULT 0,
    pruned_hash bytea NOT NULL DEFAULT ''
) WITH (fillfactor = 60);
CREATE TABLE surgetank.audit_seals (
    number bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    kind text NOT NULL CHECK (kind IN ('heads', 'pruned')),
    seen text NOT NULL,  -- the snapshot up to which it has seen rows
    detail jsonb NOT NULL,
    points bigint NOT NULL,
    points_hash bytea NOT NULL,
    prev_hash bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE TABLE surgetank.audit_seal_points (
    seal bigint NOT NULL, thread bigint NOT NULL, nth bigint NOT NULL, hash bytea NOT NULL, PRIMARY KEY (seal, thread)
);
CREATE INDEX audit_seal_points_by_thread ON surgetank.audit_seal_points (thread, seal);

-- What is hashed. `audit.sql` has the same text once more: whoever verifies doesn't ask the database what a hash is.
CREATE FUNCTION surgetank.audit_hash(entry surgetank.audit, nth bigint, prev bytea) RETURNS bytea LANGUAGE sql STABLE AS $$
    SELECT sha256(convert_to(jsonb_build_array(
        encode(prev, 'hex'), nth, entry.id, to_char(entry.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), entry.action,
        entry.actor, entry.thread, entry.workflow_id, entry.run_id, entry.origin, entry.detail)::text, 'UTF8'))
$$;

-- From here on: rows that are there get their place first.
DO $$
DECLARE
    old surgetank.audit;
    head surgetank.audit_heads;
BEGIN
    ALTER TABLE surgetank.audit DISABLE TRIGGER append_only;
    FOR old IN SELECT * FROM surgetank.audit ORDER BY id LOOP
        INSERT INTO surgetank.audit_heads AS h (thread, nth, prev_hash, hash)
        VALUES (old.thread, 1, '', surgetank.audit_hash(old, 1, ''))
        ON CONFLICT (thread) DO UPDATE SET nth = h.nth + 1, prev_hash = h.hash,
            hash = surgetank.audit_hash(old, h.nth + 1, h.hash)
        RETURNING * INTO head;
        UPDATE surgetank.audit a SET nth = head.nth, prev_hash = head.prev_hash, hash = head.hash WHERE a.id = old.id;
    END LOOP;
    ALTER TABLE surgetank.audit ENABLE TRIGGER append_only;
END
$$;
ALTER TABLE surgetank.audit ALTER COLUMN nth SET NOT NULL, ALTER COLUMN prev_hash SET NOT NULL, ALTER COLUMN hash SET NOT NULL;
DROP INDEX surgetank.audit_of_thread;
CREATE UNIQUE INDEX audit_chain ON surgetank.audit (thread, nth);
CREATE INDEX audit_of_actor ON surgetank.audit (actor, id);
CREATE INDEX audit_by_xid ON surgetank.audit (xid, id);
CREATE INDEX audit_by_time ON surgetank.audit USING brin (at);
CREATE OR REPLACE VIEW surgetank.audit_log AS
    SELECT a.id, a.at, a.action, p.name AS actor, t.name AS thread_id, a.workflow_id, a.run_id, a.detail,
        substr(o.name, strpos(o.name, '@') + 1) AS origin
    FROM surgetank.audit a
    LEFT JOIN surgetank.audit_names p ON p.number = a.actor
    LEFT JOIN surgetank.audit_names t ON t.number = a.thread
    LEFT JOIN surgetank.audit_names o ON o.number = a.origin;

-- Says, for the rest of the transaction, from where the actor acts, to which buffer a run's data went, and which quotas there are
-- (JSON); gives the actor. It stands in the place of the actor among a function's arguments, so that it costs no round trip.
CREATE FUNCTION surgetank.acting(actor text, origin text, buffer text DEFAULT NULL, quotas text DEFAULT NULL) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('surgetank.origin', coalesce(origin, ''), true), set_config('surgetank.buffer', coalesce(buffer, ''), true),
        set_config('surgetank.quotas', coalesce(quotas, ''), true);
    RETURN actor;
END
$$;

-- An origin belongs to its actor (`17@10.0.0.1`): erased with one, it stays with the others.
CREATE FUNCTION surgetank.chain_audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    origin text := nullif(current_setting('surgetank.origin', true), '');
    buffer text := nullif(current_setting('surgetank.buffer', true), '');
    head surgetank.audit_heads;
BEGIN
    IF origin IS NOT NULL THEN
        NEW.origin := surgetank.number_of('origin', NEW.actor || '@' || left(origin, 200));
    END IF;
    IF buffer IS NOT NULL AND NEW.action = 'run_completed' THEN
        NEW.detail := NEW.detail || jsonb_build_object('buffer', buffer);
    END IF;
    INSERT INTO surgetank.audit_heads AS h (thread, nth, prev_hash, hash)
    VALUES (NEW.thread, 1, '', surgetank.audit_hash(NEW, 1, ''))
    ON CONFLICT (thread) DO UPDATE SET nth = h.nth + 1, prev_hash = h.hash,
        hash = surgetank.audit_hash(NEW, h.nth + 1, h.hash)
    RETURNING * INTO head;
    NEW.nth := head.nth;
    NEW.prev_hash := head.prev_hash;
    NEW.hash := head.hash;
    NEW.xid := pg_current_xact_id();
    RETURN NEW;
END
$$;
CREATE TRIGGER chain BEFORE INSERT ON surgetank.audit FOR EACH ROW EXECUTE FUNCTION surgetank.chain_audit();

CREATE OR REPLACE FUNCTION surgetank.note(
    the_action text, the_actor text, the_thread text, the_workflow uuid, the_run uuid, the_detail jsonb
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO surgetank.audit (action, actor, thread, workflow_id, run_id, detail)
    VALUES (the_action, surgetank.number_of('actor', the_actor),
        CASE WHEN the_thread IS NULL THEN 0 ELSE surgetank.number_of('thread', the_thread) END, the_workflow, the_run, the_detail)
$$;

-- Rows go in one way: the beginning of a chain, which `prune_audit` has written down before.
CREATE OR REPLACE FUNCTION surgetank.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('surgetank.pruning', true) = pg_current_xact_id()::text THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit is only added to' USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Write a seal over these ends of chains.
CREATE FUNCTION surgetank.write_seal(
    the_kind text, the_snapshot text, the_detail jsonb, threads bigint[], nths bigint[], hashes bytea[]
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    last surgetank.audit_seals;
    new surgetank.audit_seals;
BEGIN
    SELECT * INTO last FROM surgetank.audit_seals ORDER BY number DESC LIMIT 1;
    new.number := coalesce(last.number, 0) + 1;
    new.prev_hash := coalesce(last.hash, '');
    new.at := now();
    new.points := cardinality(threads);
    INSERT INTO surgetank.audit_seal_points
    SELECT new.number, u.thread, u.nth, u.hash FROM unnest(threads, nths, hashes) AS u (thread, nth, hash);
    SELECT sha256(convert_to(coalesce(string_agg(p.thread || ':' || p.nth || ':' || encode(p.hash, 'hex'), ' '
        ORDER BY p.thread), ''), 'UTF8')) INTO new.points_hash
    FROM surgetank.audit_seal_points p WHERE p.seal = new.number;
    new.hash := sha256(convert_to(jsonb_build_array(encode(new.prev_hash, 'hex'), new.number,
        to_char(new.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), the_kind, the_detail, new.points,
        encode(new.points_hash, 'hex'))::text, 'UTF8'));
    INSERT INTO surgetank.audit_seals VALUES (new.number, new.at, the_kind, the_snapshot, the_detail, new.points,
        new.points_hash, new.prev_hash, new.hash);
    RETURN new.number;
END
$$;

-- Seal all chains that have grown since the last seal: its number, NULL when there is none to write.
CREATE FUNCTION surgetank.seal_audit() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen pg_snapshot;
    now_seen text;
    threads bigint[];
    nths bigint[];
    hashes bytea[];
BEGIN
    PERFORM pg_advisory_xact_lock(1398033234, 2);
    SELECT s.seen::pg_snapshot INTO seen FROM surgetank.audit_seals s ORDER BY number DESC LIMIT 1;
    -- A snapshot of the future is one of another server, from which this database was restored: all is sealed again.
    IF seen IS NULL OR pg_snapshot_xmax(seen) > pg_snapshot_xmax(pg_current_snapshot()) THEN
        SELECT array_agg(h.thread ORDER BY h.thread), array_agg(h.nth ORDER BY h.thread), array_agg(h.hash ORDER BY h.thread),
            pg_current_snapshot()::text INTO threads, nths, hashes, now_seen
        FROM surgetank.audit_heads h WHERE h.nth > h.pruned_nth;
    ELSE
        SELECT array_agg(d.thread ORDER BY d.thread), array_agg(d.nth ORDER BY d.thread), array_agg(d.hash ORDER BY d.thread),
            pg_current_snapshot()::text INTO threads, nths, hashes, now_seen
        FROM (SELECT DISTINCT ON (a.thread) a.thread, a.nth, a.hash FROM surgetank.audit a
            WHERE a.xid >= pg_snapshot_xmax(seen) OR a.xid = ANY (ARRAY(SELECT pg_snapshot_xip(seen)))
            ORDER BY a.thread, a.nth DESC) AS d;
    END IF;
    IF threads IS NULL THEN RETURN NULL; END IF;
    RETURN surgetank.write_seal('heads', now_seen, '{}', threads, nths, hashes);
END
$$;

-- Remove the rows of the audit that are older than `before`, the beginnings of up to `most` chains, and seal what went: how many
-- rows. The only way in which rows go. Nothing of the last 24 hours goes.
CREATE FUNCTION surgetank.prune_audit(before timestamptz, most integer, actor text) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    until timestamptz := least(before, now() - interval '24 hours');
    removed bigint := 0;
    seal bigint;
    first_kept bigint;
    threads bigint[];
    nths bigint[];
    hashes bytea[];
BEGIN
    PERFORM pg_advisory_xact_lock(1398033234, 2);
    -- The heads are locked first: who notes something of these threads waits until this is over.
    SELECT array_agg(h.thread ORDER BY h.thread), array_agg(a.nth ORDER BY h.thread), array_agg(a.hash ORDER BY h.thread)
    INTO threads, nths, hashes FROM (
        SELECT o.thread FROM surgetank.audit_heads o
        WHERE o.thread IN (SELECT x.thread FROM surgetank.audit x WHERE x.at < until LIMIT most * 20)
        LIMIT most FOR UPDATE SKIP LOCKED
    ) AS h CROSS JOIN LATERAL (
        SELECT l.nth, l.hash FROM surgetank.audit l WHERE l.thread = h.thread AND l.nth < coalesce(
            (SELECT min(y.nth) FROM surgetank.audit y WHERE y.thread = h.thread AND y.at >= until), 9223372036854775807)
        ORDER BY l.nth DESC LIMIT 1
    ) AS a;
    IF threads IS NOT NULL THEN
        PERFORM set_config('surgetank.pruning', pg_current_xact_id()::text, true);
        DELETE FROM surgetank.audit a USING unnest(threads, nths) AS p (thread, nth) WHERE a.thread = p.thread AND a.nth <= p.nth;
        GET DIAGNOSTICS removed = ROW_COUNT;
        PERFORM set_config('surgetank.pruning', '', true);
        UPDATE surgetank.audit_heads h SET pruned_nth = p.nth, pruned_hash = p.hash
        FROM unnest(threads, nths, hashes) AS p (thread, nth, hash) WHERE h.thread = p.thread;
        DELETE FROM surgetank.audit_heads h USING unnest(threads, nths) AS p (thread, nth)
        WHERE h.thread = p.thread AND h.nth = p.nth AND h.thread <> 0;
        seal := surgetank.write_seal('pruned',
            coalesce((SELECT s.seen FROM surgetank.audit_seals s ORDER BY number DESC LIMIT 1), pg_current_snapshot()::text),
            jsonb_build_object('before', until, 'rows', removed), threads, nths, hashes);
        PERFORM surgetank.note('audit_pruned', actor, NULL, NULL, NULL,
            jsonb_build_object('before', until, 'rows', removed, 'seal', seal));
    END IF;
    -- Old seals go as well, from the first one on, up to one on which the beginning of a chain still rests.
    SELECT min(s.number) INTO first_kept FROM surgetank.audit_seals s
    WHERE s.at >= until OR (s.kind = 'pruned' AND EXISTS (
        SELECT FROM surgetank.audit_seal_points p JOIN surgetank.audit_heads h USING (thread)
        WHERE p.seal = s.number AND h.pruned_nth = p.nth AND h.pruned_hash = p.hash));
    DELETE FROM surgetank.audit_seal_points p WHERE p.seal < first_kept;
    DELETE FROM surgetank.audit_seals s WHERE s.number < first_kept;
    RETURN removed;
END
$$;
REVOKE ALL ON surgetank.audit, surgetank.audit_heads, surgetank.audit_seals, surgetank.audit_seal_points FROM PUBLIC;
REVOKE ALL ON FUNCTION surgetank.prune_audit(timestamptz, integer, text), surgetank.seal_audit(),
    surgetank.write_seal(text, text, jsonb, bigint[], bigint[], bytea[]) FROM PUBLIC;
