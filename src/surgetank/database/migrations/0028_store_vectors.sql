-- usable from: 0022
-- The vectors of an item go with its old value, in the statement that changes it: a put without texts is one round trip.
CREATE FUNCTION surgetank.store_forget_vectors() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM surgetank.store_vectors WHERE path = NEW.path AND key = NEW.key;
    RETURN NULL;
END $$;
CREATE TRIGGER store_items_vectors AFTER UPDATE OF value ON surgetank.store_items
    FOR EACH ROW EXECUTE FUNCTION surgetank.store_forget_vectors();
