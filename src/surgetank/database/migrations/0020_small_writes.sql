-- Of level 2: the small ones of the writes of one put_writes lie in the row of another one of them, see sinks/bodies.py.
ALTER TABLE surgetank.checkpoint_writes ADD COLUMN others bytea;

-- As in 0019. A write's `others` stand behind its data, base_n is their length.
CREATE OR REPLACE FUNCTION surgetank.read_whole_checkpoint(the_thread text, the_namespace text, the_id text, hidden text[],
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
    RETURN QUERY SELECT 1::smallint, w.task_id, w.task_path, w.channel, w.idx, octet_length(w.others), w.codec,
        NULL::integer, w.type, CASE WHEN w.others IS NULL THEN w.data ELSE w.data || w.others END
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
