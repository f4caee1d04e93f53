-- The cold layout of LangGraph checkpoints (DESIGN.md section 11).
-- Ids are compared bytewise everywhere (COLLATE "C"), as LangGraph compares them in Python.

-- One row per thread: its latest state as a bounded, sanitized projection for SQL. `revision` grows with each
-- transaction that writes to the thread, so that a writer knows whether what it remembers still holds.
CREATE TABLE surgetank.threads (
    thread_id text COLLATE "C" PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    revision bigint NOT NULL DEFAULT 1,
    checkpoint_id text COLLATE "C",
    versions jsonb NOT NULL DEFAULT '{}',
    state jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX threads_updated_idx ON surgetank.threads (updated_at);

-- One row per thread and checkpoint namespace; the other tables refer to it by a small number.
CREATE TABLE surgetank.checkpoint_namespaces (
    ns_pk bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    thread_id text COLLATE "C" NOT NULL,
    checkpoint_ns text COLLATE "C" NOT NULL,
    UNIQUE (thread_id, checkpoint_ns)
);

-- body: zstd of (structure, present channels, metadata, extra), see sinks/rows.py.
CREATE TABLE surgetank.checkpoints (
    ns_pk bigint NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    parent_id text COLLATE "C",
    written_at timestamptz NOT NULL DEFAULT now(),
    codec smallint NOT NULL,
    body bytea NOT NULL,
    metadata jsonb NOT NULL,
    scalars jsonb NOT NULL,
    PRIMARY KEY (ns_pk, checkpoint_id)
);
CREATE INDEX checkpoints_run_idx ON surgetank.checkpoints ((metadata ->> 'run_id')) WHERE metadata ? 'run_id';

-- One row per channel version, whole or as a patch against version base_n of the same channel.
CREATE TABLE surgetank.checkpoint_blobs (
    ns_pk bigint NOT NULL,
    n integer NOT NULL,
    base_n integer,
    raw_bytes integer NOT NULL,
    position smallint NOT NULL,
    codec smallint NOT NULL,
    channel text COLLATE "C" NOT NULL,
    version text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (ns_pk, channel, n)
);
CREATE INDEX checkpoint_blobs_version_idx ON surgetank.checkpoint_blobs (ns_pk, channel, hashtext(version));

CREATE TABLE surgetank.checkpoint_writes (
    ns_pk bigint NOT NULL,
    idx integer NOT NULL,
    codec smallint NOT NULL,
    checkpoint_id text COLLATE "C" NOT NULL,
    task_id text COLLATE "C" NOT NULL,
    task_path text COLLATE "C" NOT NULL,
    channel text COLLATE "C" NOT NULL,
    type text COLLATE "C" NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (ns_pk, checkpoint_id, task_id, idx)
);

-- Values are compressed before they come here.
ALTER TABLE surgetank.checkpoints ALTER COLUMN body SET STORAGE EXTERNAL;
ALTER TABLE surgetank.checkpoint_blobs ALTER COLUMN data SET STORAGE EXTERNAL;
ALTER TABLE surgetank.checkpoint_writes ALTER COLUMN data SET STORAGE EXTERNAL;

-- How far each partition of each buffer has been written, and the newest fencing token seen.
-- It makes a repeated flush skip what is there, and a worker without its lease fail.
CREATE TABLE surgetank.partition_progress (
    buffer_id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    token bigint NOT NULL,
    seq bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (buffer_id, stream, partition)
);

-- Threads deleted a short while ago and the newest ids that went with them: what arrives late for them is dropped.
CREATE TABLE surgetank.thread_deletions (
    operation_id text COLLATE "C" PRIMARY KEY,
    thread_id text COLLATE "C" NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    checkpoint_ns text[] NOT NULL,
    checkpoint_ids text[] NOT NULL
);
CREATE INDEX thread_deletions_thread_idx ON surgetank.thread_deletions (thread_id);
CREATE INDEX thread_deletions_age_idx ON surgetank.thread_deletions (deleted_at);

CREATE VIEW surgetank.checkpoint_history AS
SELECT s.thread_id, s.checkpoint_ns, c.checkpoint_id, c.parent_id, c.written_at, c.metadata, c.scalars
FROM surgetank.checkpoints c
JOIN surgetank.checkpoint_namespaces s USING (ns_pk);
COMMENT ON VIEW surgetank.checkpoint_history IS 'Checkpoints with their thread and namespace, for SQL.';
