-- Queries of the manifest (streams/tables/cold/). Parameters only; the index each relies on is named.

-- name: live
-- The live files with what they have of each store, unless they are as they were at `known`: a single statement sees one moment.
-- table_snapshots_by_table, table_files_live, table_delete_files_live.
WITH now AS MATERIALIZED (
    SELECT s.snapshot_id, s.snapshot_id || ':' || (extract(epoch FROM s.at) * 1000000)::bigint AS stamp
    FROM surgetank.table_snapshots s WHERE s.table_id = %(table_id)s ORDER BY s.snapshot_id DESC LIMIT 1
), one AS MATERIALIZED (
    SELECT coalesce(max(snapshot_id), 0) AS snapshot, coalesce(max(stamp), '0') AS stamp FROM now
)
SELECT one.snapshot, one.stamp,
    CASE WHEN one.stamp IS DISTINCT FROM %(known)s THEN coalesce((
        SELECT jsonb_object_agg(p.store_id, jsonb_build_array(p.through, p.held))
        FROM surgetank.table_progress p WHERE p.table_id = %(table_id)s), '{}') END::text,
    CASE WHEN one.stamp IS DISTINCT FROM %(known)s THEN coalesce((
        SELECT jsonb_agg(jsonb_build_array(f.file_id, f.path, f.bucket, f.buckets, f.rows, f.bytes, f.footer_bytes, f.min_user,
            f.max_user, f.min_seq, f.max_seq, f.schema_version, d.delete_id, d.path, coalesce(d.rows, 0)) ORDER BY f.file_id)
        FROM surgetank.table_files f
        LEFT JOIN surgetank.table_delete_files d ON d.file_id = f.file_id AND d.end_snapshot IS NULL
        WHERE f.table_id = %(table_id)s AND f.end_snapshot IS NULL), '[]') END::text
FROM one

-- name: lock
-- The order of snapshots: whoever writes the manifest holds it to the end.
SELECT pg_advisory_xact_lock(%(key)s)

-- name: standing
-- Where a table stands, for who holds the lock. Primary keys, table_snapshots_by_table.
SELECT coalesce((SELECT s.snapshot_id FROM surgetank.table_snapshots s WHERE s.table_id = %(table_id)s ORDER BY s.snapshot_id DESC LIMIT 1), 0),
    coalesce((SELECT t.dropped_at IS NOT NULL FROM surgetank.table_totals t WHERE t.table_id = %(table_id)s), false),
    coalesce((SELECT t.given FROM surgetank.table_totals t WHERE t.table_id = %(table_id)s), 0),
    coalesce((SELECT t.erased_snapshot FROM surgetank.table_totals t WHERE t.table_id = %(table_id)s), 0)

-- name: progress
-- A hot store's progress, for who holds the lock. Primary key.
SELECT through, held, token, commits FROM surgetank.table_progress WHERE table_id = %(table_id)s AND store_id = %(store_id)s FOR UPDATE

-- name: claim_files
-- Files that are live, with their paths and their live deletions, kept from being replaced until the end. Primary key.
SELECT f.file_id, f.path, d.delete_id
FROM surgetank.table_files f LEFT JOIN surgetank.table_delete_files d ON d.file_id = f.file_id AND d.end_snapshot IS NULL
WHERE f.file_id = ANY (%(files)s) AND f.end_snapshot IS NULL
FOR SHARE OF f

-- name: take_files
-- The same for who replaces them, with paths and rows of their deletions. Primary key.
SELECT f.file_id, f.path, d.delete_id, d.path, coalesce(d.rows, 0)
FROM surgetank.table_files f LEFT JOIN surgetank.table_delete_files d ON d.file_id = f.file_id AND d.end_snapshot IS NULL
WHERE f.file_id = ANY (%(files)s) AND f.end_snapshot IS NULL
FOR UPDATE OF f

-- name: add_snapshot
-- A snapshot of a table. Its number is the largest, for who holds the lock.
INSERT INTO surgetank.table_snapshots (snapshot_id, table_id, changes, schema_version)
VALUES (nextval('surgetank.table_snapshot_numbers'), %(table_id)s, %(changes)s,
    (SELECT s.schema_version FROM surgetank.table_snapshots s ORDER BY s.snapshot_id DESC LIMIT 1))
