-- Queries of the audit (workflows/audit.py). The index each relies on is named.

-- name: list
-- Newest first, before a row. Primary key, audit_of_workflow, audit_chain, audit_of_actor, audit_by_time.
SELECT a.id, a.at, a.action, p.name AS actor, t.name AS thread_id, a.workflow_id, a.run_id,
    substr(o.name, strpos(o.name, '@') + 1) AS origin, a.detail
FROM surgetank.audit a
LEFT JOIN surgetank.audit_names p ON p.number = a.actor
LEFT JOIN surgetank.audit_names t ON t.number = a.thread
LEFT JOIN surgetank.audit_names o ON o.number = a.origin
WHERE (%(before)s::bigint IS NULL OR a.id < %(before)s)
    AND (%(workflow)s::uuid IS NULL OR a.workflow_id = %(workflow)s)
    AND (%(thread)s::text IS NULL OR a.thread = (
        SELECT n.number FROM surgetank.audit_names n WHERE n.kind = 'thread' AND n.name = %(thread)s))
    AND (%(actor)s::text IS NULL OR a.actor = (
        SELECT n.number FROM surgetank.audit_names n WHERE n.kind = 'actor' AND n.name = %(actor)s))
    AND (%(since)s::float8 IS NULL OR a.at >= to_timestamp(%(since)s))
    AND (%(until)s::float8 IS NULL OR a.at < to_timestamp(%(until)s))
    AND (%(action)s::text IS NULL OR a.action = %(action)s)
ORDER BY a.id DESC LIMIT %(limit)s

-- name: actions
-- Of the last 10,000 rows. Primary key.
SELECT DISTINCT n.action FROM (SELECT a.action FROM surgetank.audit a ORDER BY a.id DESC LIMIT 10000) AS n ORDER BY 1

-- name: export
-- All rows after one, in the order of their numbers, with all that their hashes are made of. Primary key.
SELECT a.id, a.at, a.action, p.name AS actor, t.name AS thread_id, a.workflow_id, a.run_id,
    substr(o.name, strpos(o.name, '@') + 1) AS origin, a.detail,
    jsonb_build_object('actor', a.actor, 'thread', a.thread, 'origin', a.origin) AS numbers, a.nth,
    encode(a.prev_hash, 'hex') AS prev_hash, encode(a.hash, 'hex') AS hash
FROM surgetank.audit a
LEFT JOIN surgetank.audit_names p ON p.number = a.actor
LEFT JOIN surgetank.audit_names t ON t.number = a.thread
LEFT JOIN surgetank.audit_names o ON o.number = a.origin
WHERE a.id > %(after)s AND (%(since)s::float8 IS NULL OR a.at >= to_timestamp(%(since)s))
ORDER BY a.id LIMIT %(limit)s

-- name: note
-- Primary keys, audit_names_by_name.
SELECT surgetank.note(%(action)s, surgetank.acting(%(actor)s, %(origin)s), %(thread)s::text, NULL::uuid, NULL::uuid, %(detail)s)

-- name: seal
-- Index audit_by_xid.
SELECT surgetank.seal_audit()

-- name: sealed_lately
-- A young seal, if there is one. Primary key.
SELECT n.number FROM (SELECT s.number, s.at FROM surgetank.audit_seals s ORDER BY s.number DESC LIMIT 1) AS n
WHERE n.at > now() - make_interval(secs => %(seconds)s)

