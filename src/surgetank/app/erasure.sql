-- Queries of erasing a user (app/erasure.py). Parameters only; the index each relies on is named. An erasure is rare and
-- may read a table whole where there is no index for it.

-- name: begin
-- One row per user, the same again for an erasure that goes on. It has the name, so that it can. Primary key.
-- One that begins is in the audit, with the hash of the name.
WITH noted AS (
    SELECT surgetank.note('user_erased', surgetank.acting(%(actor)s, %(origin)s), NULL, NULL, NULL,
        jsonb_build_object('subject', encode(%(subject)s::bytea, 'hex')))
    WHERE NOT EXISTS (SELECT FROM surgetank.erasures g WHERE g.subject = %(subject)s AND g.state = 'running'))
INSERT INTO surgetank.erasures AS e (subject, state, words, buffer_id)
VALUES (%(subject)s, 'running', ARRAY[%(user)s], %(buffer_id)s)
ON CONFLICT (subject) DO UPDATE SET state = 'running', finished_at = NULL, buffer_id = excluded.buffer_id, tried_at = now(),
    words = CASE WHEN %(user)s = ANY (e.words) THEN e.words ELSE e.words || %(user)s::text END,
    removed = CASE WHEN e.state = 'running' THEN e.removed ELSE '{}' END
RETURNING threads, words, removed, (SELECT count(*) FROM noted) AS noted

