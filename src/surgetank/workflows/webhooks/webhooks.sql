-- Webhooks of runs (0025_webhooks.sql). Parameters only.

-- name: claim
-- Take what is due, of one host not too much, so that a slow one holds up no other. It is due again after the lease: whoever
-- dies while he sends loses nothing. Index webhook_deliveries_due.
WITH oldest AS (
    SELECT delivery_id, host, due_at FROM surgetank.webhook_deliveries
    WHERE status = 'pending' AND due_at <= now() ORDER BY due_at LIMIT 500
), ranked AS (
    SELECT delivery_id, due_at, row_number() OVER (PARTITION BY host ORDER BY due_at) AS nth FROM oldest
), due AS (
    SELECT d.delivery_id FROM surgetank.webhook_deliveries d JOIN ranked r USING (delivery_id)
    WHERE r.nth <= %(most_of_host)s AND d.status = 'pending' AND d.due_at <= now()
    ORDER BY r.due_at LIMIT %(most)s FOR UPDATE OF d SKIP LOCKED
)
UPDATE surgetank.webhook_deliveries d
SET attempts = d.attempts + 1, due_at = now() + make_interval(secs => %(lease_s)s)
FROM due WHERE d.delivery_id = due.delivery_id
RETURNING d.*

-- name: record
-- What came of an attempt, unless somebody else has it. Primary key.
UPDATE surgetank.webhook_deliveries d SET
    status = %(status)s, tries = (CASE WHEN jsonb_array_length(d.tries) >= %(kept)s THEN d.tries - 0 ELSE d.tries END) || %(attempt)s,
    due_at = now() + make_interval(secs => %(pause_s)s),
    ended_at = CASE WHEN %(status)s <> 'pending' THEN now() END,
    run = CASE WHEN %(status)s = 'delivered' THEN NULL ELSE d.run END
WHERE d.delivery_id = %(delivery_id)s AND d.attempts = %(attempts)s AND d.status = 'pending'
RETURNING d.delivery_id

-- name: list
-- Newest first. Indexes webhook_deliveries_by_seq, webhook_deliveries_of_owner, webhook_deliveries_of_run.
SELECT * FROM surgetank.webhook_deliveries d
WHERE (%(owner)s::text IS NULL OR d.owner = %(owner)s) AND (%(status)s::text IS NULL OR d.status = %(status)s)
    AND (%(run_id)s::uuid IS NULL OR d.run_id = %(run_id)s) AND (%(before)s::bigint IS NULL OR d.seq < %(before)s)
ORDER BY d.seq DESC LIMIT %(limit)s

-- name: get
-- Primary key.
SELECT * FROM surgetank.webhook_deliveries WHERE delivery_id = %(delivery_id)s

-- name: retry
-- Due now, and for so many more attempts. Primary key.
UPDATE surgetank.webhook_deliveries d SET status = 'pending', due_at = now(), ended_at = NULL,
    max_attempts = d.attempts + %(more)s
WHERE d.delivery_id = %(delivery_id)s AND d.status <> 'delivered'
RETURNING *

-- name: forget
-- What ended long ago. Index webhook_deliveries_ended.
DELETE FROM surgetank.webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM surgetank.webhook_deliveries
    WHERE ended_at < now() - make_interval(secs => %(keep_s)s) ORDER BY ended_at LIMIT %(most)s
)

-- name: counts
-- How many wait, and how long the oldest. Index webhook_deliveries_due.
SELECT count(*) AS waiting, coalesce(extract(epoch FROM now() - min(created_at)), 0) AS oldest_s
FROM surgetank.webhook_deliveries WHERE status = 'pending'
