-- Who may use the server, and which answers it keeps for requests that are sent again (docs/reference/access.md).

-- One row per token. Only the SHA-256 of a token is here: whoever reads this table can't use what it lists.
CREATE TABLE surgetank.api_tokens (
    id text COLLATE "C" PRIMARY KEY,
    hash bytea NOT NULL UNIQUE,
    user_name text COLLATE "C" NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'reviewer', 'operator', 'admin')),
    label text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text NOT NULL,
    expires_at timestamptz,
    revoked_at timestamptz,
    revoked_by text,
    last_used_at timestamptz
);
CREATE INDEX api_tokens_created_idx ON surgetank.api_tokens (created_at, id);

-- One row per Idempotency-Key of a caller: claimed when the request begins, finished with its answer.
CREATE TABLE surgetank.idempotency_keys (
    scope text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    fingerprint bytea NOT NULL,
    claim text COLLATE "C" NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    status smallint,
    media_type text,
    body bytea,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_keys_age_idx ON surgetank.idempotency_keys (claimed_at);

-- The threads of an owner: `user_id` is the default of the setting owner_key. For another key, make the like.
CREATE INDEX checkpoints_owner_idx ON surgetank.checkpoints ((metadata ->> 'user_id'), ns_pk)
    WHERE (metadata ->> 'user_id') IS NOT NULL;

-- Threads, those with the newest checkpoint first.
CREATE INDEX threads_newest_idx ON surgetank.threads ((coalesce(checkpoint_id, '')), thread_id);
