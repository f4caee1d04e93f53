"""The tables of the buffer's SQLite file, and how a file of a released format becomes one of this
format.

Whoever needs a table, column or index adds it twice: to `_SCHEMA`, for new files, and to the end of
`_UPGRADES`, for those that there are. Upgrades only add, so that a process of the version before,
which has the file open, can still read and flush; statements name their columns.
"""

from __future__ import annotations

from surgetank.buffer.sqlite.checks import MASK, moved_sql, variable_sql
from surgetank.sqlite.kind import Kind

_MOVED = (
    f"new.id - old.id + {variable_sql('new.parked', 'new.replays', 'new.epoch')}"
    f" - ({variable_sql('old.parked', 'old.replays', 'old.epoch')})"
)
_CHECKED = f"""
-- What changes a record without reading its value changes its checksum alike (checks.py); a process of format 3,
-- which knows of no checksums and writes a value anew, leaves ones.
CREATE TRIGGER records_moved AFTER UPDATE OF id, parked, replays, epoch ON records WHEN new.kept = old.kept BEGIN
    UPDATE records SET checksum = CASE
        WHEN new.checksum & {MASK} = {MASK} THEN new.checksum
        WHEN new.checksum IS NOT NULL THEN {moved_sql("new.checksum", _MOVED)}
        WHEN old.id >> 16 < (SELECT checked_from FROM identity) THEN {MASK} END
    WHERE id = new.id;
END;
CREATE TRIGGER records_parked AFTER UPDATE OF parked ON records WHEN new.kept = old.kept BEGIN
    UPDATE partitions SET last_seq = coalesce((SELECT max(r.id) >> 16 FROM records r
        WHERE r.partition_id = new.partition_id AND r.parked = 0), 0) WHERE id = new.partition_id;
END;
CREATE TRIGGER records_rewritten AFTER UPDATE OF value ON records WHEN new.checksum = old.checksum BEGIN
    UPDATE records SET checksum = new.checksum | {MASK} WHERE id = new.id;
END;
-- What was found damaged, until it was announced to the operators and for some time after.
CREATE TABLE damage (
    id INTEGER PRIMARY KEY AUTOINCREMENT, found_at REAL NOT NULL, stream TEXT NOT NULL, partition TEXT NOT NULL,
    what TEXT NOT NULL, announced_at REAL
) STRICT;
-- The ids that entries which are tried again had while they were parked, by their new numbers.
CREATE TABLE unparked (seq INTEGER PRIMARY KEY, parked_id INTEGER NOT NULL) STRICT;
-- Reports that were folded instead of accepted as entries (tallies.py).
CREATE TABLE tallies (
    stream TEXT NOT NULL, partition TEXT NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, count INTEGER NOT NULL,
    since REAL NOT NULL, PRIMARY KEY (stream, partition, key)
) STRICT, WITHOUT ROWID;
-- The newest writer of each partition (writers.py).
CREATE TABLE writers (
    partition_id INTEGER PRIMARY KEY, fence INTEGER NOT NULL, seen_at REAL NOT NULL
) STRICT;
CREATE INDEX writers_by_age ON writers (seen_at);
"""

