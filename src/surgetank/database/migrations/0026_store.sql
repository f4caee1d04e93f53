-- usable from: 0022
-- What graphs and clients keep beside threads: LangGraph's store. Items in namespaces, each with its exact value, a projection
-- that filters read, and the vectors of its texts.
CREATE SEQUENCE surgetank.store_writes;
CREATE TABLE surgetank.store_items (
    path text COLLATE "C" NOT NULL,  -- the labels of the namespace, a point behind each: what is below one is a range
    key text COLLATE "C" NOT NULL,
    value bytea NOT NULL,            -- JSON, as it was put: NaN, NUL and lone surrogates included
    projection jsonb NOT NULL,       -- the same, as far as jsonb can hold it
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    written bigint NOT NULL DEFAULT nextval('surgetank.store_writes'),  -- the newest is found first
    ttl_s double precision,
    expires_at timestamptz,
    PRIMARY KEY (path, key)
);
CREATE INDEX store_items_expiry ON surgetank.store_items (expires_at) WHERE expires_at IS NOT NULL;
-- Numbers, not pgvector's type: putting works without the extension, and stores of several models share the table.
CREATE TABLE surgetank.store_vectors (
    path text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    position integer NOT NULL,
    embedding real[] NOT NULL,
    PRIMARY KEY (path, key, position),
    FOREIGN KEY (path, key) REFERENCES surgetank.store_items ON DELETE CASCADE
);

-- Whether labels meet all conditions, [{"suffix": false, "path": ["a", "*"]}]; "*" is any one label.
CREATE FUNCTION surgetank.store_labels_match(labels text[], conditions jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT NOT EXISTS (
        SELECT FROM jsonb_array_elements(conditions) AS c(asked)
        WHERE jsonb_array_length(asked -> 'path') > cardinality(labels) OR EXISTS (
            SELECT FROM jsonb_array_elements_text(asked -> 'path') WITH ORDINALITY AS p(label, at)
            WHERE label <> '*' AND label <> labels[at::integer + CASE WHEN (asked ->> 'suffix')::boolean
                THEN cardinality(labels) - jsonb_array_length(asked -> 'path') ELSE 0 END]))
$$;

-- Whether a value meets all conditions, [{"path": ["score"], "op": "$gt", "value": 3}]. What is missing meets none. Numbers are
-- compared as numbers, texts by their code points, and nothing else has an order.
CREATE FUNCTION surgetank.store_value_matches(the_value jsonb, conditions jsonb) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    asked jsonb;
    step text;
    found jsonb;
    wanted jsonb;
    op text;
    sign integer;
BEGIN
    FOR asked IN SELECT * FROM jsonb_array_elements(conditions) LOOP
        found := the_value;
        FOR step IN SELECT * FROM jsonb_array_elements_text(asked -> 'path') LOOP
            found := found -> step;
        END LOOP;
        wanted := asked -> 'value';
        op := asked ->> 'op';
        IF found IS NULL THEN
            RETURN false;
        ELSIF op = '$object' THEN
            IF jsonb_typeof(found) <> 'object' THEN RETURN false; END IF;
        ELSIF op = '$eq' THEN
            IF found <> wanted THEN RETURN false; END IF;
        ELSIF op = '$ne' THEN
            IF found = wanted THEN RETURN false; END IF;
        ELSE
            IF jsonb_typeof(found) = 'number' AND jsonb_typeof(wanted) = 'number' THEN
                sign := sign((found #>> '{}')::numeric - (wanted #>> '{}')::numeric);
            ELSIF jsonb_typeof(found) = 'string' AND jsonb_typeof(wanted) = 'string' THEN
                sign := CASE WHEN (found #>> '{}') COLLATE "C" < (wanted #>> '{}') COLLATE "C" THEN -1
                    WHEN (found #>> '{}') COLLATE "C" > (wanted #>> '{}') COLLATE "C" THEN 1 ELSE 0 END;
            ELSE
                RETURN false;
            END IF;
            IF NOT (CASE op WHEN '$gt' THEN sign > 0 WHEN '$gte' THEN sign >= 0
                WHEN '$lt' THEN sign < 0 WHEN '$lte' THEN sign <= 0 ELSE false END) THEN
                RETURN false;
            END IF;
        END IF;
    END LOOP;
    RETURN true;
END $$;
