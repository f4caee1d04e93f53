"""Versions of a value as a chain: a whole blob now and then, between them patches against an older
version.

A patch is a splice where the versions begin alike, else zstd with the older version as raw
dictionary. Position `p` of a chain is patched against `p - 8**k`, where `8**k` is the largest power
of eight that divides `p`: mostly the version before, every eighth time the one eight before, every
64th time the one 64 before. Reading position 511 decodes at most 21 patches, and all patches
together weigh about 2.6 times what was appended (`make bench`, chains). A plain chain weighs once
that, but reading it decodes hundreds of patches; a binary tree reads eight and weighs 4.5 times.

What a read costs is bounded, also after pruning: at most `MAX_PATCHES` patches; together they weigh
less than the value, or the value compressed; and what is decoded on the way is at most
`MAX_DECODED` times as large as the value (of a value that shrank a lot a new chain begins; below
`FREE` bytes nobody counts).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import zstandard

from surgetank.encode.differences import dictionary as known
from surgetank.encode.differences import splice
from surgetank.encode.differences.frames import (
    check_frame,
    compress_full,
    compress_with,
    decompress_full,
    decompress_with,
)
from surgetank.exceptions import StateCorrupt

RAW, FULL, PATCH, SPLICE, KNOWN = 0, 1, 2, 3, 4
# of a row whose data was left out, because it is longer than the value that it declares
TOO_LONG = -1
SMALL = 96  # bytes below which compression costs more than it saves
RADIX = 8
MAX_POSITION = RADIX**3 - 1
MAX_PATCHES = 3 * (RADIX - 1)
MAX_DECODED = 32
FREE = 64 * 1024
# What a read takes of rows that somebody else wrote: well above what is ever stored (so does
# `blob_paths` in SQL).
MAX_PATH = 64
_SLACK = 2
# Larger values are stored whole: a patch holds both versions in memory, and a writer up to four.
MAX_PATCHED = 16 * 1024**2
# Values below this size that share none of a few samples with their base are not tried as a patch:
# setting zstd up with a dictionary costs more than what it could save.
_SAMPLED = 4096
_SAMPLES, _SAMPLE_BYTES = 8, 12
# A splice that puts in more than this, and an eighth of the value, is left to zstd, which looks
# farther for likeness.
_SPLICED = 4096
_WORDS_HELP = 16 * 1024  # a longer value teaches zstd its words itself
_PROBES, _PROBE_BYTES, _WORTH_IT = 8, 64 * 1024, 0.9


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored version: how it is coded, its bytes, and for a patch the number of its base."""

    n: int
    base_n: int | None
    position: int
    codec: int
    raw_bytes: int
    data: bytes


def stored(
    n: int, base_n: int | None, position: int, codec: int, raw_bytes: int, data: bytes | None
) -> Blob:
    """A blob out of the database; the data of a row that was damaged may have been left out."""
    return Blob(
        n=n,
        base_n=base_n,
        position=position,
        codec=codec if data is not None else TOO_LONG,
        raw_bytes=raw_bytes,
        data=bytes(data or b""),
    )


