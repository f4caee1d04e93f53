-- Which buffer wrote the newest checkpoint of a thread, and which one before this transaction: two buffers that write to
-- one thread without knowing of each other are noticed when the second one flushes. NULL: written by an older version.
ALTER TABLE surgetank.threads
    ADD COLUMN writer text COLLATE "C",
    ADD COLUMN writer_before text COLLATE "C";
