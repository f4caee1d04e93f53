-- One statement takes a partition and moves it on: `seq_before` is where it stood before this transaction.
ALTER TABLE surgetank.partition_progress ADD COLUMN seq_before bigint NOT NULL DEFAULT 0;

-- The cold reader's queries are functions because the server keeps a function's plan for as long as a connection
-- lives. A named prepared statement would do the same, but PgBouncer in transaction mode may not know it. The
-- settings keep a plan that was made while the tables were small from being a bad one when they have grown.

-- Versions of channels with the path of their bases, the version itself last. Index checkpoint_blobs_version_idx,
-- primary key.
CREATE FUNCTION surgetank.blob_paths(the_ns bigint, channels text[], versions text[])
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE path AS (
        SELECT f.*
        FROM unnest(channels, versions) AS u (channel, version)
        CROSS JOIN LATERAL (
            SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data
            FROM surgetank.checkpoint_blobs b
            WHERE b.ns_pk = the_ns AND b.channel = u.channel AND hashtext(b.version) = hashtext(u.version)
                AND b.version = u.version ORDER BY b.n DESC LIMIT 1
        ) AS f
        UNION ALL
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data
        FROM path p
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = p.channel AND b.n = p.base_n
    )
    SELECT p.channel, p.n, p.base_n, p.codec, p.raw_bytes, p.version, p.type, p.data FROM path p ORDER BY 1, 2;
END
$$;

-- The same by thread and namespace.
CREATE FUNCTION surgetank.read_blobs(the_thread text, the_namespace text, channels text[], versions text[])
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    the_ns bigint;
BEGIN
    SELECT s.ns_pk INTO the_ns FROM surgetank.checkpoint_namespaces s
    WHERE s.thread_id = the_thread AND s.checkpoint_ns = the_namespace;
    RETURN QUERY SELECT * FROM surgetank.blob_paths(the_ns, channels, versions);
END
$$;

-- A checkpoint (the newest that is not hidden, if none is named), its writes and, of a thread's latest checkpoint, its
-- values, in one round trip. Kinds: 0 the checkpoint (a its id, b its parent), 1 a write (a task, b path, c channel,
-- n its index), 2 a blob (a channel, b version). Unique (thread_id, checkpoint_ns), primary keys.
CREATE FUNCTION surgetank.read_checkpoint(the_thread text, the_namespace text, the_id text, hidden text[],
    with_values boolean)
RETURNS TABLE (kind smallint, a text, b text, c text, n integer, base_n integer, codec smallint, raw_bytes integer,
    type text, data bytea)
LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off
SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    the_ns bigint;
    latest jsonb;
BEGIN
    SELECT s.ns_pk INTO the_ns FROM surgetank.checkpoint_namespaces s
    WHERE s.thread_id = the_thread AND s.checkpoint_ns = the_namespace;
    IF the_id IS NULL THEN
        SELECT k.checkpoint_id, k.parent_id, k.codec, k.body INTO a, b, codec, data
        FROM surgetank.checkpoints k WHERE k.ns_pk = the_ns AND NOT k.checkpoint_id = ANY (hidden)
        ORDER BY k.checkpoint_id DESC LIMIT 1;
    ELSE
        SELECT k.checkpoint_id, k.parent_id, k.codec, k.body INTO a, b, codec, data
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
    IF with_values AND the_namespace = '' THEN
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
