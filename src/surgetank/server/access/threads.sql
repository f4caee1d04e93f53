-- Owners and lists of threads (server/access/visibility.py, server/threads.py).

-- name: owners
-- Whether threads are there, and whose: as recorded when they were made, else the first owner that their checkpoints name, the
-- root graph's before others'.
-- Unique (thread_id, checkpoint_ns), primary key of checkpoints.
SELECT u.thread_id,
    r.thread_id IS NOT NULL AS made, r.owner AS made_by,
    EXISTS (SELECT FROM surgetank.checkpoint_namespaces s WHERE s.thread_id = u.thread_id) AS there,
    coalesce(
        r.owner,
        (SELECT c.metadata ->> %(key)s
         FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
         WHERE s.thread_id = u.thread_id AND s.checkpoint_ns = '' AND c.metadata ->> %(key)s IS NOT NULL
         ORDER BY c.checkpoint_id LIMIT 1),
        (SELECT c.metadata ->> %(key)s
         FROM surgetank.checkpoint_namespaces s JOIN surgetank.checkpoints c USING (ns_pk)
         WHERE s.thread_id = u.thread_id AND c.metadata ->> %(key)s IS NOT NULL
         ORDER BY c.checkpoint_id LIMIT 1)
    ) AS owner
FROM unnest(%(threads)s::text[]) AS u (thread_id) LEFT JOIN surgetank.thread_status r USING (thread_id)

-- name: metadata
-- What filters of a project's handlers are compared with. Primary key.
SELECT thread_id, metadata FROM surgetank.thread_status WHERE thread_id = ANY(%(threads)s::text[])

-- name: threads_page
-- Threads, newest checkpoint first, without those that the buffer knows better. Index threads_newest_idx, which is read along
-- until there are enough ids with a text, where one is wanted.
SELECT t.thread_id, coalesce(t.checkpoint_id, '') AS newest, extract(epoch FROM t.updated_at)::float8 AS updated_at
FROM surgetank.threads t
WHERE (%(last_thread)s::text IS NULL OR (coalesce(t.checkpoint_id, ''), t.thread_id)
        < (%(last_newest)s COLLATE "C", %(last_thread)s COLLATE "C"))
    AND NOT t.thread_id = ANY(%(hidden)s::text[])
    AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(t.thread_id)) > 0)
ORDER BY coalesce(t.checkpoint_id, '') DESC, t.thread_id DESC
LIMIT %(limit)s

-- name: threads_of_owner
-- The same for one owner. Index checkpoints_owner_idx, which is read once per namespace, not per checkpoint.
WITH RECURSIVE mine AS (
    (SELECT c.ns_pk FROM surgetank.checkpoints c WHERE c.metadata ->> %(key)s = %(owner)s ORDER BY c.ns_pk LIMIT 1)
    UNION ALL
    SELECT (SELECT c.ns_pk FROM surgetank.checkpoints c
            WHERE c.metadata ->> %(key)s = %(owner)s AND c.ns_pk > m.ns_pk ORDER BY c.ns_pk LIMIT 1)
    FROM mine m WHERE m.ns_pk IS NOT NULL
)
SELECT t.thread_id, coalesce(t.checkpoint_id, '') AS newest, extract(epoch FROM t.updated_at)::float8 AS updated_at
FROM surgetank.threads t
WHERE t.thread_id IN (
        SELECT s.thread_id FROM mine JOIN surgetank.checkpoint_namespaces s USING (ns_pk))
    AND (%(last_thread)s::text IS NULL OR (coalesce(t.checkpoint_id, ''), t.thread_id)
        < (%(last_newest)s COLLATE "C", %(last_thread)s COLLATE "C"))
    AND NOT t.thread_id = ANY(%(hidden)s::text[])
    AND (%(text)s::text IS NULL OR position(lower(%(text)s) IN lower(t.thread_id)) > 0)
ORDER BY coalesce(t.checkpoint_id, '') DESC, t.thread_id DESC
LIMIT %(limit)s
