-- usable from: 0022
-- Files that may have rows of an erased user: the erasure is over when they are unlinked.
ALTER TABLE surgetank.table_garbage ADD COLUMN erased boolean NOT NULL DEFAULT false;
