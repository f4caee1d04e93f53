-- Threads whose time to live is over (workflows/expiry.py). Whatever is done with a thread moves its expires_at
-- (0036_thread_ttl.sql), so a row that is still over when it is locked has nothing new.

-- name: due
-- Threads whose time is over, and of which nothing is under way, waits for people or is to come. Those that programs write to without
-- runs are alive as long as they do. Index thread_status_expiring.
SELECT t.thread_id FROM surgetank.thread_status t
WHERE t.expires_at < now() AND t.running_run IS NULL
    AND NOT EXISTS (SELECT FROM surgetank.workflows w
        WHERE w.thread_id = t.thread_id AND w.status IN ('pending', 'running', 'awaiting_checkpoint'))
    AND NOT EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
    AND NOT EXISTS (SELECT FROM surgetank.user_checkpoints c WHERE c.thread_id = t.thread_id AND c.status = 'pending')
    AND NOT EXISTS (SELECT FROM surgetank.crons c WHERE c.thread_id = t.thread_id AND c.enabled)
    AND NOT EXISTS (SELECT FROM surgetank.threads s
        WHERE s.thread_id = t.thread_id AND s.updated_at + t.ttl_minutes * interval '1 minute' > now())
ORDER BY t.expires_at LIMIT %(limit)s

-- name: take
-- One of them, for this transaction; no row when it is somebody else's, or alive again: all is looked at once more, as something
-- may have come since. Primary key.
SELECT t.ttl_strategy, t.ttl_minutes FROM surgetank.thread_status t
WHERE t.thread_id = %(thread_id)s AND t.expires_at < now() AND t.running_run IS NULL
    AND NOT EXISTS (SELECT FROM surgetank.workflows w
        WHERE w.thread_id = t.thread_id AND w.status IN ('pending', 'running', 'awaiting_checkpoint'))
    AND NOT EXISTS (SELECT FROM surgetank.runs r WHERE r.thread_id = t.thread_id AND r.status IN ('pending', 'running'))
    AND NOT EXISTS (SELECT FROM surgetank.user_checkpoints c WHERE c.thread_id = t.thread_id AND c.status = 'pending')
    AND NOT EXISTS (SELECT FROM surgetank.crons c WHERE c.thread_id = t.thread_id AND c.enabled)
    AND NOT EXISTS (SELECT FROM surgetank.threads s
        WHERE s.thread_id = t.thread_id AND s.updated_at + t.ttl_minutes * interval '1 minute' > now())
FOR UPDATE OF t SKIP LOCKED

-- name: delete
-- Its row goes, with workflows and runs. Primary key.
SELECT surgetank.delete_thread(%(thread_id)s, surgetank.acting(%(actor)s, %(origin)s), %(why)s)

-- name: pruned
-- It is left alone until something is done with it. Primary key.
WITH rest AS (UPDATE surgetank.thread_status t SET expires_at = NULL WHERE t.thread_id = %(thread_id)s)
SELECT surgetank.note('thread_pruned', surgetank.acting(%(actor)s, %(origin)s), %(thread_id)s, NULL, NULL, %(why)s)
