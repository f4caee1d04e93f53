-- usable from: 0022
-- The manifest of user tables. A commit is a snapshot: its number is taken under one advisory lock that is held to the end of the
-- transaction, so that snapshots appear in order. What is live has no end_snapshot.
CREATE SEQUENCE surgetank.table_snapshot_numbers MINVALUE 1;
CREATE TABLE surgetank.table_snapshots (
    snapshot_id bigint PRIMARY KEY,
    table_id bigint,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    changes text NOT NULL,
    schema_version bigint NOT NULL  -- of the catalogue: it grows with each change of a table's columns
);
CREATE INDEX table_snapshots_by_table ON surgetank.table_snapshots (table_id, snapshot_id);
INSERT INTO surgetank.table_snapshots (snapshot_id, changes, schema_version) VALUES (0, 'created_schema:"main"', 0);

CREATE TABLE surgetank.table_files (
    file_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_id bigint NOT NULL,
    path text NOT NULL UNIQUE,
    bucket integer NOT NULL,
    buckets integer NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    footer_bytes bigint NOT NULL,
    min_user text COLLATE "C",
    max_user text COLLATE "C",
    min_seq bigint NOT NULL,
    max_seq bigint NOT NULL,
    row_start bigint NOT NULL,  -- how many rows the table was ever given before
    schema_version integer NOT NULL,
    begin_snapshot bigint NOT NULL,
    end_snapshot bigint
);
CREATE INDEX table_files_live ON surgetank.table_files (table_id) WHERE end_snapshot IS NULL;
CREATE INDEX table_files_by_table ON surgetank.table_files (table_id, begin_snapshot);
CREATE INDEX table_files_ended ON surgetank.table_files (end_snapshot) WHERE end_snapshot IS NOT NULL;

-- Deleted positions: of one data file one live row.
CREATE TABLE surgetank.table_delete_files (
    delete_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    file_id bigint NOT NULL REFERENCES surgetank.table_files ON DELETE CASCADE,
    table_id bigint NOT NULL,
    path text NOT NULL UNIQUE,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    footer_bytes bigint NOT NULL,
    begin_snapshot bigint NOT NULL,
    end_snapshot bigint
);
CREATE UNIQUE INDEX table_delete_files_live ON surgetank.table_delete_files (file_id) WHERE end_snapshot IS NULL;
CREATE INDEX table_delete_files_of ON surgetank.table_delete_files (file_id);
CREATE INDEX table_delete_files_ended ON surgetank.table_delete_files (end_snapshot) WHERE end_snapshot IS NOT NULL;

CREATE TABLE surgetank.table_column_stats (
    file_id bigint NOT NULL REFERENCES surgetank.table_files ON DELETE CASCADE,
    column_id integer NOT NULL,
    bytes bigint NOT NULL,
    value_count bigint NOT NULL,
    null_count bigint NOT NULL,
    least text COLLATE "C",
    greatest text COLLATE "C",
    nan boolean,
    PRIMARY KEY (file_id, column_id)
);

-- Up to where a hot store's changes of a table are in it. `held` are users whose changes are only in it up to a version of their own.
CREATE TABLE surgetank.table_progress (
    table_id bigint NOT NULL,
    store_id text NOT NULL,
    through bigint NOT NULL,
    held jsonb NOT NULL DEFAULT '{}',
    token bigint NOT NULL,
    commits bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (table_id, store_id)
);

-- One row for each commit of a flush job. The key is what a repeated commit would hit.
CREATE TABLE surgetank.table_jobs (
    table_id bigint NOT NULL,
    store_id text NOT NULL,
    commit_number bigint NOT NULL,
    job_id text NOT NULL,
    trigger text NOT NULL,
    node text NOT NULL,
    snapshot_id bigint NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    outcome jsonb NOT NULL,
    PRIMARY KEY (table_id, store_id, commit_number)
);
CREATE INDEX table_jobs_by_job ON surgetank.table_jobs (job_id);

-- Rows that a table was ever given, and has now, in files.
CREATE TABLE surgetank.table_totals (
    table_id bigint PRIMARY KEY,
    given bigint NOT NULL,
    rows bigint NOT NULL,
    bytes bigint NOT NULL,
    dropped_at timestamptz  -- nothing is committed to it any more
);

-- Files that nothing names any more. They are unlinked when nobody can be reading them.
CREATE TABLE surgetank.table_garbage (
    path text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX table_garbage_by_age ON surgetank.table_garbage (since);

-- Where the files of a storage are.
CREATE TABLE surgetank.table_storages (
    storage text PRIMARY KEY,
    root text NOT NULL
);
