-- Queries of the server: tokens, owners and lists of threads, kept answers (server/).

-- name: create_token
INSERT INTO surgetank.api_tokens (id, hash, user_name, role, label, created_by, expires_at)
VALUES (%(id)s, %(hash)s, %(user)s, %(role)s, %(label)s, %(by)s, to_timestamp(%(expires_at)s))
RETURNING id, user_name, role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, NULL::float8 AS revoked_at, NULL AS revoked_by,
    NULL::float8 AS last_used_at

-- name: find_token
-- By hash (unique) or id (primary key).
SELECT id, user_name, role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at
FROM surgetank.api_tokens WHERE hash = %(hash)s::bytea OR id = %(id)s::text

-- name: touch_token
-- Primary key. At most one write a minute.
UPDATE surgetank.api_tokens SET last_used_at = now()
WHERE id = %(id)s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')

-- name: list_tokens
-- Newest first, after a place in that order. Index api_tokens_created_idx.
SELECT id, user_name, role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at
FROM surgetank.api_tokens
WHERE %(last_id)s::text IS NULL OR (created_at, id)
    < ((SELECT created_at FROM surgetank.api_tokens WHERE id = %(last_id)s), %(last_id)s)
ORDER BY created_at DESC, id DESC LIMIT %(limit)s

-- name: revoke_token
-- Primary key. A token that was revoked before keeps when and by whom.
UPDATE surgetank.api_tokens
SET revoked_at = coalesce(revoked_at, now()), revoked_by = coalesce(revoked_by, %(by)s)
WHERE id = %(id)s
RETURNING id, user_name, role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at

-- name: usable_token
-- Whether anybody can log in.
SELECT EXISTS (
    SELECT FROM surgetank.api_tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
) AS there

-- name: owners
-- Whether threads are there, and the first owner that their checkpoints name, the root graph's before others'.
-- Unique (thread_id, checkpoint_ns), primary key of checkpoints.
SELECT u.thread_id,
    EXISTS (SELECT FROM surgetank.checkpoint_namespaces s WHERE s.thread_id = u.thread_id) AS there,
    coalesce(
        (SELECT c.metadata ->> %(key)s
         FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
         WHERE s.thread_id = u.thread_id AND s.checkpoint_ns = '' AND c.metadata ->> %(key)s IS NOT NULL
         ORDER BY c.checkpoint_id LIMIT 1),
        (SELECT c.metadata ->> %(key)s
         FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
         WHERE s.thread_id = u.thread_id AND c.metadata ->> %(key)s IS NOT NULL
         ORDER BY c.checkpoint_id LIMIT 1)
    ) AS owner
FROM unnest(%(threads)s::text[]) AS u (thread_id)

-- name: threads_page
-- Threads, newest checkpoint first, without those that the buffer knows better. Index threads_newest_idx.
SELECT t.thread_id, coalesce(t.checkpoint_id, '') AS newest, extract(epoch FROM t.updated_at)::float8 AS updated_at
FROM surgetank.threads t
WHERE (%(last_thread)s::text IS NULL OR (coalesce(t.checkpoint_id, ''), t.thread_id)
        < (%(last_newest)s COLLATE "C", %(last_thread)s COLLATE "C"))
    AND NOT t.thread_id = ANY(%(hidden)s::text[])
ORDER BY coalesce(t.checkpoint_id, '') DESC, t.thread_id DESC
LIMIT %(limit)s

-- name: threads_of_owner
-- The same for one owner. Index checkpoints_owner_idx, which is read once per namespace, not per checkpoint.
WITH RECURSIVE mine AS (
    (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> %(key)s = %(owner)s ORDER BY c.ns_pk LIMIT 1)
    UNION ALL
    SELECT (SELECT c.ns_pk FROM surgetank.checkpoints c
            WHERE c.metadata ->> %(key)s = %(owner)s AND c.ns_pk > m.ns_pk ORDER BY c.ns_pk LIMIT 1)
    FROM mine m WHERE m.ns_pk IS NOT NULL
)
SELECT t.thread_id, coalesce(t.checkpoint_id, '') AS newest, extract(epoch FROM t.updated_at)::float8 AS updated_at
FROM surgetank.threads t
WHERE t.thread_id IN (
        SELECT s.thread_id FROM mine JOIN surgetank.checkpoint_namespaces s USING (ns_pk))
    AND (%(last_thread)s::text IS NULL OR (coalesce(t.checkpoint_id, ''), t.thread_id)
        < (%(last_newest)s COLLATE "C", %(last_thread)s COLLATE "C"))
    AND NOT t.thread_id = ANY(%(hidden)s::text[])
ORDER BY coalesce(t.checkpoint_id, '') DESC, t.thread_id DESC
LIMIT %(limit)s

-- name: claim_key
-- Primary key. A claim that was never finished (its server died) may be taken over after a while.
INSERT INTO surgetank.idempotency_keys AS k (scope, key, fingerprint, claim)
VALUES (%(scope)s, %(key)s, %(fingerprint)s, %(claim)s)
ON CONFLICT (scope, key) DO UPDATE
SET fingerprint = excluded.fingerprint, claim = excluded.claim, claimed_at = now(), status = NULL,
    media_type = NULL, body = NULL
WHERE k.claimed_at < now() - make_interval(secs => %(kept_s)s)
    OR (k.status IS NULL AND k.fingerprint = excluded.fingerprint
        AND k.claimed_at < now() - make_interval(secs => %(abandoned_s)s))
RETURNING k.key

-- name: kept_answer
-- Primary key.
SELECT fingerprint, status, media_type, body FROM surgetank.idempotency_keys WHERE scope = %(scope)s AND key = %(key)s

-- name: keep_answer
-- Primary key. Only who holds the claim may finish it.
UPDATE surgetank.idempotency_keys SET status = %(status)s, media_type = %(media_type)s, body = %(body)s
WHERE scope = %(scope)s AND key = %(key)s AND claim = %(claim)s

-- name: release_key
-- Primary key.
DELETE FROM surgetank.idempotency_keys WHERE scope = %(scope)s AND key = %(key)s AND claim = %(claim)s

-- name: forget_keys
-- Index idempotency_keys_age_idx.
DELETE FROM surgetank.idempotency_keys WHERE claimed_at < now() - make_interval(secs => %(kept_s)s)
