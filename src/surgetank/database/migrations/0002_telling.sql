-- Thread logs and system errors (DESIGN.md section 7).

-- (seq, buffer_id) is the order in which the buffer accepted the lines; a reader goes on after a seq.
CREATE TABLE surgetank.thread_logs (
    thread_id text COLLATE "C" NOT NULL,
    seq bigint NOT NULL,
    buffer_id text COLLATE "C" NOT NULL,
    level text NOT NULL,
    created_at timestamptz NOT NULL,
    logger text NOT NULL,
    user_id text,
    message text NOT NULL,
    fields jsonb NOT NULL,
    PRIMARY KEY (thread_id, seq, buffer_id)
);
CREATE INDEX thread_logs_created_idx ON surgetank.thread_logs (created_at);

-- One row per fingerprint; stack trace, message and context are the newest occurrence's.
CREATE TABLE surgetank.system_errors (
    id uuid PRIMARY KEY,
    error_type text NOT NULL,
    severity text NOT NULL,
    thread_id text COLLATE "C",
    error_message text NOT NULL,
    stack_trace text NOT NULL,
    error_context jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    resolved_at timestamptz,
    resolved_by text,
    resolution_notes text,
    fingerprint text NOT NULL UNIQUE,
    occurrences bigint NOT NULL,
    first_seen timestamptz GENERATED ALWAYS AS (created_at) STORED,
    last_seen timestamptz NOT NULL,
    regressions integer NOT NULL DEFAULT 0,
    regressed_at timestamptz,
    previous_resolution jsonb,
    snoozed_until timestamptz,
    snoozed_by text
);
CREATE INDEX system_errors_type_idx ON surgetank.system_errors (error_type);
CREATE INDEX system_errors_unresolved_idx ON surgetank.system_errors (last_seen DESC, id) WHERE resolved_at IS NULL;
CREATE INDEX system_errors_created_idx ON surgetank.system_errors (created_at);
CREATE INDEX system_errors_last_seen_idx ON surgetank.system_errors (last_seen DESC, id);
CREATE INDEX system_errors_thread_idx ON surgetank.system_errors (thread_id);
CREATE INDEX system_errors_severity_idx ON surgetank.system_errors (severity, created_at);
CREATE INDEX system_errors_type_unresolved_idx ON surgetank.system_errors (error_type) WHERE resolved_at IS NULL;

-- Which threads an error touched, and how often in which hour: for filters and trends. Both are bounded by retention.
CREATE TABLE surgetank.system_error_threads (
    error_id uuid NOT NULL REFERENCES surgetank.system_errors ON DELETE CASCADE,
    thread_id text COLLATE "C" NOT NULL,
    occurrences bigint NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    PRIMARY KEY (error_id, thread_id)
);
CREATE INDEX system_error_threads_thread_idx ON surgetank.system_error_threads (thread_id);
CREATE TABLE surgetank.system_error_hours (
    error_id uuid NOT NULL REFERENCES surgetank.system_errors ON DELETE CASCADE,
    hour timestamptz NOT NULL,
    occurrences bigint NOT NULL,
    PRIMARY KEY (hour, error_id)
);
CREATE INDEX system_error_hours_error_idx ON surgetank.system_error_hours (error_id);

-- Append-only. It has no reference to the error: it outlives a deleted one.
CREATE TABLE surgetank.system_error_audit (
    audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    error_id uuid NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    notes text NOT NULL,
    detail jsonb NOT NULL
);
CREATE INDEX system_error_audit_error_idx ON surgetank.system_error_audit (error_id, audit_id);
