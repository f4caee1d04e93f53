-- Queries of thread logs (streams/logs/). Parameters only; the index each relies on is named.

-- name: copy_logs
COPY surgetank.thread_logs (thread_id, seq, buffer_id, level, created_at, logger, user_id, message, fields)
FROM STDIN (FORMAT BINARY)

-- name: logs_after
-- Lines of a thread in order. Primary key.
SELECT thread_id, seq, buffer_id, level, extract(epoch FROM created_at)::float8 AS at, logger, user_id, message, fields
FROM surgetank.thread_logs
WHERE thread_id = %(thread_id)s AND seq > %(after)s AND (%(levels)s::text[] IS NULL OR level = ANY (%(levels)s))
ORDER BY seq, buffer_id LIMIT %(limit)s

-- name: logs_before
-- The newest lines of a thread before a number, newest first. Primary key.
SELECT thread_id, seq, buffer_id, level, extract(epoch FROM created_at)::float8 AS at, logger, user_id, message, fields
FROM surgetank.thread_logs
WHERE thread_id = %(thread_id)s AND seq < %(before)s AND (%(levels)s::text[] IS NULL OR level = ANY (%(levels)s))
ORDER BY seq DESC, buffer_id DESC LIMIT %(limit)s

-- name: forget_thread_logs
-- The logs of threads that were deleted. Primary key.
DELETE FROM surgetank.thread_logs WHERE thread_id = ANY (%(threads)s)

-- name: forget_thread_errors
-- What leads from errors to threads that were deleted. system_errors_thread_idx, system_error_threads_thread_idx.
WITH gone AS (DELETE FROM surgetank.system_error_threads WHERE thread_id = ANY (%(threads)s))
UPDATE surgetank.system_errors SET thread_id = NULL, error_context = '{}' WHERE thread_id = ANY (%(threads)s)
