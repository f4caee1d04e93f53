-- One statement takes a partition and moves it on: `seq_before` is where it stood before this transaction.
ALTER TABLE surgetank.partition_progress ADD COLUMN seq_before bigint NOT NULL DEFAULT 0;