@dataclass(frozen=True, slots=True)
class _Node:
    n: int
    position: int
    raw: bytes
    patch_bytes: int  # stored bytes of the patches on its path
    decoded: int  # bytes of all versions on its path


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest version of a chain and the older ones that a later patch can need, decoded; oldest
    first.

    `full_ratio` is what is left of the chain's values when they are compressed whole, as far as it
    is known.
    """

    path: tuple[_Node, ...]
    full_ratio: float = 1.0

    @property
    def n(self) -> int:
        """Number of the newest version."""
        return self.path[-1].n

    @property
    def raw(self) -> bytes:
        """The newest version."""
        return self.path[-1].raw

    @property
    def memory(self) -> int:
        """Bytes held."""
        return sum(len(node.raw) for node in self.path)

    def pack(self) -> tuple[Any, ...]:
        """The tip as plain tuples."""
        nodes = tuple(
            (node.n, node.position, node.raw, node.patch_bytes, node.decoded) for node in self.path
        )
        return self.full_ratio, nodes

    @classmethod
    def unpack(cls, packed: tuple[Any, ...]) -> Tip:
        """The tip behind `pack`."""
        ratio, nodes = packed
        return cls(tuple(_Node(*node) for node in nodes), ratio)


def compress(data: bytes) -> tuple[int, bytes]:
    """`data` (a view will do) as it is or compressed, whichever is smaller, with its codec."""
    if len(data) < SMALL or (len(data) > MAX_PATCHED and not _compressible(data)):
        return RAW, data
    packed = compress_full(data)
    return (FULL, packed) if len(packed) < len(data) else (RAW, data)


def compress_words(data: bytes) -> tuple[int, bytes]:
    """As `compress`, for what consists of the words of `known` in part: bodies of checkpoints,
    pending writes.

    Level 2 of the storage format: released versions don't know the codec.
    """
    if not SMALL <= len(data) <= _WORDS_HELP:
        return compress(data)
    packed = known.pack(data)
    return (KNOWN, packed) if len(packed) < len(data) else (RAW, data)


def _compressible(data: bytes) -> bool:
    """Whether samples of a large value get smaller: else a second copy of it would be made for
    nothing."""
    view, step = memoryview(data), len(data) // _PROBES
    samples = (view[at : at + _PROBE_BYTES] for at in range(0, len(data) - _PROBE_BYTES, step))
    return any(len(compress_full(sample)) < len(sample) * _WORTH_IT for sample in samples)


def decompress(
    codec: int, data: bytes, base: bytes | None = None, *, size: int | None = None
) -> bytes:
    """The bytes behind `compress` or a patch; `size` is the length they were declared with, and
    never exceeded.

    Raises `StateCorrupt`.
    """
    try:
        return _decompress(codec, data, base, size)
    except (zstandard.ZstdError, ValueError) as error:
        raise StateCorrupt(
            f"Stored bytes can't be decompressed ({error}).", remedy=_RESTORE
        ) from error


def _decompress(codec: int, data: bytes, base: bytes | None, size: int | None) -> bytes:
    if codec == TOO_LONG or (size is not None and len(data) > size):
        raise ValueError("longer than the value that they stand for")
    if codec == RAW:
        raw = data
    elif codec == FULL:
        raw = decompress_full(data, size)
    elif codec == KNOWN:
        check_frame(data, size)
        raw = known.unpack(data)
    elif codec not in (PATCH, SPLICE):
        raise ValueError(f"unknown codec {codec}")
    elif base is None:
        raise ValueError("the base is missing")
    elif codec == SPLICE:
        found, middle = splice.unpack(data)
        if size is not None and found.size != size:
            raise ValueError(f"a splice of {found.size} bytes instead of {size}")
        if len(middle) != found.middle_bytes:
            middle = decompress_with(found.dictionary(base), middle, found.middle_bytes)
        raw = found.join(base, middle)
    else:
        raw = decompress_with(base, data, size)
    if size is not None and len(raw) != size:
        raise ValueError(f"{len(raw)} bytes instead of {size}")
    return raw


def make_patch(base: bytes, data: bytes) -> tuple[int, bytes]:
    """`data` as a patch against `base`, with its codec."""
    found = splice.find(base, data)
    if found is None or found.new > max(_SPLICED, len(data) // 8):
        return PATCH, compress_with(base, data)
    middle = found.middle(data)
    if len(middle) >= SMALL:
        packed = compress_with(found.dictionary(base), middle)
        middle = packed if len(packed) < len(middle) else middle
    return SPLICE, found.pack(middle)


def extend(
    tip: Tip | None, n: int, data: bytes, *, patchable: bool = True
) -> tuple[Blob, Tip | None]:
    """Code `data` as version number `n` of the chain that ends at `tip`; returns the blob and the
    new tip.

    The tip is None for values that no later version is to be patched against (`patchable` false:
    encrypted values have nothing in common; very small or very large ones).
    """
    if not patchable or len(data) > MAX_PATCHED or len(data) < SMALL:
        codec, packed = compress(data) if patchable else (RAW, data)
        return Blob(
            n=n, base_n=None, position=0, codec=codec, raw_bytes=len(data), data=packed
        ), None
    full: tuple[int, bytes] | None = None
    if tip is not None and (base := _base(tip)) is not None and _worth_trying(base, data):
        codec, packed = make_patch(base.raw, data)
        spent, ratio = base.patch_bytes + len(packed), tip.full_ratio
        # A whole blob is tried when it may be smaller than the patches on the path.
        if spent > len(data) * ratio * 3 / 4:
            full = compress(data)
            ratio = len(full[1]) / len(data)
        if full is None or spent < len(full[1]):
            node = _Node(n, tip.path[-1].position + 1, data, spent, base.decoded + len(data))
            blob = Blob(
                n=n,
                base_n=base.n,
                position=node.position,
                codec=codec,
                raw_bytes=len(data),
                data=packed,
            )
            return blob, Tip(_needed((*tip.path, node)), ratio)
    codec, packed = full or compress(data)
    return Blob(n=n, base_n=None, position=0, codec=codec, raw_bytes=len(data), data=packed), Tip(
        (_Node(n, 0, data, 0, len(data)),), len(packed) / len(data)
    )


def _cheap(decoded: int, size: int) -> bool:
    """Whether a value of that size may be read by way of so many bytes."""
    return decoded <= max(MAX_DECODED * size, FREE)


def remake(path: Sequence[Blob], base: bytes, data: bytes) -> tuple[int, bytes] | None:
    """`data` as a patch against `base`, the last version of a stored path; None when it is to be
    stored whole."""
    codec, packed = make_patch(base, data)
    spent = sum(len(blob.data) for blob in path if blob.base_n is not None) + len(packed)
    cheap = _cheap(sum(blob.raw_bytes for blob in path) + len(data), len(data))
    return (codec, packed) if cheap and spent < len(data) else None


def _worth_trying(base: _Node, data: bytes) -> bool:
    return _cheap(base.decoded + len(data), len(data)) and _alike(base.raw, data)


def _alike(base: bytes, data: bytes) -> bool:
    """Whether a patch may be worth trying."""
    if len(data) >= _SAMPLED:
        return True
    step = max(1, len(base) // _SAMPLES)
    return any(base[at : at + _SAMPLE_BYTES] in data for at in range(0, len(base), step))


def _base(tip: Tip) -> _Node | None:
    """The node that the next version is patched against; None when a new chain is due."""
    position = tip.path[-1].position + 1
    if position > MAX_POSITION:
        return None
    step = 1
    while position % (step * RADIX) == 0:
        step *= RADIX
    # After pruning, nodes of the path may be gone: the nearest older one serves as well.
    older = [node for node in tip.path if node.position <= position - step]
    return max(older, key=lambda node: node.position, default=None)


def _needed(path: Sequence[_Node]) -> tuple[_Node, ...]:
    """Only those nodes that versions after the newest one are patched against."""
    floors = _floors(path[-1].position)
    return tuple(node for node in path if node.position in floors)


def _floors(position: int) -> set[int]:
    return {position - position % step for step in (1, RADIX, RADIX**2, RADIX**3)}


def decode_path(blobs: Sequence[Blob]) -> Tip:
    """The tip behind the stored blobs of one path, given from the whole one to the newest. Raises
    `StateCorrupt`."""
    nodes: list[_Node] = []
    _check_path(blobs)
    kept = _floors(blobs[-1].position)
    position = -1
    for blob in blobs:
        patched = blob.codec in (PATCH, SPLICE)
        base = nodes[-1] if patched and nodes else None
        if patched and (base is None or base.n != blob.base_n):
            raise _missing(blob.base_n, blob.n)
        if not position < blob.position <= MAX_POSITION:
            raise StateCorrupt(f"Version {blob.n} stands at {blob.position}.", remedy=_RESTORE)
        position = blob.position
        raw = decompress(blob.codec, blob.data, base.raw if base else None, size=blob.raw_bytes)
        spent = (base.patch_bytes + len(blob.data)) if base else 0
        if nodes and nodes[-1].position not in kept:
            nodes.pop()  # no version needs it any more: large values must not pile up here
        decoded = (base.decoded if base else 0) + len(raw)
        nodes.append(_Node(blob.n, blob.position, raw, spent, decoded))
    root = blobs[0]
    return Tip(
        tuple(nodes), len(root.data) / max(1, root.raw_bytes) if root.base_n is None else 1.0
    )


def decode_all(blobs: Sequence[Blob], wanted: set[int]) -> dict[int, bytes]:
    """The values of the wanted numbers, out of blobs that contain all their bases, sorted by
    number.

    Raises `StateCorrupt`; before anything is decoded if the path of a value is longer or heavier
    than any that is ever stored, or leads back.
    """
    by_n = {blob.n: blob for blob in blobs}
    raw: dict[int, bytes] = {}
    for n in sorted(wanted):
        path: list[Blob] = []
        current: int | None = n
        while current is not None and current not in raw:
            blob = by_n.get(current)
            if blob is None:
                raise _missing(current, n)
            path.append(blob)
            if len(path) > MAX_PATH:
                break
            current = blob.base_n
        path.reverse()
        _check_path(path)
        for blob in path:
            base = raw[blob.base_n] if blob.base_n is not None else None
            raw[blob.n] = decompress(blob.codec, blob.data, base, size=blob.raw_bytes)
            if len(wanted) == 1 and blob.base_n is not None:
                del raw[blob.base_n]  # large values must not pile up here
    return {n: raw[n] for n in wanted}


def _check_path(blobs: Sequence[Blob]) -> None:
    """Refuse a path that no writer of ours stores, before it costs anything. The wanted version is
    the last."""
    if not blobs:
        return
    newest = blobs[-1]
    most = _SLACK * max(MAX_DECODED * newest.raw_bytes, FREE)
    if len(blobs) > MAX_PATH:
        raise StateCorrupt(
            f"Version {newest.n} has a path of more than {MAX_PATH} patches.", remedy=_RESTORE
        )
    for blob in blobs:
        if blob.base_n is not None and blob.base_n >= blob.n:
            raise StateCorrupt(
                f"Version {blob.n} is a patch against version {blob.base_n}, which came after it.",
                remedy=_RESTORE,
            )
    if len(blobs) > 1 and sum(blob.raw_bytes for blob in blobs) > most:
        raise StateCorrupt(
            f"Version {newest.n} is reached through more than {most} bytes.", remedy=_RESTORE
        )


def _missing(base_n: int | None, n: int) -> StateCorrupt:
    return StateCorrupt(f"Version {base_n}, a base of version {n}, is missing.", remedy=_RESTORE)


_RESTORE = "restore the database from a backup."