RETURNING snapshot_id

-- name: add_files
-- Data files with their statistics.
WITH new AS (
    SELECT n.* FROM jsonb_to_recordset(%(files)s) AS n (path text, bucket integer, buckets integer, rows bigint, bytes bigint,
        footer_bytes bigint, min_user text, max_user text, min_seq bigint, max_seq bigint, row_start bigint, schema_version integer,
        stats jsonb)
), added AS (
    INSERT INTO surgetank.table_files (table_id, path, bucket, buckets, rows, bytes, footer_bytes, min_user, max_user, min_seq, max_seq,
        row_start, schema_version, begin_snapshot)
    SELECT %(table_id)s, path, bucket, buckets, rows, bytes, footer_bytes, min_user, max_user, min_seq, max_seq, row_start, schema_version,
        %(snapshot)s FROM new
    RETURNING file_id, path
), stats AS (
    INSERT INTO surgetank.table_column_stats (file_id, column_id, bytes, value_count, null_count, least, greatest, nan)
    SELECT added.file_id, s.column_id, s.bytes, s."values", s.nulls, s.least, s.greatest, s.nan
    FROM added JOIN new USING (path), jsonb_to_recordset(new.stats)
        AS s (column_id integer, bytes bigint, "values" bigint, nulls bigint, least text, greatest text, nan boolean)
)
SELECT file_id, path FROM added

-- name: end_deletes
-- The live deletions of files end: others are in their stead, or the files end. table_delete_files_live.
UPDATE surgetank.table_delete_files SET end_snapshot = %(snapshot)s WHERE file_id = ANY (%(files)s) AND end_snapshot IS NULL

-- name: add_deletes
-- Deleted positions of data files.
INSERT INTO surgetank.table_delete_files (file_id, table_id, path, rows, bytes, footer_bytes, begin_snapshot)
SELECT n.file_id, %(table_id)s, n.path, n.rows, n.bytes, n.footer_bytes, %(snapshot)s
FROM jsonb_to_recordset(%(deletes)s) AS n (file_id bigint, path text, rows bigint, bytes bigint, footer_bytes bigint)

-- name: end_files
-- Data files that others replace. Primary key.
UPDATE surgetank.table_files SET end_snapshot = %(snapshot)s WHERE file_id = ANY (%(files)s)

-- name: note_commit
-- A hot store's progress after a commit, what the commit of a job did, and rows and bytes of the table. Primary keys.
WITH kept AS (
    INSERT INTO surgetank.table_progress (table_id, store_id, through, held, token, commits)
    VALUES (%(table_id)s, %(store_id)s, %(through)s, %(held)s, %(token)s, 1)
    ON CONFLICT (table_id, store_id) DO UPDATE SET through = excluded.through, held = excluded.held, token = excluded.token,
        commits = table_progress.commits + 1, updated_at = now()
    RETURNING commits
), totals AS (
    INSERT INTO surgetank.table_totals (table_id, given, rows, bytes) VALUES (%(table_id)s, %(given)s, %(rows)s, %(bytes)s)
    ON CONFLICT (table_id) DO UPDATE SET given = table_totals.given + excluded.given, rows = table_totals.rows + excluded.rows,
        bytes = table_totals.bytes + excluded.bytes
)
INSERT INTO surgetank.table_jobs (table_id, store_id, commit_number, job_id, trigger, node, snapshot_id, outcome)
SELECT %(table_id)s, %(store_id)s, kept.commits, %(job_id)s, %(trigger)s, %(node)s, %(snapshot)s, %(outcome)s FROM kept

-- name: add_totals
-- Rows and bytes of a table after a commit. Primary key.
INSERT INTO surgetank.table_totals (table_id, given, rows, bytes) VALUES (%(table_id)s, %(given)s, %(rows)s, %(bytes)s)
ON CONFLICT (table_id) DO UPDATE SET given = table_totals.given + excluded.given, rows = table_totals.rows + excluded.rows,
    bytes = table_totals.bytes + excluded.bytes

-- name: storage
-- Where the files are, and which folder that is; and whether there are any. Primary key.
SELECT s.root, s.identity, EXISTS (SELECT FROM surgetank.table_files) FROM surgetank.table_storages s WHERE s.storage = %(storage)s

