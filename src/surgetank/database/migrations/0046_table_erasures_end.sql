-- usable from: 0022
-- The snapshot with which a user was erased last: what a flusher took from a hot store before it is not committed any more.
ALTER TABLE surgetank.table_totals ADD COLUMN erased_snapshot bigint NOT NULL DEFAULT 0;
-- Which folder it is: the same stands in a file in the folder.
ALTER TABLE surgetank.table_storages ADD COLUMN identity text;
-- Through which buffer a user is erased, and when that was tried last: what is not finished goes on in the background.
ALTER TABLE surgetank.erasures ADD COLUMN buffer_id text COLLATE "C", ADD COLUMN tried_at timestamptz NOT NULL DEFAULT now();
