"""How far each partition is written: the fence that every PostgreSQL sink passes inside its
transaction.

It refuses a worker that lost its lease, a database that the buffer does not belong to, and whatever
does not fit to the progress that stands there (`standing.py`): an entry is left out only after
somebody has made sure that it was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import orjson
from psycopg import Cursor
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from surgetank.database.queries import queries
from surgetank.encode.digest import mark_of
from surgetank.encode.jsontext import preview
from surgetank.exceptions import EntryRejected, LeaseLost, WrongDatabase
from surgetank.model import Entry, Mark, Record
from surgetank.sinks.protocol import Slice
from surgetank.sinks.standing import Doubt, ProgressDoubtful, Standing, covers, is_plain, judge, top

SQL = queries("sinks/fence.sql")
EPOCHS_KEPT = 16  # of one partition in its row; those used before have rows of their own

Rows = Cursor[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Passed:
    """A slice that passed the fence: what is to be written, what was written before, and the last
    entry's mark."""

    partition: str
    entries: Sequence[Entry]
    written_before: Sequence[Entry]
    mark: Mark


def fetch_tuples(
    cursor: Cursor[Any], query: LiteralString, items: Sequence[Any], **arguments: Any
) -> list[tuple[Any, ...]]:
    """Run a query on items given as one JSON array: for thousands of them far cheaper than
    arrays."""
    with cursor.connection.cursor(binary=True, row_factory=tuple_row) as plain:
        return plain.execute(
            query, {"items": Jsonb(items, dumps=orjson.dumps), **arguments}
        ).fetchall()


def unreadable(partition: str, entry: Entry, record: Record, error: ValueError) -> EntryRejected:
    """The refusal of an entry whose bytes mean nothing to this version: it is parked, its
    neighbours go through."""
    return EntryRejected(
        partition=partition, path="$", seq=entry.seq,
        reason=f"{error}: {len(record.value)} bytes that begin with {preview(record.value)!r}",
        remedy="flush with the Surgetank version that wrote it; `surgetank parked export` has its "
        "bytes.",
    )  # fmt: skip


def fence(
    cursor: Rows, slices: Sequence[Slice], buffer_id: str, database_id: str | None = None
) -> list[Passed]:
    """Take the partitions and move them on; returns each with the entries that are to be written.

    Raises `LeaseLost`, `WrongDatabase`, and `ProgressDoubtful` when what waits can't simply be
    written.
    """
    ends = [_ends(s.entries) for s in slices]
    items = [
        (s.lease.stream, s.lease.partition, s.lease.token, *_item(marks))
        for s, marks in zip(slices, ends, strict=True)
    ]
    found = {
        row[0]: row
        for row in fetch_tuples(
            cursor, SQL["fence"], items, buffer_id=buffer_id, database_id=database_id
        )
    }
    if len(found) < len(slices):
        raise _refusal(
            cursor, [s for s in slices if s.lease.partition not in found], buffer_id, database_id
        )
    standings = {
        s.lease.partition: _before(found[s.lease.partition], marks)
        for s, marks in zip(slices, ends, strict=True)
    }
    _add_earlier(cursor, slices, ends, found, standings, buffer_id)
    slices = [_witnessed(s, standings[s.lease.partition]) for s in slices]
    doubts = [
        Doubt(s.lease.partition, standing)
        for s in slices
        if _is_doubtful(s, standing := standings[s.lease.partition])
    ]
    if doubts:
        raise ProgressDoubtful(doubts)
    for s in slices:
        if len(found[s.lease.partition][2]) > EPOCHS_KEPT:
            _set_aside(cursor, s, buffer_id)
    return [_passed(s, marks) for s, marks in zip(slices, ends, strict=True)]


def _ends(entries: Sequence[Entry]) -> list[Mark]:
    """The last entry of each epoch, the slice's last one at the end."""
    last: dict[int, Entry] = {}
    for entry in entries:
        last[entry.epoch] = entry
    return [mark_of(entry) for entry in sorted(last.values(), key=lambda entry: entry.seq)]


def _item(marks: Iterable[Mark]) -> tuple[int, dict[str, tuple[int, int, int, int]]]:
    plain, epochs = 0, {}
    for epoch, seq, digest in marks:
        if epoch == 0:
            plain = seq
        else:
            epochs[str(epoch)] = (seq, digest, 0, 0)
    return plain, epochs


