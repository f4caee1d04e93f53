-- Queries that forget old log lines and resolved errors (notify/retention.py). The index each relies on is named.

-- name: claim_retention
-- True for one process at a time.
SELECT pg_try_advisory_xact_lock(731915205, 1)

-- name: forget_logs
-- Retention, in pieces. thread_logs_created_idx.
DELETE FROM surgetank.thread_logs WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM surgetank.thread_logs WHERE created_at < to_timestamp(%(before)s) LIMIT %(limit)s))

-- name: forget_errors
-- Retention of resolved errors, in pieces.
DELETE FROM surgetank.system_errors WHERE id = ANY (ARRAY(
    SELECT id FROM surgetank.system_errors WHERE resolved_at < to_timestamp(%(before)s) LIMIT %(limit)s))

-- name: forget_store_items
-- Items of the store whose time is over: they are not seen any more. store_items_expiry.
DELETE FROM surgetank.store_items WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM surgetank.store_items WHERE expires_at <= now() ORDER BY expires_at LIMIT %(limit)s
    FOR UPDATE SKIP LOCKED))

-- name: forget_hours
DELETE FROM surgetank.system_error_hours WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM surgetank.system_error_hours WHERE hour < to_timestamp(%(before)s) LIMIT %(limit)s))
