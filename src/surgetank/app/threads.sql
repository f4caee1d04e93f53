-- Whether the database has anything of a thread (app/threads.py).

-- name: thread_is_known
-- By primary keys and system_error_threads_thread_idx.
SELECT EXISTS (SELECT FROM surgetank.threads WHERE thread_id = %(thread_id)s)
    OR EXISTS (SELECT FROM surgetank.checkpoint_namespaces WHERE thread_id = %(thread_id)s)
    OR EXISTS (SELECT FROM surgetank.thread_logs WHERE thread_id = %(thread_id)s)
    OR EXISTS (SELECT FROM surgetank.system_error_threads WHERE thread_id = %(thread_id)s) AS known
