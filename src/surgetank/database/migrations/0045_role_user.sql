-- usable from: 0022
-- Viewers only read; who creates threads and runs, answers and inserts is a `user`. What a token could do until now it
-- still may: a `viewer` from before is a `user`. Programs from before know no such role and go on to see a viewer,
-- with the same rights there, so it is a column beside the role.
ALTER TABLE surgetank.api_tokens ADD COLUMN reads_only boolean NOT NULL DEFAULT false;

CREATE FUNCTION surgetank.token_role(role text, reads_only boolean) RETURNS text LANGUAGE sql IMMUTABLE
RETURN CASE WHEN role = 'viewer' AND NOT reads_only THEN 'user' ELSE role END;

CREATE OR REPLACE FUNCTION surgetank.audit_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM surgetank.note('token_created', NEW.created_by, NULL, NULL, NULL,
            jsonb_build_object('token', NEW.id, 'role', surgetank.token_role(NEW.role, NEW.reads_only)));
    ELSE
        PERFORM surgetank.note('token_revoked', NEW.revoked_by, NULL, NULL, NULL, jsonb_build_object('token', NEW.id));
    END IF;
    RETURN NULL;
END
$$;
