-- usable from: 0022
-- The catalogue of user tables. Every change takes the one row of table_catalog, writes a new version into it, and marks what it
-- changed with it: who has seen a version asks for what is newer. Versions grow, in an older copy of the database too.
CREATE TABLE surgetank.table_catalog (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    catalog_id uuid NOT NULL DEFAULT gen_random_uuid(),
    version bigint NOT NULL
);
INSERT INTO surgetank.table_catalog (version) VALUES (1);

CREATE TABLE surgetank.table_namespaces (
    namespace_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX table_namespaces_by_name ON surgetank.table_namespaces (lower(name));
INSERT INTO surgetank.table_namespaces (name) VALUES ('public');

-- A dropped table keeps its row, without columns: its number is never given again, and who knew it learns that it is gone.
CREATE TABLE surgetank.tables (
    table_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace_id bigint NOT NULL REFERENCES surgetank.table_namespaces ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    kind text NOT NULL CHECK (kind IN ('USER', 'SHARED', 'STREAM')),
    key text[] NOT NULL,
    access text NOT NULL CHECK (access IN ('private', 'read', 'write')),
    flush_rows bigint,
    flush_interval_s double precision,
    ttl_s double precision,
    storage text NOT NULL,
    owner text,
    schema_version integer NOT NULL DEFAULT 1,
    next_column_id integer NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    dropped_at timestamptz,
    version bigint NOT NULL
);
CREATE UNIQUE INDEX tables_by_name ON surgetank.tables (namespace_id, lower(name)) WHERE dropped_at IS NULL;
CREATE INDEX tables_by_version ON surgetank.tables (version);

-- Values of defaults are JSON as it is written for the column's type, in a list of one: null there is a value of JSON, no list is none.
CREATE TABLE surgetank.table_columns (
    table_id bigint NOT NULL REFERENCES surgetank.tables ON DELETE CASCADE,
    column_id integer NOT NULL,  -- the Parquet field id
    name text COLLATE "C" NOT NULL,
    type text NOT NULL,
    nullable boolean NOT NULL,
    default_kind text CHECK (default_kind IN ('constant', 'now', 'uuid')),
    default_value json,
    since integer NOT NULL DEFAULT 1,  -- the schema version that it came with
    initial json,  -- of rows from before
    PRIMARY KEY (table_id, column_id)
);
CREATE UNIQUE INDEX table_columns_by_name ON surgetank.table_columns (table_id, lower(name));
