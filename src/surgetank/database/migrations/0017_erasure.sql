-- Erasing a user's data (erasure.py). One row per user, known by the SHA-256 of the name; what names the user or a thread
-- stands here only while the erasure is under way, so that one that was killed goes on.
CREATE TABLE surgetank.erasures (
    subject bytea PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('running', 'completed')),
    threads text[] NOT NULL DEFAULT '{}',
    words text[] NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    removed jsonb NOT NULL DEFAULT '{}'
);
