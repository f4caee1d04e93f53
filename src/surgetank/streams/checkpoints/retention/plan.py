"""What of a thread goes by age, count and size. Pure: a thread's contents and limits in, a plan
out.

A checkpoint goes when any limit says so, but never: the newest of its namespace, what a kept
checkpoint's DeltaChannels are rebuilt from, and what the buffer still holds something for or
descends from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from surgetank.streams.checkpoints.refs import LocalRef


@dataclass(frozen=True, slots=True)
class Limits:
    """How long, how many (per namespace) and how much (per thread). None sets no limit.

    `age_s` counts from when the database got a checkpoint. `keep` is at least 1.
    """

    age_s: float | None = None
    keep: int | None = None
    max_bytes: int | None = None

    def __bool__(self) -> bool:
        return not (self.age_s is None and self.keep is None and self.max_bytes is None)

    def __str__(self) -> str:
        return f"age={self.age_s} keep={self.keep} bytes={self.max_bytes}"


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint as retention sees it. `hot` ones are still in the buffer, `size` counts its
    writes as well.

    `blobs` are the numbers (places in `Contents.blobs`) of the channel versions that it refers to.
    """

    ns: str
    checkpoint_id: str
    parent_id: str | None
    age_s: float = 0.0
    size: int = 0
    delta_channels: frozenset[str] = frozenset()
    present: frozenset[str] = frozenset()
    blobs: tuple[int, ...] = ()
    hot: bool = False

    @property
    def key(self) -> LocalRef:
        """Namespace and id."""
        return self.ns, self.checkpoint_id


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One stored channel version. `base` is the number of the version that it is a patch of."""

    channel: str
    base: int | None
    raw_bytes: int
    size: int


@dataclass(frozen=True, slots=True)
class Contents:
    """All that is stored of a thread, hot ones included; `pinned` are checkpoints that the buffer
    has writes for.

    Without `values` only the outline was loaded: then nothing can be said about sizes.
    """

    thread_id: str
    checkpoints: Sequence[Stored] = ()
    blobs: Sequence[StoredBlob] = ()
    pinned: frozenset[LocalRef] = frozenset()
    values: bool = True

    @property
    def size(self) -> int:
        """Bytes in the database: checkpoints, writes and values."""
        return sum(c.size for c in self.checkpoints) + sum(b.size for b in self.blobs)


@dataclass(frozen=True, slots=True)
class ThreadPlan:
    """What goes of one thread: ids by namespace, oldest first, and how many because of which limit.

    `freed_bytes` is exact for checkpoints and writes, and an estimate for values: patches whose
    base goes are made anew, and how large they become shows only then. None when nobody looked (the
    background doesn't, without need).
    """

    thread_id: str
    checkpoints: int
    bytes: int
    doomed: Mapping[str, Sequence[str]] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    freed_bytes: int | None = None
    indivisible: bool = False  # some of what goes is rebuilt from other checkpoints that go

    @property
    def count(self) -> int:
        """How many checkpoints go."""
        return sum(map(len, self.doomed.values()))


def plan(contents: Contents, limits: Limits) -> ThreadPlan:
    """Decide what goes."""
    known = {c.key: c for c in contents.checkpoints}
    fixed = _fixed(contents, known)
    reasons: dict[LocalRef, str] = {}
    ranks: dict[str, int] = {}
    for key in sorted(known, key=lambda k: k[1], reverse=True):
        rank = ranks[key[0]] = ranks.get(key[0], 0) + 1
        if limits.keep is not None and rank > limits.keep:
            reasons[key] = "keep"
        if limits.age_s is not None and known[key].age_s > limits.age_s:
            reasons[key] = "age"
    wanted = {key for key in known if key in fixed or key not in reasons}
    kept = closure(known, wanted)
    if limits.max_bytes is not None and remaining_bytes(contents, kept) > limits.max_bytes:
        removable = sorted((k for k in wanted - fixed), key=lambda k: (k[1], k[0]))
        kept = _shrunk(contents, known, wanted, removable, limits.max_bytes)
    doomed: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for ns, checkpoint_id in sorted(known.keys() - kept, key=lambda k: (k[1], k[0])):
        doomed.setdefault(ns, []).append(checkpoint_id)
        reason = reasons.get((ns, checkpoint_id), "size")
        counts[reason] = counts.get(reason, 0) + 1
    size = contents.size
    freed = max(0, size - remaining_bytes(contents, kept)) if contents.values else None
    delta = any(known[key].delta_channels for key in known.keys() - kept)
    return ThreadPlan(
        thread_id=contents.thread_id,
        checkpoints=len(known),
        bytes=size,
        doomed=doomed,
        reasons=counts,
        freed_bytes=freed,
        indivisible=delta,
    )


def _fixed(contents: Contents, known: Mapping[LocalRef, Stored]) -> set[LocalRef]:
    """What no limit can touch, apart from what it needs in turn."""
    newest: dict[str, str] = {}
    fixed = {key for key in contents.pinned if key in known}
    for c in contents.checkpoints:
        newest[c.ns] = max(newest.get(c.ns, ""), c.checkpoint_id)
        if c.hot:
            # Values that it took over unchanged lie in the database as long as its parent does.
            fixed.add(c.key)
            if c.parent_id is not None and (c.ns, c.parent_id) in known:
                fixed.add((c.ns, c.parent_id))
    return fixed | set(newest.items())


def closure(known: Mapping[LocalRef, Stored], wanted: Iterable[LocalRef]) -> set[LocalRef]:
    """The wanted checkpoints and the ancestors that their DeltaChannels are rebuilt from: up to the
    nearest one with a stored value."""
    kept = set(wanted)
    followed: dict[LocalRef, set[str]] = {}
    for key in list(kept):
        current = known[key]
        open_channels = set(current.delta_channels - current.present)
        while open_channels and current.parent_id is not None:
            parent = known.get((current.ns, current.parent_id))
            if parent is None or open_channels <= followed.setdefault(parent.key, set()):
                break
            followed[parent.key] |= open_channels
            kept.add(parent.key)
            open_channels -= parent.present
            current = parent
    return kept


def _shrunk(
    contents: Contents,
    known: Mapping[LocalRef, Stored],
    wanted: set[LocalRef],
    removable: Sequence[LocalRef],
    limit: int,
) -> set[LocalRef]:
    """The kept ones when as few as possible of the oldest go to come under the limit."""
    low, high = 1, len(removable)
    while low < high:
        middle = (low + high) // 2
        if remaining_bytes(contents, closure(known, wanted - set(removable[:middle]))) <= limit:
            high = middle
        else:
            low = middle + 1
    return closure(known, wanted - set(removable[:high]))


def remaining_bytes(contents: Contents, kept: set[LocalRef]) -> int:
    """About what the database holds when only the kept checkpoints stay."""
    total = 0
    living: set[int] = set()
    for c in contents.checkpoints:
        if c.key in kept:
            total += c.size
            living.update(c.blobs)
    return total + sum(_size_then(contents.blobs, living, number) for number in living)


def _size_then(blobs: Sequence[StoredBlob], living: set[int], number: int) -> int:
    """About what a living version weighs once the dead ones are gone: its patch swallows those of
    its dead bases; without a living one it is stored whole, about as well compressed as the whole
    version below it."""
    blob = blobs[number]
    size, base = blob.size, blob.base
    while base is not None:
        if base in living:
            return size
        below = blobs[base]
        if below.base is None:
            return round(blob.raw_bytes * below.size / below.raw_bytes) if below.raw_bytes else size
        size, base = size + below.size, below.base
    return size
