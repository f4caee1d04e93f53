-- How rows are written (docs/decisions/0007). Level 1 is what released versions up to 0.1 can read. Level 2 keeps small
-- values in the checkpoint's own row, and the numbers of the blobs with all others. Readers know both. A schema that is
-- made anew begins at level 2: no older version ever takes part in it (it refuses a schema that it doesn't know).
-- Otherwise an operator raises the level when no older version is running any more (`surgetank storage --raise-format`).
CREATE TABLE surgetank.storage_format (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    level integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO surgetank.storage_format (level)
SELECT CASE WHEN EXISTS (SELECT FROM surgetank.schema_migrations WHERE applied_at < now()) THEN 1 ELSE 2 END;

-- Of level 2: {channel: n of its blob}.
ALTER TABLE surgetank.checkpoints ADD COLUMN blob_numbers jsonb;

-- Blobs with the path of their bases, by number. Primary key.
CREATE FUNCTION surgetank.numbered_paths(the_ns bigint, numbers jsonb)
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE path AS (
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data
        FROM jsonb_each_text(numbers) u
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = u.key AND b.n = u.value::integer
        UNION ALL
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data
        FROM path p
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = p.channel AND b.n = p.base_n
    )
    SELECT p.channel, p.n, p.base_n, p.codec, p.raw_bytes, p.version, p.type, p.data FROM path p ORDER BY 1, 2;
END
$$;

-- As read_checkpoint, but the values of every checkpoint of level 2 come along.
CREATE FUNCTION surgetank.read_whole_checkpoint(the_thread text, the_namespace text, the_id text, hidden text[],
    with_values boolean)
RETURNS TABLE (kind smallint, a text, b text, c text, n integer, base_n integer, codec smallint, raw_bytes integer,
    type text, data bytea)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    the_ns bigint;
    latest jsonb;
    numbers jsonb;
BEGIN
    SELECT s.ns_pk INTO the_ns FROM surgetank.checkpoint_namespaces s
    WHERE s.thread_id = the_thread AND s.checkpoint_ns = the_namespace;
    IF the_id IS NULL THEN
        SELECT k.checkpoint_id, k.parent_id, k.codec, k.body, k.blob_numbers INTO a, b, codec, data, numbers
        FROM surgetank.checkpoints k WHERE k.ns_pk = the_ns AND NOT k.checkpoint_id = ANY (hidden)
        ORDER BY k.checkpoint_id DESC LIMIT 1;
    ELSE
        SELECT k.checkpoint_id, k.parent_id, k.codec, k.body, k.blob_numbers INTO a, b, codec, data, numbers
        FROM surgetank.checkpoints k WHERE k.ns_pk = the_ns AND k.checkpoint_id = the_id;
    END IF;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    kind := 0;
    RETURN NEXT;
    RETURN QUERY SELECT 1::smallint, w.task_id, w.task_path, w.channel, w.idx, NULL::integer, w.codec, NULL::integer,
        w.type, w.data
    FROM surgetank.checkpoint_writes w WHERE w.ns_pk = the_ns AND w.checkpoint_id = a;
    IF NOT with_values THEN
        RETURN;
    END IF;
    IF numbers = '{}' THEN
        RETURN;
    ELSIF numbers IS NOT NULL THEN
        RETURN QUERY SELECT 2::smallint, p.channel, p.version, NULL::text, p.n, p.base_n, p.codec, p.raw_bytes,
            p.type, p.data
        FROM surgetank.numbered_paths(the_ns, numbers) p;
    ELSIF the_namespace = '' THEN
        SELECT t.versions INTO latest FROM surgetank.threads t
        WHERE t.thread_id = the_thread AND t.checkpoint_id = a;
        IF FOUND THEN
            RETURN QUERY SELECT 2::smallint, p.channel, p.version, NULL::text, p.n, p.base_n, p.codec, p.raw_bytes,
                p.type, p.data
            FROM surgetank.blob_paths(the_ns,
                ARRAY(SELECT v.key FROM jsonb_each_text(latest) v ORDER BY 1),
                ARRAY(SELECT v.value FROM jsonb_each_text(latest) v ORDER BY v.key)) p;
        END IF;
    END IF;
END
$$;

-- As read_blobs; when a version has no blob, the body of the namespace's newest checkpoint comes as well (its id as
-- version, the channel NULL): a value that is small and did not change is there.
CREATE FUNCTION surgetank.read_values(the_thread text, the_namespace text, channels text[], versions text[])
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    the_ns bigint;
    found_channels text[] := '{}';
BEGIN
    SELECT s.ns_pk INTO the_ns FROM surgetank.checkpoint_namespaces s
    WHERE s.thread_id = the_thread AND s.checkpoint_ns = the_namespace;
    FOR channel, n, base_n, codec, raw_bytes, version, type, data IN
        SELECT * FROM surgetank.blob_paths(the_ns, channels, versions)
    LOOP
        found_channels := CASE WHEN found_channels @> ARRAY[channel] THEN found_channels
            ELSE found_channels || channel END;
        RETURN NEXT;
    END LOOP;
    IF cardinality(found_channels) < cardinality(channels) THEN
        RETURN QUERY SELECT NULL::text, NULL::integer, NULL::integer, k.codec, NULL::integer, k.checkpoint_id,
            NULL::text, k.body
        FROM surgetank.checkpoints k WHERE k.ns_pk = the_ns ORDER BY k.checkpoint_id DESC LIMIT 1;
    END IF;
END
$$;
