PIVOT '{marker}'
SELECT * FROM (PIVOT '{marker}')
FROM (PIVOT FROM read_csv('{marker}'))
WITH x AS (PIVOT app.theirs) FROM x
UNPIVOT '{marker}'
SELECT * FROM (UNPIVOT '{marker}')
FROM (UNPIVOT FROM read_csv('{marker}'))
WITH x AS (UNPIVOT app.theirs) FROM x
SUMMARIZE '{marker}'
SELECT * FROM (SUMMARIZE '{marker}')
FROM (SUMMARIZE FROM read_csv('{marker}'))
WITH x AS (SUMMARIZE app.theirs) FROM x
DESCRIBE '{marker}'
SELECT * FROM (DESCRIBE '{marker}')
FROM (DESCRIBE FROM read_csv('{marker}'))
WITH x AS (DESCRIBE app.theirs) FROM x
SHOW '{marker}'
SELECT * FROM (SHOW '{marker}')
FROM (SHOW FROM read_csv('{marker}'))
WITH x AS (SHOW app.theirs) FROM x
COPY (FROM app.mine) TO '{new}' (FORMAT csv)
COPY app.mine TO '{new}/x' (FORMAT csv)
COPY (FROM app.mine) TO '{new}' (FORMAT parquet, KV_METADATA {a: 'b'})
COPY app.mine TO '{new}/x' (FORMAT parquet, KV_METADATA {a: 'b'})
COPY (FROM app.mine) TO '{new}' (FORMAT json, ARRAY true)
COPY app.mine TO '{new}/x' (FORMAT json, ARRAY true)
COPY (FROM app.mine) TO '{new}' (FORMAT arrow)
COPY app.mine TO '{new}/x' (FORMAT arrow)
COPY (FROM app.mine) TO '{new}' (FORMAT blob)
COPY app.mine TO '{new}/x' (FORMAT blob)
COPY (FROM app.mine) TO '{new}' (FORMAT csv, PER_THREAD_OUTPUT true)
COPY app.mine TO '{new}/x' (FORMAT csv, PER_THREAD_OUTPUT true)
COPY (FROM app.mine) TO '{new}' (FORMAT csv, USE_TMP_FILE false)
COPY app.mine TO '{new}/x' (FORMAT csv, USE_TMP_FILE false)
COPY (FROM app.mine) TO '{new}' (FORMAT csv, APPEND true)
COPY app.mine TO '{new}/x' (FORMAT csv, APPEND true)
COPY (FROM app.mine) TO '{new}' (FORMAT text)
COPY app.mine TO '{new}/x' (FORMAT text)
COPY (FROM app.mine) TO '{new}' (FORMAT parquet, ENCRYPTION_CONFIG {footer_key: 'k'})
COPY app.mine TO '{new}/x' (FORMAT parquet, ENCRYPTION_CONFIG {footer_key: 'k'})
COPY (FROM app.mine) TO '{new}' (FORMAT csv, PARTITION_BY (id), WRITE_PARTITION_COLUMNS)
COPY app.mine TO '{new}/x' (FORMAT csv, PARTITION_BY (id), WRITE_PARTITION_COLUMNS)
COPY (FROM app.mine) TO '{new}' (RETURN_FILES true)
COPY app.mine TO '{new}/x' (RETURN_FILES true)
COPY (FROM app.mine) TO '{new}' (RETURN_STATS true)
COPY app.mine TO '{new}/x' (RETURN_STATS true)
COPY (SELECT 1) TO '/dev/stdout'
EXPORT DATABASE '/dev/stdout' (FORMAT csv)
ATTACH '/dev/stdout' AS fd
FROM read_csv('/dev/stdout')
COPY (SELECT 1) TO '/dev/stderr'
EXPORT DATABASE '/dev/stderr' (FORMAT csv)
ATTACH '/dev/stderr' AS fd
FROM read_csv('/dev/stderr')
COPY (SELECT 1) TO '/proc/self/fd/1'
EXPORT DATABASE '/proc/self/fd/1' (FORMAT csv)
ATTACH '/proc/self/fd/1' AS fd
FROM read_csv('/proc/self/fd/1')
COPY (SELECT 1) TO '/proc/self/fd/4'
EXPORT DATABASE '/proc/self/fd/4' (FORMAT csv)
ATTACH '/proc/self/fd/4' AS fd
FROM read_csv('/proc/self/fd/4')
COPY (SELECT 1) TO '/dev/tcp/127.0.0.1/1'
EXPORT DATABASE '/dev/tcp/127.0.0.1/1' (FORMAT csv)
ATTACH '/dev/tcp/127.0.0.1/1' AS fd
FROM read_csv('/dev/tcp/127.0.0.1/1')
COPY (SELECT 1) TO ''
EXPORT DATABASE '' (FORMAT csv)
ATTACH '' AS fd
FROM read_csv('')
ATTACH '{marker}' AS t (TYPE sqlite)
ATTACH 'sqlite:{marker}' AS t
ATTACH '' AS t (TYPE sqlite, SECRET s)
ATTACH '{marker}' AS t (TYPE postgres)
ATTACH 'postgres:{marker}' AS t
ATTACH '' AS t (TYPE postgres, SECRET s)
ATTACH '{marker}' AS t (TYPE mysql)
ATTACH 'mysql:{marker}' AS t
ATTACH '' AS t (TYPE mysql, SECRET s)
ATTACH '{marker}' AS t (TYPE duckdb)
ATTACH 'duckdb:{marker}' AS t
ATTACH '' AS t (TYPE duckdb, SECRET s)
ATTACH '{marker}' AS t (TYPE ducklake)
ATTACH 'ducklake:{marker}' AS t
ATTACH '' AS t (TYPE ducklake, SECRET s)
ATTACH '{marker}' AS t (TYPE iceberg)
ATTACH 'iceberg:{marker}' AS t
ATTACH '' AS t (TYPE iceberg, SECRET s)
ATTACH '{marker}' AS t (TYPE motherduck)
ATTACH 'motherduck:{marker}' AS t
ATTACH '' AS t (TYPE motherduck, SECRET s)
ATTACH '{marker}' AS t (TYPE unity_catalog)
ATTACH 'unity_catalog:{marker}' AS t
ATTACH '' AS t (TYPE unity_catalog, SECRET s)
CREATE PERSISTENT SECRET s (TYPE s3, PROVIDER credential_chain)
CREATE OR REPLACE SECRET s IN local_file (TYPE s3, PROVIDER credential_chain)
CREATE TEMPORARY SECRET (TYPE s3, SCOPE '{new}', PROVIDER credential_chain)
CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'x')
CREATE OR REPLACE SECRET s IN local_file (TYPE http, BEARER_TOKEN 'x')
CREATE TEMPORARY SECRET (TYPE http, SCOPE '{new}', BEARER_TOKEN 'x')
CREATE PERSISTENT SECRET s (TYPE postgres, HOST 'localhost')
CREATE OR REPLACE SECRET s IN local_file (TYPE postgres, HOST 'localhost')
CREATE TEMPORARY SECRET (TYPE postgres, SCOPE '{new}', HOST 'localhost')
CREATE PERSISTENT SECRET s (TYPE huggingface, PROVIDER credential_chain)
CREATE OR REPLACE SECRET s IN local_file (TYPE huggingface, PROVIDER credential_chain)
CREATE TEMPORARY SECRET (TYPE huggingface, SCOPE '{new}', PROVIDER credential_chain)
CREATE PERSISTENT SECRET s (TYPE r2, ACCOUNT_ID 'x')
CREATE OR REPLACE SECRET s IN local_file (TYPE r2, ACCOUNT_ID 'x')
CREATE TEMPORARY SECRET (TYPE r2, SCOPE '{new}', ACCOUNT_ID 'x')
CREATE PERSISTENT SECRET s (TYPE gcs, KEY_ID 'x')
CREATE OR REPLACE SECRET s IN local_file (TYPE gcs, KEY_ID 'x')
CREATE TEMPORARY SECRET (TYPE gcs, SCOPE '{new}', KEY_ID 'x')
FROM read_text('{marker}')
SELECT any_value(content) FROM read_text('{marker}')
SELECT * FROM app.mine WHERE note = ANY (FROM read_text('{marker}'))
FROM app.mine SELECT (SELECT content FROM read_text('{marker}'))
SELECT * FROM app.mine LIMIT (SELECT size FROM read_text('{marker}'))
SELECT count(*) FROM app.mine GROUP BY (SELECT size FROM read_text('{marker}'))
VALUES ((SELECT content FROM read_text('{marker}')))
SELECT * FROM app.mine ORDER BY (SELECT content FROM read_text('{marker}'))
SELECT ((SELECT content FROM read_text('{marker}')))::INT
SELECT sum(1) OVER (ORDER BY (SELECT size FROM read_text('{marker}'))) FROM app.mine
SELECT error((SELECT content FROM read_text('{marker}')))
SELECT TRY((SELECT content FROM read_text('{marker}')))
SET VARIABLE f = (SELECT content FROM read_text('{marker}'))
EXPLAIN FROM read_text('{marker}')
PREPARE p AS FROM read_text('{marker}')
EXPLAIN ANALYZE FROM read_text('{marker}')
EXPLAIN (FORMAT json) FROM read_text('{marker}')
CREATE TEMP TABLE t AS FROM read_text('{marker}')
SELECT * REPLACE ((SELECT content FROM read_text('{marker}')) AS id) FROM app.mine
INSERT INTO app.mine FROM read_text('{marker}')
MERGE INTO app.mine USING read_text('{marker}') r ON true WHEN MATCHED THEN DO NOTHING
SELECT * FROM app.mine QUALIFY (FROM read_text('{marker}'))
CREATE TEMP MACRO m(f) AS TABLE FROM read_text('{marker}')
SELECT COLUMNS(c -> (SELECT content FROM read_text('{marker}'))) FROM app.mine
FROM app.mine, LATERAL (SELECT content FROM read_text('{marker}'))
SELECT array(SELECT content FROM read_text('{marker}'))
TABLE read_text('{marker}')
FROM query('FROM read_text(''{marker}'')')
FROM query('FROM query(''FROM read_text(''''{marker}'''')'')')
FROM query(concat('FROM', ' read_text(''{marker}'')'))
FROM query('FROM ''{marker}''')
FROM query('FROM query(''FROM ''''{marker}'''''')')
FROM query(concat('FROM', ' ''{marker}'''))
FROM query('COPY (SELECT 1) TO ''{new}''')
FROM query('FROM query(''COPY (SELECT 1) TO ''''{new}'''''')')
FROM query(concat('COPY', ' (SELECT 1) TO ''{new}'''))
FROM query('FROM app.theirs')
FROM query('FROM query(''FROM app.theirs'')')
FROM query(concat('FROM', ' app.theirs'))
FROM query('SHOW ALL TABLES')
FROM query('FROM query(''SHOW ALL TABLES'')')
FROM query(concat('SHOW', ' ALL TABLES'))
DROP SECRET s
DROP PERSISTENT SECRET IF EXISTS s
SET VARIABLE f = '/etc/passwd'
RESET VARIABLE f
SET SESSION search_path = 'app'
SET file_search_path = '/'
SET disabled_filesystems = ''
SET http_proxy = 'x'
PREPARE p AS FROM read_text(?)
EXECUTE p('{marker}')
FROM read_text(?)
FROM query($1)
FROM query_table($1)
SELECT getenv('PATH')
SELECT getenv(getenv('HOME'))
SELECT current_database(), current_schemas(true), user
SELECT getenv(note) FROM app.mine
SELECT x.getenv() FROM (SELECT 'HOME' AS x)
SELECT 'HOME'.getenv()
SELECT '{marker}'.read_text()
SELECT list_transform(['{marker}'], f -> read_text(f))
SELECT TRY(getenv('HOME'))
SELECT apply(['{marker}'], lambda f: file_exists(f))
FROM query_table('{marker}', true)
FROM query_table(['{marker}', 'app.mine'])
FROM query_table('app.theirs')
FROM query_table('app' || '.theirs')
CREATE MACRO getenv(x) AS x
DROP MACRO getenv
CREATE TEMP FUNCTION f(x) AS read_text(x)
FROM reject_errors
FROM read_csv('{marker}', store_rejects => true)
FROM read_csv('{marker}', rejects_table => 'x')
FROM '{marker}' TABLESAMPLE 1 ROWS
FROM '{marker}' AT (VERSION => 1)
INSERT INTO app.mine BY NAME FROM '{marker}'
FROM app.mine |> SELECT id
SELECT * LIKE '%' FROM app.theirs
SELECT unnest(app.theirs)
FROM reject_scans
SELECT json('[' || repeat('[', 100000))
SELECT json_extract('[1]', '$' || repeat('[0]', 50000))
SELECT json_structure(repeat('[', 20000) || repeat(']', 20000))
SELECT regexp_matches('a', repeat('(', 50000))
SELECT regexp_matches('a', '(a{1,1000}){1,1000}')
SELECT regexp_extract_all(repeat('a', 1000), '(?:a?){200}a{200}')
SELECT 'a' LIKE repeat('%a', 50000)
SELECT printf('%999999999d', 1)
SELECT format('{:>999999999}', 'x')
SELECT make_timestamp(9223372036854775807)
SELECT 170141183460469231731687303715884105727 * 2
SELECT chr(-1)
SELECT date '5881580-07-10' + INTERVAL 1000000000 YEAR
SELECT * FROM app.mine WHERE id = 9e99999
SELECT strptime(repeat('1', 100000), repeat('%Y', 50000))
SELECT setseed(0.5), random(), uuid()
SELECT pg_typeof(mine) FROM app.mine
SELECT txid_current()
SELECT sleep_ms(10)
SELECT nextval('app.mine')
CHECKPOINT memory
DETACH DATABASE IF EXISTS temp
USE app
.read {marker}
.shell touch {new}
EXPLAIN COPY (SELECT 1) TO '{new}'
