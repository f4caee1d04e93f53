-- Answers kept for requests that are sent again (server/http/idempotency.py).

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
