"""What a step is given and gives back, as it is stored: plain values of MessagePack. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from surgetank.buffer.failures import failure_json, failure_of
from surgetank.exceptions import (
    Conflict,
    EntryRejected,
    InvalidRequest,
    LeaseLost,
    NotFound,
    SurgetankError,
)
from surgetank.streams.tables.hot.protocol import (
    Accepted,
    Acked,
    BatchKey,
    ErasedSince,
    Held,
    Progress,
    Refused,
    TableLease,
)
from surgetank.streams.tables.hot.putting import KeyTaken, Rows, Stored, Unless
from surgetank.streams.tables.hot.segments import Part

_REFUSALS: dict[str, type[SurgetankError]] = {
    kind.__name__: kind for kind in (Conflict, NotFound, InvalidRequest, LeaseLost, ErasedSince)
}


def kept_rows(rows: Rows) -> list[Any]:
    packed = [list(row) for row in rows.packed]
    return [list(rows.users), list(rows.ops), list(rows.seqs), packed, list(rows.keys)]


def rows_of(kept: Sequence[Any]) -> Rows:
    return Rows(*kept)


def kept_segment(stored: Stored) -> list[Any]:
    parts = stored.parts
    users, counts = [part.user for part in parts], [part.count for part in parts]
    return [stored.file, stored.size, users, counts, list(stored.keys)]


def segment_of(kept: Sequence[Any]) -> Stored:
    name, size, users, counts, keys = kept
    return Stored(name, size, parts_of(users, counts), keys)


def parts_of(users: Sequence[str], counts: Sequence[int]) -> list[Part]:
    """The parts of a segment that follow each other; `first` counts from 0."""
    parts, start = list[Part](), 0
    for user, count in zip(users, counts, strict=True):
        parts.append(Part(user, start, count, start))
        start += count
    return parts


def kept_unless(unless: Unless) -> list[Any]:
    batch = unless.batch
    known = None if batch is None else [batch.key, batch.digest, batch.user]
    return [known, unless.newer_than, unless.acked_since, unless.erased_since]


def unless_of(kept: Sequence[Any]) -> Unless:
    batch, *others = kept
    return Unless(None if batch is None else BatchKey(*batch), *others)


def kept_lease(lease: TableLease) -> list[Any]:
    return [
        lease.table_id, lease.token, lease.owner, lease.expires_at, lease.through, lease.store_id,
        sorted(lease.held), lease.progress.through, dict(lease.progress.held),
    ]  # fmt: skip


def lease_of(kept: Sequence[Any]) -> TableLease:
    id_, token, owner, expires_at, through, store_id, held, reached, behind = kept
    return TableLease(
        table_id=id_,
        token=token,
        owner=owner,
        expires_at=expires_at,
        through=through,
        store_id=store_id,
        held=frozenset(held),
        progress=Progress(reached, behind),
    )


def kept_held(held: Held) -> list[Any]:
    return [failure_json(held.failure), held.attempts, held.next_attempt_at]


def held_of(kept: Sequence[Any]) -> Held:
    return Held(failure_of(kept[0]), kept[1], kept[2])


def kept_helds(held: Mapping[str, Held] | None) -> dict[str, Any]:
    return {user: kept_held(each) for user, each in (held or {}).items()}


def helds_of(kept: Mapping[str, Any]) -> dict[str, Held]:
    return {user: held_of(each) for user, each in kept.items()}


def kept_refused(refused: Sequence[Refused]) -> list[Any]:
    return [[each.user, each.version, failure_json(each.failure)] for each in refused]


def refused_of(kept: Sequence[Any]) -> list[Refused]:
    return [Refused(user, version, failure_of(text)) for user, version, text in kept]


def kept_accepted(accepted: Accepted) -> list[Any]:
    return [accepted.first, accepted.last, accepted.repeated]


def accepted_of(kept: Sequence[Any]) -> Accepted:
    return Accepted(*kept)


def kept_acked(acked: Acked) -> list[Any]:
    return [acked.changes, list(acked.recovered), [list(each) for each in acked.behind]]


def acked_of(kept: Sequence[Any]) -> Acked:
    changes, recovered, behind = kept
    return Acked(changes, tuple(recovered), tuple((user, version) for user, version in behind))


def kept_refusal(error: BaseException) -> list[Any]:
    """What a step was refused for."""
    if isinstance(error, KeyTaken):
        return ["KeyTaken", error.index]
    if isinstance(error, EntryRejected):
        return ["EntryRejected", error.partition, error.path, error.reason, error.remedy]
    if type(error).__name__ in _REFUSALS and isinstance(error, SurgetankError):
        return [type(error).__name__, error.what, error.remedy]
    return ["Conflict", f"The step can't be done ({type(error).__name__}: {error}).", ""]


def refusal_of(kept: Sequence[Any]) -> Exception:
    name, *more = kept
    made: dict[str, Callable[[], Exception]] = {
        "KeyTaken": lambda: KeyTaken(more[0]),
        "EntryRejected": lambda: EntryRejected(
            partition=more[0], path=more[1], reason=more[2], remedy=more[3]
        ),
    }
    return made[name]() if name in made else _REFUSALS[name](more[0], remedy=more[1])
