-- usable from: 0022
-- Who flushes, runs graphs or serves (app/workers.py). A process writes its row again and again while it lives, and removes it when it
-- ends in order; all times are the database's. Rows of those that were killed stay for a day.
CREATE TABLE surgetank.workers (
    worker_id uuid PRIMARY KEY,
    node text COLLATE "C" NOT NULL,
    host text NOT NULL,
    pid integer NOT NULL,
    roles text[] NOT NULL,
    claims_as text[] NOT NULL,  -- under which names it claims runs
    buffer_id text COLLATE "C" NOT NULL,
    version text NOT NULL,
    since timestamptz NOT NULL,
    beat_at timestamptz NOT NULL,
    beat_s double precision NOT NULL,  -- how often it writes its row
    stopping boolean NOT NULL,
    report jsonb NOT NULL  -- what it holds, and how fast it is
);