-- name: prune
-- Indexes audit_by_time, audit_chain.
SELECT surgetank.prune_audit(to_timestamp(%(before)s), %(most)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: newest_seal
-- Primary key.
SELECT number, extract(epoch FROM at)::float8 AS at, encode(hash, 'hex') AS hash FROM surgetank.audit_seals
ORDER BY number DESC LIMIT 1

-- name: seal_at
-- Primary key.
SELECT encode(hash, 'hex') AS hash FROM surgetank.audit_seals WHERE number = %(number)s

-- name: extent
-- How much there is. Everything is counted.
SELECT count(*) AS rows, count(DISTINCT thread) AS threads, extract(epoch FROM min(at))::float8 AS since FROM surgetank.audit

-- name: next_threads
-- The end of the next piece of chains. Primary key.
SELECT max(thread) AS thread FROM (
    SELECT h.thread FROM surgetank.audit_heads h WHERE h.thread > %(after)s ORDER BY h.thread LIMIT %(limit)s) AS piece

-- name: broken_rows
-- The first row of these chains that is not what it was, or not where it was. Its hash is made here, of its own words: the
-- database's functions might have been changed too. Index audit_chain.
SELECT r.thread, r.nth, r.id, r.sound, r.before, r.hash_before = r.prev_hash AS linked, h.nth AS head_nth, h.hash = r.hash AS at_head,
    r.after, n.name AS thread_id
FROM (
    SELECT a.thread, a.nth, a.id, a.hash, a.prev_hash, a.hash = sha256(convert_to(jsonb_build_array(
            encode(a.prev_hash, 'hex'), a.nth, a.id, to_char(a.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), a.action,
            a.actor, a.thread, a.workflow_id, a.run_id, a.origin, a.detail)::text, 'UTF8')) AS sound,
        coalesce(lag(a.nth) OVER w, h.pruned_nth, 0) AS before, coalesce(lag(a.hash) OVER w, h.pruned_hash, '') AS hash_before,
        lead(a.nth) OVER w AS after
    FROM surgetank.audit a LEFT JOIN surgetank.audit_heads h USING (thread)
    WHERE a.thread > %(after)s AND a.thread <= coalesce(%(to)s, 9223372036854775807)
    WINDOW w AS (PARTITION BY a.thread ORDER BY a.nth)
) AS r
LEFT JOIN surgetank.audit_heads h USING (thread) LEFT JOIN surgetank.audit_names n ON n.number = r.thread
WHERE NOT r.sound OR r.nth <> r.before + 1 OR r.hash_before <> r.prev_hash
    OR (r.after IS NULL AND (r.nth, r.hash) IS DISTINCT FROM (h.nth, h.hash))
ORDER BY r.thread, r.nth LIMIT 1

-- name: broken_heads
-- A chain whose rows are gone, all or the last ones. Primary key, audit_chain.
SELECT h.thread, h.nth, n.name AS thread_id FROM surgetank.audit_heads h LEFT JOIN surgetank.audit_names n ON n.number = h.thread
WHERE h.nth > h.pruned_nth
    AND NOT EXISTS (SELECT FROM surgetank.audit a WHERE a.thread = h.thread AND a.nth = h.nth AND a.hash = h.hash)
ORDER BY h.thread LIMIT 1

-- name: broken_starts
-- A chain whose beginning is gone, and no seal says so. Index audit_seal_points_by_thread.
SELECT h.thread, h.pruned_nth AS nth, n.name AS thread_id
FROM surgetank.audit_heads h LEFT JOIN surgetank.audit_names n ON n.number = h.thread
WHERE h.pruned_nth > 0 AND NOT EXISTS (
    SELECT FROM surgetank.audit_seal_points p JOIN surgetank.audit_seals s ON s.number = p.seal
    WHERE p.thread = h.thread AND s.kind = 'pruned' AND p.nth = h.pruned_nth AND p.hash = h.pruned_hash)
ORDER BY h.thread LIMIT 1

-- name: broken_seals
-- The first seal that is not what it was, or not where it was. Primary keys.
SELECT s.number, s.sound, s.linked, s.number = coalesce(s.before + 1, s.number) AS follows FROM (
    SELECT z.number, lag(z.number) OVER w AS before, coalesce(lag(z.hash) OVER w = z.prev_hash, z.number > 1 OR z.prev_hash = '') AS linked,
        z.hash = sha256(convert_to(jsonb_build_array(encode(z.prev_hash, 'hex'), z.number,
            to_char(z.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'), z.kind, z.detail, z.points,
            encode(z.points_hash, 'hex'))::text, 'UTF8'))
        AND (z.points, z.points_hash) = (SELECT count(*), sha256(convert_to(coalesce(string_agg(
            p.thread || ':' || p.nth || ':' || encode(p.hash, 'hex'), ' ' ORDER BY p.thread), ''), 'UTF8'))
            FROM surgetank.audit_seal_points p WHERE p.seal = z.number) AS sound
    FROM surgetank.audit_seals z WINDOW w AS (ORDER BY z.number)
) AS s
WHERE NOT s.sound OR NOT s.linked OR s.number <> coalesce(s.before + 1, s.number) ORDER BY s.number LIMIT 1

-- name: broken_points
-- What a seal has seen and is gone, though no later seal says that it was pruned. Primary key, audit_chain.
SELECT p.seal, p.thread, p.nth, n.name AS thread_id FROM surgetank.audit_seal_points p
JOIN surgetank.audit_seals s ON s.number = p.seal LEFT JOIN surgetank.audit_names n ON n.number = p.thread
WHERE s.kind = 'heads'
    AND NOT EXISTS (SELECT FROM surgetank.audit a WHERE a.thread = p.thread AND a.nth = p.nth AND a.hash = p.hash)
    AND NOT EXISTS (
        SELECT FROM surgetank.audit_seal_points c JOIN surgetank.audit_seals k ON k.number = c.seal
        WHERE c.thread = p.thread AND c.seal > p.seal AND c.nth >= p.nth AND k.kind = 'pruned')
ORDER BY p.seal, p.thread LIMIT 1