-- name: claim
-- An erasure through this buffer that is not finished, was not tried for a while, and waits for no file. All erasures, table_garbage.
UPDATE surgetank.erasures SET tried_at = now() WHERE subject = (
    SELECT e.subject FROM surgetank.erasures e
    WHERE e.state = 'running' AND e.buffer_id = %(buffer_id)s AND e.tried_at < now() - make_interval(secs => %(after_s)s)
        AND NOT EXISTS (SELECT FROM surgetank.table_garbage g WHERE g.erased)
    ORDER BY e.tried_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING subject, words

-- name: note
-- Primary key.
UPDATE surgetank.erasures SET threads = %(threads)s, words = %(words)s, removed = %(removed)s WHERE subject = %(subject)s

-- name: finish
-- Primary key.
UPDATE surgetank.erasures SET state = 'completed', threads = '{}', words = '{}', finished_at = now(), removed = %(removed)s
WHERE subject = %(subject)s

-- name: states
-- Newest first; all of them, or one. A user's name is there as long as it is needed. Primary key, or all.
SELECT encode(e.subject, 'hex') AS subject, e.state, cardinality(e.threads) AS threads, e.removed, e.started_at, e.finished_at, e.tried_at,
    (SELECT w FROM unnest(e.words) w WHERE sha256(convert_to(w, 'UTF8')) = e.subject LIMIT 1) AS user_name
FROM surgetank.erasures e WHERE %(subject)s::bytea IS NULL OR e.subject = %(subject)s
ORDER BY e.started_at DESC, e.subject LIMIT %(limit)s

-- name: owned
-- Threads that a checkpoint gives to the user, and those that are known by their log only and whose first line is the
-- user's. For the key user_id: checkpoints_owner_idx.
SELECT DISTINCT s.thread_id FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
WHERE c.metadata ->> %(key)s = %(user)s
UNION
SELECT l.thread_id FROM (
    SELECT DISTINCT ON (thread_id) thread_id, user_id FROM surgetank.thread_logs
    WHERE thread_id IN (SELECT thread_id FROM surgetank.thread_logs WHERE user_id = %(user)s) AND user_id IS NOT NULL
    ORDER BY thread_id, seq) l
WHERE l.user_id = %(user)s
    AND NOT EXISTS (SELECT FROM surgetank.checkpoint_namespaces s WHERE s.thread_id = l.thread_id)
UNION
SELECT t.thread_id FROM surgetank.thread_status t WHERE t.owner = %(user)s

-- name: lines
-- Lines that the user wrote in threads of others.
DELETE FROM surgetank.thread_logs WHERE user_id = %(user)s RETURNING thread_id, seq

-- name: error_words
-- What errors about the user's threads say, before it is removed: it may have been alerted. system_errors_thread_idx.
SELECT DISTINCT left(error_message, 200) AS word FROM surgetank.system_errors
WHERE thread_id = ANY (%(threads)s) OR error_context ->> %(key)s = %(user)s

-- name: errors
-- system_errors_thread_idx.
UPDATE surgetank.system_errors SET thread_id = NULL, error_context = '{}', stack_trace = '',
    error_message = 'The text was erased with the data of the user whom it concerned.'
WHERE thread_id = ANY (%(threads)s) OR error_context ->> %(key)s = %(user)s OR left(error_message, 200) = ANY (%(words)s)

-- name: error_people
-- What the user did about errors stays, without the name.
WITH a AS (UPDATE surgetank.system_error_audit SET actor = '(erased)', notes = '' WHERE actor = %(user)s)
UPDATE surgetank.system_errors SET
    resolved_by = CASE WHEN resolved_by = %(user)s THEN '(erased)' ELSE resolved_by END,
    resolution_notes = CASE WHEN resolved_by = %(user)s THEN '' ELSE resolution_notes END,
    snoozed_by = CASE WHEN snoozed_by = %(user)s THEN '(erased)' ELSE snoozed_by END,
    previous_resolution = CASE WHEN previous_resolution ->> 'resolved_by' = %(user)s THEN NULL ELSE previous_resolution END
WHERE %(user)s IN (resolved_by, snoozed_by, previous_resolution ->> 'resolved_by')

-- name: answers
-- Kept answers to requests of the user. Primary key (a scope is a prefix of it).
DELETE FROM surgetank.idempotency_keys
WHERE scope IN ('user:' || %(user)s, 'project:' || %(user)s)
    OR scope IN (SELECT 'token:' || id FROM surgetank.api_tokens WHERE user_name = %(user)s)

-- name: tokens
DELETE FROM surgetank.api_tokens WHERE user_name = %(user)s

-- name: token_people
UPDATE surgetank.api_tokens SET
    created_by = CASE WHEN created_by = %(user)s THEN '(erased)' ELSE created_by END,
    revoked_by = CASE WHEN revoked_by = %(user)s THEN '(erased)' ELSE revoked_by END
WHERE %(user)s IN (created_by, revoked_by)

-- name: run_people
-- Runs of others that the user cancelled.
UPDATE surgetank.runs SET cancel_actor = '(erased)' WHERE cancel_actor = %(user)s

-- name: webhooks
-- Webhooks of the user's runs, in whosever threads. Index webhook_deliveries_of_owner.
DELETE FROM surgetank.webhook_deliveries WHERE owner = %(user)s

-- name: assistants
-- With their versions. Index assistants_of_owner.
DELETE FROM surgetank.assistants WHERE owner = %(user)s

-- name: crons
-- Index crons_of_owner.
DELETE FROM surgetank.crons WHERE owner = %(user)s

-- name: webhook_people
-- Those of others that would say that the user cancelled the run.
UPDATE surgetank.webhook_deliveries SET run = jsonb_set(run, '{cancel_actor}', '"(erased)"')
WHERE run ->> 'cancel_actor' = %(user)s

-- name: approval_people
-- Decisions of the user about what others' graphs asked. Few rows name a person; no index.
UPDATE surgetank.user_checkpoints SET
    resolved_by = CASE WHEN resolved_by = %(user)s THEN '(erased)' ELSE resolved_by END,
    first_approver = CASE WHEN first_approver = %(user)s THEN '(erased)' ELSE first_approver END,
    assignee = CASE WHEN assignee = %(user)s THEN NULL ELSE assignee END,
    user_notes = CASE WHEN resolved_by = %(user)s THEN NULL ELSE user_notes END
WHERE %(user)s IN (resolved_by, first_approver, assignee)

-- name: audit_people
-- The rows of the audit stay, and name nobody any more, nor from where they acted. Index audit_names_by_name.
WITH actor AS (
    DELETE FROM surgetank.audit_names WHERE kind = 'actor' AND name = %(user)s RETURNING number
)
DELETE FROM surgetank.audit_names o USING actor a WHERE o.kind = 'origin' AND starts_with(o.name, a.number || '@')

-- name: audit_threads
-- Index audit_names_by_name.
DELETE FROM surgetank.audit_names WHERE kind = 'thread' AND name = ANY (%(threads)s)

-- name: store_items
-- The user's part of the store, and with the scope `named` what has their name; vectors go along. Primary key.
DELETE FROM surgetank.store_items
WHERE (path >= %(low)s AND path < %(high)s) OR (%(named)s AND position(%(label)s::text IN '.' || path) > 0)

-- name: store_named
-- Whether items are left in namespaces that name the user.
SELECT FROM surgetank.store_items WHERE position(%(label)s::text IN '.' || path) > 0 LIMIT 1

-- name: naming_threads
-- The tables that name threads, whatever they are for. What other buffers have there is theirs: they would take a progress
-- that is gone for a database that went back, and save again what they still keep.
SELECT c.table_name, c.column_name, EXISTS (
    SELECT FROM information_schema.columns b
    WHERE b.table_schema = 'surgetank' AND b.table_name = c.table_name AND b.column_name = 'buffer_id') AS by_buffer
FROM information_schema.columns c JOIN information_schema.tables t
    USING (table_schema, table_name)
WHERE c.table_schema = 'surgetank' AND t.table_type = 'BASE TABLE' AND c.data_type = 'text'
    AND c.column_name IN ('thread_id', 'partition', 'last_thread_id')
    AND c.table_name NOT IN ('system_errors', 'threads', 'checkpoint_namespaces')
ORDER BY 1, 2

-- name: tables
SELECT table_name FROM information_schema.tables
WHERE table_schema = 'surgetank' AND table_type = 'BASE TABLE' AND table_name <> 'schema_migrations' ORDER BY 1

-- name: other_buffers
-- Buffers that wrote to this database and are not the one at hand. Primary key.
SELECT DISTINCT buffer_id FROM surgetank.partition_progress WHERE buffer_id <> %(buffer_id)s ORDER BY 1

-- name: rates
-- Primary key.
DELETE FROM surgetank.run_rates WHERE owner = %(user)s

-- name: analyst_users
-- Whom analysts were to see. An erasure may read it as a whole.
DELETE FROM surgetank.analyst_users WHERE user_name = %(user)s

-- name: table_owners
-- Who made tables. The catalogue changes by it, so that copies beside buffers lose the name too.
WITH changed AS (
    UPDATE surgetank.table_catalog SET version = greatest(version + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    WHERE EXISTS (SELECT FROM surgetank.tables WHERE owner = %(user)s) RETURNING version
)
UPDATE surgetank.tables t SET owner = NULL, version = changed.version FROM changed WHERE t.owner = %(user)s
