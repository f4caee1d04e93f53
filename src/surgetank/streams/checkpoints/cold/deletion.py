"""Deleting threads and checkpoints from the cold layout without breaking a patch chain.

A blob lives as long as a remaining checkpoint refers to its version. When the base of a living
patch dies, the patch is made anew against its nearest living ancestor, or stored whole.
"""

from __future__ import annotations

from typing import Any

from psycopg import Cursor

from surgetank.database.queries import queries
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import Blob
from surgetank.exceptions import StateCorrupt
from surgetank.model import Replacement
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.bodies import unpack_body
from surgetank.streams.checkpoints.cold.chains import damaged
from surgetank.streams.checkpoints.envelope import Operation

SQL = queries("streams/checkpoints/cold/flush.sql")

Rows = Cursor[dict[str, Any]]


def delete_thread(cursor: Rows, thread_id: str, operation: Operation) -> list[tuple[str, str]]:
    """Remove all of a thread; returns namespace and id of the newest checkpoints that went with it.

    Repeated for the same operation (after a crash between commit and acknowledgement) it gives the
    same answer.
    """
    arguments = {"thread_id": thread_id, "operation_id": operation.id}
    done = deleted_with(cursor, operation)
    if done is not None:
        return done
    newest = [
        (row["checkpoint_ns"], row["checkpoint_id"])
        for row in cursor.execute(SQL["newest_of_thread"], arguments).fetchall()
    ]
    for name in ("writes", "blobs", "checkpoints", "namespaces"):
        cursor.execute(SQL[f"delete_thread_{name}"], arguments)
    cursor.execute(SQL["delete_thread"], arguments)
    cursor.execute(SQL["forget_deletions"])
    namespaces, ids = [ns for ns, _ in newest], [cid for _, cid in newest]
    cursor.execute(SQL["record_deletion"], {**arguments, "namespaces": namespaces, "ids": ids})
    return newest


def deleted_with(cursor: Rows, operation: Operation) -> list[tuple[str, str]] | None:
    """Namespace and id of the newest checkpoints that went with a deletion that was carried out;
    None if it wasn't."""
    done = cursor.execute(SQL["deletion_done"], {"operation_id": operation.id}).fetchone()
    return (
        None
        if done is None
        else list(zip(done["checkpoint_ns"], done["checkpoint_ids"], strict=True))
    )


def delete_checkpoints(cursor: Rows, thread_id: str, operation: Operation) -> list[Replacement]:
    """Remove single checkpoints of one namespace with their writes, and the blobs that nothing
    refers to any more.

    Returns what of the rest is damaged.
    """
    found = cursor.execute(
        SQL["find_namespaces"], {"threads": [thread_id], "namespaces": [operation.checkpoint_ns]}
    ).fetchone()
    if found is None:
        return []
    arguments = {"ns_pk": found["ns_pk"], "ids": list(operation.checkpoint_ids)}
    cursor.execute(SQL["delete_writes"], arguments)
    cursor.execute(SQL["delete_checkpoints"], arguments)
    cursor.execute(SQL["orphan_parents"], arguments)
    damage = _collect_blobs(cursor, found["ns_pk"])
    cursor.execute(SQL["delete_namespace"], arguments)
    return damage


def _collect_blobs(cursor: Rows, ns_pk: int) -> list[Replacement]:
    """Delete the blobs of a namespace that no checkpoint refers to."""
    damage: list[Replacement] = []
    referred: set[tuple[str, str]] = set()
    for row in cursor.execute(SQL["remaining_bodies"], {"ns_pk": ns_pk}).fetchall():
        record = unpack_body(None, row["codec"], row["body"])
        structure = envelope.read_structure(record.structure)
        referred.update(envelope.referred_versions(structure, record.present, row["checkpoint_id"]))
    channels: dict[str, list[dict[str, Any]]] = {}
    for row in cursor.execute(SQL["namespace_blobs"], {"ns_pk": ns_pk}).fetchall():
        channels.setdefault(row["channel"], []).append(row)
    for channel, blobs in channels.items():
        newest = {
            b["version"]: b["n"] for b in blobs
        }  # a version stored twice: the later one counts
        living = {n for version, n in newest.items() if (channel, version) in referred}
        dead = {b["n"] for b in blobs} - living
        if dead:
            base_of = {b["n"]: b["base_n"] for b in blobs}
            kept = _rebase(cursor, ns_pk, channel, base_of, living, damage)
            cursor.execute(
                SQL["delete_blobs"], {"ns_pk": ns_pk, "channel": channel, "ns": list(dead - kept)}
            )
    return damage


