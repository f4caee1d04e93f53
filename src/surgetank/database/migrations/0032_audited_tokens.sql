-- usable from: 0022
-- Tokens that are made and revoked are in the audit, whoever does it and however.
CREATE FUNCTION surgetank.audit_token() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        PERFORM surgetank.note('token_created', NEW.created_by, NULL, NULL, NULL,
            jsonb_build_object('token', NEW.id, 'role', NEW.role));
    ELSE
        PERFORM surgetank.note('token_revoked', NEW.revoked_by, NULL, NULL, NULL, jsonb_build_object('token', NEW.id));
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER audited AFTER INSERT ON surgetank.api_tokens FOR EACH ROW EXECUTE FUNCTION surgetank.audit_token();
CREATE TRIGGER audited_end AFTER UPDATE OF revoked_at ON surgetank.api_tokens FOR EACH ROW
    WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION surgetank.audit_token();
