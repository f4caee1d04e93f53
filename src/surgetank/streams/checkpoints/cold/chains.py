"""The blob chains of threads while they are written: which number comes next, against what it is
patched.

What was written last is remembered per thread, with the thread's revision, in a cache bounded by
memory: the next flush of the same thread then reads nothing from the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgetank.bounded import BoundedMap
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import Blob, Tip
from surgetank.exceptions import StateCorrupt
from surgetank.model import Replacement


@dataclass(slots=True)
class Channel:
    """The end of one channel's chain."""

    n: int = 0
    tip: Tip | None = None


@dataclass(slots=True)
class Thread:
    """What a writer knows of a thread inside its transaction."""

    thread_id: str
    revision: int
    checkpoint_id: str | None
    versions: Mapping[str, str]
    incarnation: int = 0  # tells it from an earlier thread with its id
    writer: str | None = None  # the buffer that wrote `checkpoint_id` before this transaction
    ns_pks: dict[str, int] = field(default_factory=dict)
    # namespaces made by this transaction: nothing is stored there yet
    fresh: set[int] = field(default_factory=set)
    channels: dict[tuple[int, str], Channel] = field(default_factory=dict)
    # The checkpoint written last in each namespace, and what it has
    # (`streams/checkpoints/cold/small.py`), packed.
    newest: dict[int, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def memory(self) -> int:
        """Bytes held by the tips, and a little for the rest."""
        tips = sum(200 + (c.tip.memory if c.tip else 0) for c in self.channels.values())
        return 500 + tips + sum(200 + len(packed) for _, packed in self.newest.values())


# Incarnation and revision, namespaces with their numbers, channels with the ends of their chains,
# newest checkpoints, and the bytes that all this takes.
_Known = tuple[
    tuple[int, int],
    tuple[tuple[str, int], ...],
    tuple[tuple[int, str, int, Any], ...],
    tuple[tuple[int, str, bytes], ...],
    int,
]


class ThreadCache:
    """The threads written last, least recently used first, up to `limit` bytes of tips.

    They are kept as plain tuples: tens of thousands of objects would have the garbage collector go
    through them again and again.
    """

    def __init__(self, limit: int = 48 * 1024**2) -> None:
        self._limit = limit
        self._threads = BoundedMap[str, _Known](most_weight=limit, weigh=lambda known: known[-1])

    def knows(self, thread_id: str) -> bool:
        """Whether the thread was written lately, so that it is in the database."""
        return thread_id in self._threads

    def recall(self, thread: Thread) -> None:
        """Fill in what is remembered, if nobody wrote to the thread since."""
        known = self._threads.get(thread.thread_id)
        if known is not None and known[0] == (thread.incarnation, thread.revision - 1):
            thread.ns_pks = dict(known[1])
            thread.channels = {
                (ns_pk, channel): Channel(n, Tip.unpack(tip) if tip is not None else None)
                for ns_pk, channel, n, tip in known[2]
            }
            thread.newest = {
                ns_pk: (checkpoint_id, packed) for ns_pk, checkpoint_id, packed in known[3]
            }

    def remember(self, thread: Thread) -> None:
        """Keep what a committed transaction wrote."""
        self.forget(thread.thread_id)
        size = thread.memory
        if size > self._limit // 2:
            return
        channels = tuple(
            (ns_pk, channel, c.n, c.tip.pack() if c.tip is not None else None)
            for (ns_pk, channel), c in thread.channels.items()
        )
        newest = tuple((ns_pk, *known) for ns_pk, known in thread.newest.items())
        self._threads[thread.thread_id] = (
            (thread.incarnation, thread.revision),
            tuple(thread.ns_pks.items()),
            channels,
            newest,
            size,
        )

    def clear(self) -> None:
        """Drop all threads: the database is no longer what it was."""
        self._threads.clear()

    def forget(self, thread_id: str) -> None:
        """Drop a thread (it was deleted, pruned, or its transaction failed)."""
        self._threads.pop(thread_id, None)


def damaged(channel: str, error: StateCorrupt) -> Replacement:
    """What a job says of a stored version that can't be decoded."""
    return Replacement(
        f"$.channel_values.{channel}",
        f"a stored version is damaged: {error.what} Newer ones are whole",
        "",
    )


def load_tips(
    threads: Mapping[int, Thread], rows: list[dict[str, Any]]
) -> list[tuple[str, Replacement]]:
    """Take in the rows of the query `tips`; `threads` maps namespace numbers to their threads.

    Returns what is damaged, by thread: reading it raises `StateCorrupt`, what is written now begins
    a new chain.
    """
    found: list[tuple[str, Replacement]] = []
    paths: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for row in rows:
        paths.setdefault((row["ns_pk"], row["channel"]), []).append(row)
    for (ns_pk, channel), path in paths.items():
        newest = path[-1]
        tip = None
        if any(r["data"] is None and r["raw_bytes"] <= patch.MAX_PATCHED for r in path):
            what = StateCorrupt(f"Version {newest['n']} is longer than what it stands for.")
            found.append((threads[ns_pk].thread_id, damaged(channel, what)))
        elif (
            newest["raw_bytes"] >= patch.SMALL
            and all(r["data"] is not None for r in path)
            and "+" not in newest["type"]
        ):
            blobs = [
                Blob(
                    n=r["n"],
                    base_n=r["base_n"],
                    position=r["position"],
                    codec=r["codec"],
                    raw_bytes=r["raw_bytes"],
                    data=bytes(r["data"]),
                )
                for r in path
            ]
            try:
                tip = patch.decode_path(blobs)
            except StateCorrupt as error:
                found.append((threads[ns_pk].thread_id, damaged(channel, error)))
        threads[ns_pk].channels[ns_pk, channel] = Channel(newest["n"], tip)
    return found


def next_blob(thread: Thread, ns_pk: int, channel: str, type_: str, data: bytes) -> Blob:
    """Code the next version of a channel and move its chain on. Encrypted values are never
    patched."""
    end = thread.channels.setdefault((ns_pk, channel), Channel())
    blob, end.tip = patch.extend(end.tip, end.n + 1, data, patchable="+" not in type_)
    end.n += 1
    return blob
