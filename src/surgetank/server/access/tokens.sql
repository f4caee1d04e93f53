-- Tokens (server/access/tokens.py).

-- name: create_token
-- A `user` is a viewer who may write: programs from before migration 0045 know four roles.
INSERT INTO surgetank.api_tokens (id, hash, user_name, role, reads_only, label, created_by, expires_at)
VALUES (%(id)s, %(hash)s, %(user)s, %(role)s, %(reads_only)s, %(label)s, %(by)s, to_timestamp(%(expires_at)s))
RETURNING id, user_name, surgetank.token_role(role, reads_only) AS role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, NULL::float8 AS revoked_at, NULL AS revoked_by,
    NULL::float8 AS last_used_at

-- name: find_token
-- By hash (unique) or id (primary key).
SELECT id, user_name, surgetank.token_role(role, reads_only) AS role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at
FROM surgetank.api_tokens WHERE hash = %(hash)s::bytea OR id = %(id)s::text

-- name: touch_token
-- Primary key. At most one write a minute.
UPDATE surgetank.api_tokens SET last_used_at = now()
WHERE id = %(id)s AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')

-- name: list_tokens
-- Newest first, after a place in that order. Index api_tokens_created_idx.
SELECT id, user_name, surgetank.token_role(role, reads_only) AS role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at
FROM surgetank.api_tokens
WHERE %(last_id)s::text IS NULL OR (created_at, id)
    < ((SELECT created_at FROM surgetank.api_tokens WHERE id = %(last_id)s), %(last_id)s)
ORDER BY created_at DESC, id DESC LIMIT %(limit)s

-- name: open_tokens
-- Of a user, made by somebody, good still. All tokens.
SELECT id FROM surgetank.api_tokens
WHERE user_name = %(user)s AND created_by = %(by)s AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())

-- name: revoke_token
-- Primary key. A token that was revoked before keeps when and by whom.
UPDATE surgetank.api_tokens
SET revoked_at = coalesce(revoked_at, now()), revoked_by = coalesce(revoked_by, %(by)s)
WHERE id = %(id)s
RETURNING id, user_name, surgetank.token_role(role, reads_only) AS role, label, created_by, extract(epoch FROM created_at)::float8 AS created_at,
    extract(epoch FROM expires_at)::float8 AS expires_at, extract(epoch FROM revoked_at)::float8 AS revoked_at,
    revoked_by, extract(epoch FROM last_used_at)::float8 AS last_used_at

-- name: usable_token
-- Whether anybody can log in.
SELECT EXISTS (
    SELECT FROM surgetank.api_tokens WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
) AS there
