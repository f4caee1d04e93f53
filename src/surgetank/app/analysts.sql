-- Analysts (app/analysts.py). What has {braces} is put together there, from names that it quotes.

-- name: lock
-- One at a time: the views are made by each.
SELECT pg_advisory_xact_lock(1398033237, 1)

-- name: rights
-- What the role may do that we log in with.
SELECT r.rolsuper AS super, r.rolsuper OR r.rolcreaterole AS makes_roles, current_user::text AS me,
    current_database()::text AS database
FROM pg_catalog.pg_roles r WHERE r.rolname = current_user

-- name: role
-- What a role may do that is to read only.
SELECT r.rolcanlogin AS logs_in, r.rolsuper OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls
    OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)
    OR EXISTS (SELECT FROM pg_catalog.pg_shdepend d WHERE d.refobjid = r.oid AND d.deptype = 'o') AS does_more
FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s

-- name: create_role
CREATE ROLE {role} LOGIN NOINHERIT CONNECTION LIMIT {connections} PASSWORD {secret}

-- name: role_settings
-- Defaults that the role could change for itself: what bounds it are its grants and its connections.
ALTER ROLE {role} SET search_path = surgetank_views;
ALTER ROLE {role} SET default_transaction_read_only = on;
ALTER ROLE {role} SET statement_timeout = '60s';
ALTER ROLE {role} SET idle_in_transaction_session_timeout = '60s'

-- name: insert_analyst
INSERT INTO surgetank.analysts (role_name, everyone, made_role) VALUES (%(role)s, %(everyone)s, %(made_role)s)

-- name: insert_users
INSERT INTO surgetank.analyst_users (role_name, user_name) SELECT %(role)s, unnest(%(users)s::text[])

-- name: analysts
-- All, or one. Primary keys.
SELECT a.role_name::text AS name, a.everyone, a.made_role, extract(epoch FROM a.created_at)::float8 AS created_at,
    ARRAY(SELECT u.user_name FROM surgetank.analyst_users u WHERE u.role_name = a.role_name ORDER BY 1) AS users,
    EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = a.role_name) AS has_role,
    (SELECT count(*) FROM pg_catalog.pg_stat_activity s WHERE s.usename = a.role_name) AS sessions
FROM surgetank.analysts a WHERE %(role)s::name IS NULL OR a.role_name = %(role)s::name ORDER BY 1

-- name: grants
GRANT USAGE ON SCHEMA surgetank_views TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA surgetank_views TO {role}

-- name: connects
-- Whether a role may connect to this database.
SELECT has_database_privilege(%(role)s::name, current_database(), 'CONNECT') AS may

-- name: grant_connect
GRANT CONNECT ON DATABASE {database} TO {role}

-- name: doors
-- What a role may make here, because PUBLIC may: schemas in which it may create objects ('' is the database itself), temporary
-- objects, large objects.
SELECT ARRAY(
        SELECT '' WHERE has_database_privilege(%(role)s::name, current_database(), 'CREATE')
        UNION ALL SELECT n.nspname::text FROM pg_catalog.pg_namespace n
        WHERE n.nspname !~ '^pg_' AND has_schema_privilege(%(role)s::name, n.oid, 'CREATE')) AS creates,
    has_database_privilege(%(role)s::name, current_database(), 'TEMPORARY') AS temporary,
    has_function_privilege(%(role)s::name, 'pg_catalog.lo_create(oid)', 'EXECUTE')
        OR has_function_privilege(%(role)s::name, 'pg_catalog.lo_creat(integer)', 'EXECUTE')
        OR has_function_privilege(%(role)s::name, 'pg_catalog.lo_from_bytea(oid, bytea)', 'EXECUTE') AS large_objects

-- name: note
SELECT surgetank.note(%(action)s, surgetank.acting(%(actor)s, %(origin)s), NULL, NULL, NULL, %(detail)s)

-- name: stop
-- From here on it sees nothing, in sessions that are open too. Primary keys.
WITH seen AS (DELETE FROM surgetank.analyst_users WHERE role_name = %(role)s)
UPDATE surgetank.analysts SET everyone = false WHERE role_name = %(role)s

-- name: no_login
ALTER ROLE {role} NOLOGIN

-- name: be_member
-- Who is no superuser may end sessions of roles only that it is a member of, and revoke what they have.
GRANT {role} TO CURRENT_USER

-- name: end_sessions
-- In all databases. Each is waited for.
SELECT count(*) AS sessions, coalesce(bool_and(pg_terminate_backend(s.pid, 5000)), true) AS ended
FROM pg_catalog.pg_stat_activity s WHERE s.usename = %(role)s AND s.pid <> pg_backend_pid()

-- name: drop_role
DROP OWNED BY {role};
DROP ROLE {role}

-- name: revoke
REVOKE SELECT ON ALL TABLES IN SCHEMA surgetank_views FROM {role};
REVOKE USAGE ON SCHEMA surgetank_views FROM {role}

-- name: delete_analyst
DELETE FROM surgetank.analysts WHERE role_name = %(role)s
