-- Versions of channels with the path of their bases, the version itself last: as in 0003 and 0019, but a path ends where no path
-- of ours goes on. A base is older than its patch; a path has at most 22 blobs, and what is decoded on it weighs at most
-- 32 times the value, or 64 KiB (encode/patch.py, which refuses a path that was cut short). Data that is longer than what
-- it is declared to stand for is left out. Index checkpoint_blobs_version_idx, primary key.
CREATE OR REPLACE FUNCTION surgetank.blob_paths(the_ns bigint, channels text[], versions text[])
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE path AS (
        SELECT f.*, 1 AS length, f.raw_bytes::bigint AS decoded, greatest(64 * f.raw_bytes::bigint, 131072) AS most
        FROM unnest(channels, versions) AS u (channel, version)
        CROSS JOIN LATERAL (
            SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data
            FROM surgetank.checkpoint_blobs b
            WHERE b.ns_pk = the_ns AND b.channel = u.channel AND hashtext(b.version) = hashtext(u.version)
                AND b.version = u.version ORDER BY b.n DESC LIMIT 1
        ) AS f
        UNION ALL
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data, p.length + 1,
            p.decoded + b.raw_bytes, p.most
        FROM path p
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = p.channel AND b.n = p.base_n
            AND b.n < p.n
        WHERE p.length < 64 AND b.raw_bytes >= 0 AND p.decoded + b.raw_bytes <= p.most
    )
    SELECT p.channel, p.n, p.base_n, p.codec, p.raw_bytes, p.version, p.type,
        CASE WHEN octet_length(p.data) <= p.raw_bytes THEN p.data END
    FROM path p ORDER BY 1, 2;
END
$$;

CREATE OR REPLACE FUNCTION surgetank.numbered_paths(the_ns bigint, numbers jsonb)
RETURNS TABLE (channel text, n integer, base_n integer, codec smallint, raw_bytes integer, version text, type text,
    data bytea)
LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN QUERY WITH RECURSIVE path AS (
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data, 1 AS length,
            b.raw_bytes::bigint AS decoded, greatest(64 * b.raw_bytes::bigint, 131072) AS most
        FROM jsonb_each_text(numbers) u
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = u.key AND b.n = u.value::integer
        UNION ALL
        SELECT b.channel, b.n, b.base_n, b.codec, b.raw_bytes, b.version, b.type, b.data, p.length + 1,
            p.decoded + b.raw_bytes, p.most
        FROM path p
        JOIN surgetank.checkpoint_blobs b ON b.ns_pk = the_ns AND b.channel = p.channel AND b.n = p.base_n
            AND b.n < p.n
        WHERE p.length < 64 AND b.raw_bytes >= 0 AND p.decoded + b.raw_bytes <= p.most
    )
    SELECT p.channel, p.n, p.base_n, p.codec, p.raw_bytes, p.version, p.type,
        CASE WHEN octet_length(p.data) <= p.raw_bytes THEN p.data END
    FROM path p ORDER BY 1, 2;
END
$$;