-- name: database
-- Which database this is.
SELECT id::text FROM surgetank.database_identity

-- name: name_storage
-- Where the files are, for other readers. Primary key.
INSERT INTO surgetank.table_storages (storage, root, identity) VALUES (%(storage)s, %(root)s, %(identity)s)
ON CONFLICT (storage) DO UPDATE SET root = excluded.root, identity = excluded.identity

-- name: all_files
-- Data files of a table, those of older snapshots too. table_files_by_table.
SELECT f.file_id, f.path, f.bucket, f.buckets, f.rows, f.bytes, f.footer_bytes, f.min_user, f.max_user, f.min_seq, f.max_seq,
    f.schema_version, d.delete_id, d.path, coalesce(d.rows, 0), f.end_snapshot IS NULL
FROM surgetank.table_files f LEFT JOIN surgetank.table_delete_files d ON d.file_id = f.file_id AND d.end_snapshot IS NULL
WHERE f.table_id = %(table_id)s AND (f.min_user IS NULL OR (f.min_user <= %(user)s AND f.max_user >= %(user)s))
ORDER BY f.file_id

-- name: deletes_of
-- All deletions that a data file ever had. table_delete_files_of.
SELECT delete_id, path, end_snapshot IS NULL FROM surgetank.table_delete_files WHERE file_id = %(file)s ORDER BY delete_id

-- name: take_file
-- A data file, for who rewrites it. Primary key.
SELECT path, end_snapshot IS NULL FROM surgetank.table_files WHERE file_id = %(file)s FOR UPDATE

-- name: rewrite_file
-- The same file in another form, for all snapshots. Primary keys.
WITH n AS (
    SELECT * FROM jsonb_to_record(%(new)s) AS n (path text, rows bigint, bytes bigint, footer_bytes bigint, min_user text, max_user text,
        min_seq bigint, max_seq bigint, schema_version integer, stats jsonb)
), forgotten AS (
    INSERT INTO surgetank.table_garbage (path) SELECT path FROM surgetank.table_files WHERE file_id = %(file)s ON CONFLICT DO NOTHING
), changed AS (
    UPDATE surgetank.table_files f SET path = n.path, rows = n.rows, bytes = n.bytes, footer_bytes = n.footer_bytes, min_user = n.min_user,
        max_user = n.max_user, min_seq = n.min_seq, max_seq = n.max_seq
    FROM n WHERE f.file_id = %(file)s
)
UPDATE surgetank.table_column_stats c SET bytes = s.bytes, value_count = s."values", null_count = s.nulls, least = s.least,
    greatest = s.greatest, nan = s.nan
FROM n, jsonb_to_recordset(n.stats)
    AS s (column_id integer, bytes bigint, "values" bigint, nulls bigint, least text, greatest text, nan boolean)
WHERE c.file_id = %(file)s AND c.column_id = s.column_id

-- name: rewrite_deletes
-- Deletions of a data file in another form. Primary key.
WITH forgotten AS (
    INSERT INTO surgetank.table_garbage (path) SELECT path FROM surgetank.table_delete_files WHERE delete_id = %(delete)s
    ON CONFLICT DO NOTHING
)
UPDATE surgetank.table_delete_files SET path = %(path)s, rows = %(rows)s, bytes = %(bytes)s, footer_bytes = %(footer)s
WHERE delete_id = %(delete)s

-- name: remove_deletes
-- Deletions that delete nothing any more. Primary key.
WITH gone AS (DELETE FROM surgetank.table_delete_files WHERE delete_id = %(delete)s RETURNING path)
INSERT INTO surgetank.table_garbage (path) SELECT path FROM gone ON CONFLICT DO NOTHING

-- name: remove_files
-- Data files with their deletions, for all snapshots. Primary key, table_delete_files_of.
WITH deletes AS (
    INSERT INTO surgetank.table_garbage (path) SELECT path FROM surgetank.table_delete_files WHERE file_id = ANY (%(files)s)
    ON CONFLICT DO NOTHING
), gone AS (DELETE FROM surgetank.table_files WHERE file_id = ANY (%(files)s) RETURNING path)
INSERT INTO surgetank.table_garbage (path) SELECT path FROM gone ON CONFLICT DO NOTHING

