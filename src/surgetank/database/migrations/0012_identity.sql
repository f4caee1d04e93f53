-- usable from: 0010
-- By this id a buffer knows the database that it belongs to. A copy of the database has the same one; with the server's
-- own identifier and the database's oid a buffer tells a copy from the original.
CREATE TABLE surgetank.database_identity (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    made_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO surgetank.database_identity DEFAULT VALUES;