def _before(row: tuple[Any, ...], mine: Sequence[Mark]) -> dict[int, Mark]:
    """Where a partition stood before this transaction."""
    _, plain, epochs, _ = row
    moved = {mark.epoch for mark in mine}
    standing: dict[int, Mark] = {0: Mark(0, plain, 0)} if plain else {}
    for name, (seq, digest, seq_before, digest_before) in epochs.items():
        epoch = int(name)
        mark = (
            Mark(epoch, seq_before, digest_before) if epoch in moved else Mark(epoch, seq, digest)
        )
        if mark.seq:
            standing[epoch] = mark
    return standing


def _add_earlier(
    cursor: Rows,
    slices: Sequence[Slice],
    ends: Sequence[Sequence[Mark]],
    found: Mapping[str, tuple[Any, ...]],
    standings: Mapping[str, dict[int, Mark]],
    buffer_id: str,
) -> None:
    """Where epochs stand that are not in their partition's row, because they were used long ago.
    Mostly none is."""
    wanted = []
    for s, marks in zip(slices, ends, strict=True):
        name = s.lease.partition
        if found[name][3]:
            asked = {mark.epoch for mark in marks} | (
                {s.known.epoch} if s.known is not None else set()
            )
            wanted += [(name, epoch) for epoch in asked if epoch and epoch not in standings[name]]
    if wanted:
        stream = slices[0].lease.stream
        for name, epoch, seq, digest in fetch_tuples(
            cursor, SQL["earlier_epochs"], wanted, buffer_id=buffer_id, stream=stream
        ):
            standings[name][epoch] = Mark(epoch, seq, digest)


def _set_aside(cursor: Rows, part: Slice, buffer_id: str) -> None:
    cursor.execute(
        SQL["set_aside_epochs"],
        {
            "buffer_id": buffer_id, "stream": part.lease.stream, "partition": part.lease.partition,
            "most": EPOCHS_KEPT // 2,
        },
    )  # fmt: skip


def _witnessed(part: Slice, standing: Standing) -> Slice:
    """The slice with what an interrupted flush wrote of it, if the witness of that is among its
    entries."""
    lowest = part.entries[0].seq
    if part.written or is_plain(standing, part.known, lowest):
        return part
    verdict = judge(standing, part.known, [mark_of(entry) for entry in part.entries])
    return replace(part, written=verdict.written)


def _is_doubtful(part: Slice, standing: Standing) -> bool:
    if not part.written:
        return not is_plain(standing, part.known, part.entries[0].seq)
    # What was confirmed counts as written; what is left has to come after all that the sink has.
    lowest = next((e.seq for e in part.entries if e.seq > part.written.get(e.epoch, 0)), None)
    confirmed = all(covers(standing, epoch, seq) for epoch, seq in part.written.items())
    return not confirmed or not (lowest is None or lowest > top(standing))


def _passed(part: Slice, marks: Sequence[Mark]) -> Passed:
    name, entries = part.lease.partition, part.entries
    if not part.written:
        return Passed(name, entries, (), marks[-1])
    before = [e for e in entries if e.seq <= part.written.get(e.epoch, 0)]
    rest = [e for e in entries if e.seq > part.written.get(e.epoch, 0)]
    return Passed(name, rest, before, marks[-1])


def _refusal(
    cursor: Rows, lost: Sequence[Slice], buffer_id: str, database_id: str | None
) -> LeaseLost | WrongDatabase:
    if database_id is not None:
        row = cursor.connection.execute(
            "SELECT id::text FROM surgetank.database_identity"
        ).fetchone()
        if row is None or row[0] != database_id:
            return WrongDatabase(
                "The database is not the one that this buffer belongs to. Nothing was written into "
                "it.",
                remedy="see `surgetank doctor`; `surgetank adopt` if it is meant to be.",
            )
    names = [s.lease.partition for s in lost]
    seen = fetch_tuples(
        cursor, SQL["tokens"], names, buffer_id=buffer_id, stream=lost[0].lease.stream
    )
    return LeaseLost(
        f"A newer lease of {names[0]!r} has written to the database.",
        remedy="nothing to do: whoever holds the partition now flushes it.",
        seen=dict(seen),
    )


def standing_of(plain: int, epochs: Mapping[str, Sequence[int]]) -> dict[int, Mark]:
    """Where a partition stands now, from its row."""
    standing = {
        int(name): Mark(int(name), seq, digest) for name, (seq, digest, *_) in epochs.items()
    }
    return standing | ({0: Mark(0, plain, 0)} if plain else {})


def standings(
    cursor: Cursor[Any], buffer_id: str, partitions: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], dict[int, Mark]]:
    """Where partitions (stream, name) stand. Those that the database knows nothing of are
    missing."""
    rows = fetch_tuples(cursor, SQL["standings"], partitions, buffer_id=buffer_id)
    return {(stream, name): standing_of(plain, epochs) for stream, name, plain, epochs in rows}
