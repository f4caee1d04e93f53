-- Retention (checkpoints/sweep.py) and the storage report (checkpoints/storage.py).

-- How far retention has looked, one row per buffer: a thread is pruned through the buffer that writes to it. Whoever
-- holds the row's lock works, all others leave it alone. `last_thread_id` is set while a pass is under way;
-- `limits` are those of the pass: when they change, threads that did not change are looked at again as well.
CREATE TABLE surgetank.retention_progress (
    buffer_id text COLLATE "C" PRIMARY KEY,
    limits text NOT NULL DEFAULT '',
    last_thread_id text COLLATE "C",
    started_at timestamptz,
    finished_at timestamptz,
    checked_since timestamptz,
    next_at timestamptz NOT NULL DEFAULT now(),
    threads_seen bigint NOT NULL DEFAULT 0,
    threads_pruned bigint NOT NULL DEFAULT 0,
    checkpoints_deleted bigint NOT NULL DEFAULT 0
);

-- The few very large values: on large tables the storage report samples all others and counts these exactly.
CREATE INDEX checkpoint_blobs_large_idx ON surgetank.checkpoint_blobs (ns_pk) WHERE octet_length(data) >= 1048576;
