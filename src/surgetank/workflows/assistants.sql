-- Assistants that clients made (workflows/assistants.py). The default ones are the graphs' own, and have no row.

-- name: create
-- Make one (0034_assistants.sql). Primary key, index assistants_of_owner.
SELECT * FROM surgetank.make_assistant(
    %(assistant_id)s, %(owner)s, %(graph_id)s, %(name)s, %(description)s, %(config)s, %(context)s, %(metadata)s, %(most)s,
    surgetank.acting(%(actor)s, %(origin)s)
)

-- name: get
-- Primary key.
SELECT * FROM surgetank.assistants WHERE assistant_id = %(assistant_id)s

-- name: change
-- Change one, which makes a version. Primary key.
SELECT * FROM surgetank.change_assistant(
    %(assistant_id)s, %(graph_id)s, %(name)s, %(description)s, %(config)s, %(context)s, %(metadata)s,
    surgetank.acting(%(actor)s, %(origin)s)
)

-- name: use_version
-- Primary keys.
SELECT * FROM surgetank.use_version(%(assistant_id)s, %(version)s, surgetank.acting(%(actor)s, %(origin)s))

-- name: versions
-- Versions, the newest first. Primary key.
SELECT * FROM surgetank.assistant_versions
WHERE assistant_id = %(assistant_id)s AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
ORDER BY version DESC LIMIT %(limit)s OFFSET %(offset)s

-- name: delete
-- With its versions. Primary keys.
WITH gone AS (DELETE FROM surgetank.assistants WHERE assistant_id = %(assistant_id)s RETURNING assistant_id, version)
SELECT surgetank.note('assistant_deleted', surgetank.acting(%(actor)s, %(origin)s), NULL, NULL, NULL,
    jsonb_build_object('assistant_id', gone.assistant_id, 'version', gone.version)) FROM gone

-- name: search
-- Indexes assistants_of_owner, assistants_by_time, assistants_by_metadata.
SELECT * FROM surgetank.assistants
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s OR owner IS NULL)
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0)
    AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
ORDER BY
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s
        WHEN 'assistant_id' THEN assistant_id::text WHEN 'graph_id' THEN graph_id WHEN 'name' THEN name END COLLATE "C" END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s
        WHEN 'assistant_id' THEN assistant_id::text WHEN 'graph_id' THEN graph_id WHEN 'name' THEN name END COLLATE "C" END DESC,
    CASE WHEN %(ascending)s THEN CASE %(sort_by)s WHEN 'updated_at' THEN updated_at ELSE created_at END END,
    CASE WHEN NOT %(ascending)s THEN CASE %(sort_by)s WHEN 'updated_at' THEN updated_at ELSE created_at END END DESC,
    assistant_id
LIMIT %(limit)s

-- name: count
-- As search.
SELECT count(*) AS assistants FROM surgetank.assistants
WHERE (%(owner)s::text IS NULL OR owner = %(owner)s OR owner IS NULL)
    AND (%(graph_id)s::text IS NULL OR graph_id = %(graph_id)s)
    AND (%(name)s::text IS NULL OR position(lower(%(name)s) IN lower(name)) > 0)
    AND (%(metadata)s::jsonb IS NULL OR metadata @> %(metadata)s)