_SCHEMA = (
    """
CREATE TABLE identity (
    id INTEGER PRIMARY KEY CHECK (id = 1), buffer_id TEXT NOT NULL,
    checked_from INTEGER NOT NULL DEFAULT 1  -- entries from this number on have checksums
) STRICT;
CREATE TABLE totals (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    next_seq INTEGER NOT NULL, next_token INTEGER NOT NULL,
    entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
    copied INTEGER NOT NULL DEFAULT 0,  -- bytes of all copies
    kept_bytes INTEGER NOT NULL DEFAULT 0  -- of acknowledged records that are kept a while (kept.py)
) STRICT;
INSERT INTO totals (id, next_seq, next_token, entries, bytes) VALUES (1, 1, 1, 0, 0);
-- AUTOINCREMENT: processes remember ids, so an id must never be given to another partition.
CREATE TABLE partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stream TEXT NOT NULL, name TEXT NOT NULL,
    entries INTEGER NOT NULL, bytes INTEGER NOT NULL,
    oldest_at REAL,
    token INTEGER NOT NULL DEFAULT 0, owner TEXT,
    leased_at REAL NOT NULL DEFAULT 0, lease_until REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, next_attempt_at REAL NOT NULL DEFAULT 0,
    failing_since REAL, failure TEXT, guarded INTEGER NOT NULL DEFAULT 0,
    spilled_to INTEGER NOT NULL DEFAULT 0,  -- records with smaller ids were spilled
    last_seq INTEGER NOT NULL DEFAULT 0,  -- the newest entry that waits, while one does
    -- the last entry that the sink acknowledged, and the last one of these that is not kept any more
    mark_epoch INTEGER NOT NULL DEFAULT 0, mark_seq INTEGER NOT NULL DEFAULT 0,
    mark_digest INTEGER NOT NULL DEFAULT 0, mark_at REAL NOT NULL DEFAULT 0,
    gone_epoch INTEGER NOT NULL DEFAULT 0, gone_seq INTEGER NOT NULL DEFAULT 0,
    tenant TEXT NOT NULL DEFAULT '',  -- whose it is; tenants take turns at being flushed
    UNIQUE (stream, name)
) STRICT;
CREATE INDEX partitions_waiting ON partitions (stream, oldest_at) WHERE oldest_at IS NOT NULL;
CREATE INDEX partitions_of_tenants ON partitions (id) WHERE tenant <> '';
-- id = seq * 65536 + position in the entry, so that rowid order is the order of acceptance.
CREATE TABLE records (
    id INTEGER PRIMARY KEY, partition_id INTEGER NOT NULL, parked INTEGER NOT NULL,
    replays INTEGER NOT NULL, accepted_at REAL NOT NULL,
    -- value is the difference from the value of the record with this id (chain.py); negative: value is the
    -- place of the value in the spill file of that number (spill.py)
    base INTEGER,
    key BLOB NOT NULL, value BLOB NOT NULL,
    checksum INTEGER,
    epoch INTEGER NOT NULL DEFAULT 0,  -- of the handle that accepted it; 0: written by format 3
    kept INTEGER NOT NULL DEFAULT 0  -- acknowledged, and then parked is 1 too: the format before takes it for parked
) STRICT;
-- With the base, so that what builds on acknowledged records is found without reading the others.
CREATE INDEX records_waiting ON records (partition_id, id, base, parked) WHERE parked = 0;
CREATE INDEX records_by_key ON records (partition_id, key);
CREATE INDEX records_kept ON records (partition_id, id, base) WHERE kept = 1;
-- Acknowledgements whose records are kept, oldest first: the ids from low up to high of a partition.
CREATE TABLE kept (
    id INTEGER PRIMARY KEY AUTOINCREMENT, partition_id INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    bytes INTEGER NOT NULL, epoch INTEGER NOT NULL, acked_at REAL NOT NULL
) STRICT;
CREATE INDEX kept_by_partition ON kept (partition_id);
-- Which database the buffer belongs to (database/identity.py); without an id it was never contacted.
CREATE TABLE binding (
    id INTEGER PRIMARY KEY CHECK (id = 1), address TEXT NOT NULL, database_id TEXT, system_id TEXT,
    database_oid INTEGER, bound_at REAL NOT NULL
) STRICT;
CREATE INDEX records_spilled ON records (base) WHERE base < 0;
-- `records` counts those whose values lie in the file; the last one to go lets the file be deleted. (No trigger counts
-- them down: it would cost each DELETE 3 us a row.)
CREATE TABLE spills (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file_id TEXT NOT NULL UNIQUE, stream TEXT NOT NULL,
    address TEXT NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,
    records INTEGER NOT NULL, bytes INTEGER NOT NULL, created_at REAL NOT NULL, touched_at REAL NOT NULL
) STRICT;
-- Entries that `surgetank recover` took over from files of this or another buffer.
CREATE TABLE recovered (origin TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (origin, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT, partition_id INTEGER NOT NULL, seq INTEGER NOT NULL,
    bytes INTEGER NOT NULL, accepted_at REAL NOT NULL, parked_at REAL NOT NULL,
    failure TEXT NOT NULL, replays INTEGER NOT NULL
) STRICT;
CREATE TABLE notes (
    partition_id INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, noted_at REAL NOT NULL,
    expires_at REAL, PRIMARY KEY (partition_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX notes_by_age ON notes (noted_at);
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, created_at REAL NOT NULL, stream TEXT NOT NULL, status TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX jobs_by_age ON jobs (created_at);
-- Copies of what the sink has, by partition, and their parts (copies.py).
CREATE TABLE copies (
    partition_id INTEGER PRIMARY KEY, mark BLOB NOT NULL, bytes INTEGER NOT NULL, used_at REAL NOT NULL
) STRICT;
CREATE INDEX copies_by_use ON copies (used_at);
CREATE TABLE copied (
    partition_id INTEGER NOT NULL, key BLOB NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (partition_id, key)
) STRICT;
"""
    + _CHECKED
)

