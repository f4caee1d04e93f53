-- usable from: 0010
-- A buffer that went back in time gives numbers again that were counted as written. So progress is kept per epoch (a
-- random number that each opening of a buffer draws), with a digest of the last entry by which it is known again.
-- `seq` and `seq_before` stay the progress of entries without an epoch, which the first format of buffers had.

-- epochs: {epoch: [seq, digest, seq before this transaction, digest before it]}, the epochs used last; `earlier` tells
-- that there are more of them in partition_progress_earlier. One row per partition, however often a buffer is opened.
ALTER TABLE surgetank.partition_progress ADD COLUMN epochs jsonb NOT NULL DEFAULT '{}';
ALTER TABLE surgetank.partition_progress ADD COLUMN earlier boolean NOT NULL DEFAULT false;

CREATE TABLE surgetank.partition_progress_earlier (
    buffer_id text COLLATE "C" NOT NULL,
    stream text COLLATE "C" NOT NULL,
    partition text COLLATE "C" NOT NULL,
    epoch bigint NOT NULL,
    seq bigint NOT NULL,
    digest bigint NOT NULL,
    used_on date NOT NULL DEFAULT current_date,
    PRIMARY KEY (buffer_id, stream, partition, epoch)
);
CREATE INDEX partition_progress_earlier_used_idx ON surgetank.partition_progress_earlier (used_on);

-- Moves epochs on, never back; each new value carries the one before it.
CREATE FUNCTION surgetank.move_on(old jsonb, new jsonb) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    epoch text;
    value jsonb;
    there jsonb;
BEGIN
    FOR epoch, value IN SELECT * FROM jsonb_each(new) LOOP
        there := old -> epoch;
        IF there IS NOT NULL THEN
            IF (there -> 0)::bigint >= (value -> 0)::bigint THEN
                value := there;
            END IF;
            value := jsonb_build_array(value -> 0, value -> 1, there -> 0, there -> 1);
        END IF;
        old := old || jsonb_build_object(epoch, value);
    END LOOP;
    RETURN old;
END
$$;