-- name: begin_erasure
-- A user is in no store's progress any more, and what was taken before this snapshot is not committed. Primary keys.
WITH progress AS (
    UPDATE surgetank.table_progress SET held = held - %(user)s::text WHERE table_id = %(table_id)s AND held ? %(user)s::text
)
INSERT INTO surgetank.table_totals (table_id, given, rows, bytes, erased_snapshot) VALUES (%(table_id)s, 0, 0, 0, %(snapshot)s)
ON CONFLICT (table_id) DO UPDATE SET erased_snapshot = excluded.erased_snapshot

-- name: ids_of_files
-- All data files of a table. table_files_by_table.
SELECT file_id FROM surgetank.table_files WHERE table_id = %(table_id)s

-- name: drop_table
-- Nothing is committed to a table any more. Primary keys.
WITH progress AS (DELETE FROM surgetank.table_progress WHERE table_id = %(table_id)s)
INSERT INTO surgetank.table_totals (table_id, given, rows, bytes, dropped_at) VALUES (%(table_id)s, 0, 0, 0, now())
ON CONFLICT (table_id) DO UPDATE SET rows = 0, bytes = 0, dropped_at = now()

-- name: dropped
-- Of these tables, and of those whose files are still in the manifest, those that were dropped. Primary keys.
SELECT t.table_id FROM surgetank.tables t
WHERE t.dropped_at IS NOT NULL AND (t.table_id = ANY (%(tables)s) OR (t.kind <> 'STREAM' AND NOT EXISTS (
    SELECT FROM surgetank.table_totals x WHERE x.table_id = t.table_id AND x.dropped_at IS NOT NULL)))
ORDER BY 1

-- name: horizon
-- The newest snapshot that was the newest of all so long ago: nobody may ask for an older one. Primary key.
SELECT coalesce(max(snapshot_id), 0) FROM surgetank.table_snapshots WHERE at < now() - make_interval(secs => %(kept_s)s)

-- name: expired_files
-- Data files that ended before it. table_files_ended.
SELECT file_id FROM surgetank.table_files WHERE end_snapshot <= %(horizon)s LIMIT 10000

-- name: expire_deletes
-- Deletions that others replaced before it. table_delete_files_ended.
WITH gone AS (DELETE FROM surgetank.table_delete_files WHERE end_snapshot <= %(horizon)s RETURNING path)
INSERT INTO surgetank.table_garbage (path) SELECT path FROM gone ON CONFLICT DO NOTHING

-- name: expire_snapshots
-- Snapshots before it, but the first and the newest of each table. Primary key, table_snapshots_by_table.
DELETE FROM surgetank.table_snapshots s WHERE s.snapshot_id < %(horizon)s AND s.snapshot_id > 0
    AND EXISTS (SELECT FROM surgetank.table_snapshots n WHERE n.table_id = s.table_id AND n.snapshot_id > s.snapshot_id)

-- name: expire_jobs
-- What old commits did. Primary key.
DELETE FROM surgetank.table_jobs WHERE at < now() - make_interval(secs => %(kept_s)s)

-- name: garbage
-- Files that nothing names, and nobody reads any more. table_garbage_by_age.
SELECT path FROM surgetank.table_garbage WHERE since < now() - make_interval(secs => %(grace_s)s) LIMIT 10000

-- name: forget_garbage
-- They are gone. Primary key.
DELETE FROM surgetank.table_garbage WHERE path = ANY (%(paths)s)

-- name: named
-- Which of these files are named anywhere. Unique keys of the paths.
SELECT path FROM surgetank.table_files WHERE path = ANY (%(paths)s)
UNION ALL SELECT path FROM surgetank.table_delete_files WHERE path = ANY (%(paths)s)
UNION ALL SELECT path FROM surgetank.table_garbage WHERE path = ANY (%(paths)s)

-- name: mark_garbage
-- What nothing names any more may have rows of who is being erased, of dropped tables too: it is remembered for the erasure. All garbage.
UPDATE surgetank.table_garbage SET erased = true WHERE NOT erased

-- name: left_of_erasures
-- Files that erasures wait for. All garbage.
SELECT path FROM surgetank.table_garbage WHERE erased ORDER BY path