# Released: 3. Its last step may be added to until the next one is.
_UPGRADES = {
    3: """
ALTER TABLE identity ADD COLUMN checked_from INTEGER NOT NULL DEFAULT 1;
UPDATE identity SET checked_from = (SELECT next_seq FROM totals);
ALTER TABLE records ADD COLUMN checksum INTEGER;
ALTER TABLE partitions ADD COLUMN last_seq INTEGER NOT NULL DEFAULT 0;
UPDATE partitions SET last_seq = coalesce((SELECT max(r.id) >> 16 FROM records r
    WHERE r.partition_id = partitions.id AND r.parked = 0), 0);
ALTER TABLE totals ADD COLUMN copied INTEGER NOT NULL DEFAULT 0;
CREATE TABLE copies (
    partition_id INTEGER PRIMARY KEY, mark BLOB NOT NULL, bytes INTEGER NOT NULL, used_at REAL NOT NULL
) STRICT;
CREATE INDEX copies_by_use ON copies (used_at);
CREATE TABLE copied (
    partition_id INTEGER NOT NULL, key BLOB NOT NULL, crc INTEGER NOT NULL, value BLOB NOT NULL,
    PRIMARY KEY (partition_id, key)
) STRICT;
ALTER TABLE records ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;
CREATE INDEX records_kept ON records (partition_id, id, base) WHERE kept = 1;
CREATE TABLE kept (
    id INTEGER PRIMARY KEY AUTOINCREMENT, partition_id INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    bytes INTEGER NOT NULL, epoch INTEGER NOT NULL, acked_at REAL NOT NULL
) STRICT;
CREATE INDEX kept_by_partition ON kept (partition_id);
CREATE TABLE binding (
    id INTEGER PRIMARY KEY CHECK (id = 1), address TEXT NOT NULL, database_id TEXT, system_id TEXT,
    database_oid INTEGER, bound_at REAL NOT NULL
) STRICT;
ALTER TABLE totals ADD COLUMN kept_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN mark_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN mark_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN mark_digest INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN mark_at REAL NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN gone_epoch INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN gone_seq INTEGER NOT NULL DEFAULT 0;
ALTER TABLE partitions ADD COLUMN tenant TEXT NOT NULL DEFAULT '';
CREATE INDEX partitions_of_tenants ON partitions (id) WHERE tenant <> '';
"""
    + _CHECKED,
}

# "STK1"
BUFFER = Kind("buffer", application_id=0x53544B31, version=4, schema=_SCHEMA, upgrades=_UPGRADES)