def _rebase(
    cursor: Rows,
    ns_pk: int,
    channel: str,
    base_of: dict[int, int | None],
    living: set[int],
    damage: list[Replacement],
) -> set[int]:
    """Give each living patch with a dead base a living one, or make it whole. Returns the dead that
    have to stay: bases of a patch that can't be decoded, which `damage` names.
    """
    kept: set[int] = set()
    for n in sorted(living):
        base = base_of[n]
        if base is None or base in living:
            continue
        try:
            _rebase_one(cursor, ns_pk, channel, base_of, living, n)
        except StateCorrupt as error:
            damage.append(damaged(channel, error))
            kept.update(_bases(base_of, n))
    return kept


def _rebase_one(
    cursor: Rows, ns_pk: int, channel: str, base_of: dict[int, int | None], living: set[int], n: int
) -> None:
    path = _path(base_of, n)
    ancestor = next((m for m in path[1:] if m in living), None)
    blobs = _load(cursor, ns_pk, channel, path)
    values = patch.decode_all(blobs, {n} if ancestor is None else {n, ancestor})
    remade = None
    if ancestor is not None:
        below = [blob for blob in blobs if blob.n in _path(base_of, ancestor)]
        remade = patch.remake(below, values[ancestor], values[n])
    if remade is None:
        ancestor = None
    codec, data = remade or patch.compress(values[n])
    cursor.execute(SQL["rebase_blob"], (ancestor, codec, data, ns_pk, channel, n))
    base_of[n] = ancestor


def _path(base_of: dict[int, int | None], n: int) -> list[int]:
    """A version and its bases. Raises `StateCorrupt` for a path that leads nowhere, back, or on and
    on."""
    path = [n, *_bases(base_of, n)]
    if len(path) > patch.MAX_PATH or base_of.get(path[-1], 0) is not None:
        raise StateCorrupt(
            f"The patches of version {n} don't lead to a value that is stored whole.",
            remedy="restore the database from a backup.",
        )
    return path


def _bases(base_of: dict[int, int | None], n: int) -> list[int]:
    """The bases of a version as far as they are there, each older than the one before."""
    bases: list[int] = []
    current, base = n, base_of.get(n)
    while base is not None and base < current and base in base_of and len(bases) <= patch.MAX_PATH:
        bases.append(base)
        current, base = base, base_of[base]
    return bases


def _load(cursor: Rows, ns_pk: int, channel: str, ns: list[int]) -> list[Blob]:
    rows = cursor.execute(
        SQL["channel_blobs"], {"ns_pk": ns_pk, "channel": channel, "ns": ns}
    ).fetchall()
    return [
        patch.stored(r["n"], r["base_n"], r["position"], r["codec"], r["raw_bytes"], r["data"])
        for r in rows
    ]


def load_value(cursor: Rows, ns_pk: int, channel: str, version: str) -> tuple[str, bytes] | None:
    """A stored channel value with its type; None when it is not there. Raises `StateCorrupt`."""
    row = cursor.execute(
        SQL["shown_version"], {"ns_pk": ns_pk, "channel": channel, "version": version}
    ).fetchone()
    if row is None:
        return None
    base_of: dict[int, int | None] = dict(zip(row["ns"], row["bases"], strict=True))
    blobs = _load(cursor, ns_pk, channel, _path(base_of, row["n"]))
    return row["type"], patch.decode_all(blobs, {row["n"]})[row["n"]]
