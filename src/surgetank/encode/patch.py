"""Versions of a value as a chain: a whole blob now and then, between them zstd patches against an older version.

A patch is zstd with the older version as raw dictionary. Position `p` of a chain is patched against
`p - 8**k`, where `8**k` is the largest power of eight that divides `p`: mostly the version before, every eighth
time the one eight before, every 64th time the one 64 before. Reading position 511 decodes at most 21 patches, and
all patches together weigh about 2.6 times what was appended (`python -m bench.chains`). A plain chain weighs once
that, but reading it decodes hundreds of patches; a binary tree reads eight and weighs 4.5 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import zstandard

from surgetank.exceptions import StateCorrupt

RAW, WHOLE, PATCH = 0, 1, 2
LEVEL = 3
SMALL = 96  # bytes below which compression costs more than it saves
RADIX = 8
MAX_POSITION = RADIX**3 - 1  # at most 21 patches on a path
MAX_PATCHED = 64 * 1024**2  # larger values are stored whole: zstd's window has to hold both versions


@dataclass(frozen=True, slots=True)
class Blob:
    """A stored version: how it is coded, its bytes, and for a patch the number of its base."""

    n: int
    base_n: int | None
    position: int
    codec: int
    raw_bytes: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Node:
    n: int
    position: int
    raw: bytes
    patch_bytes: int  # stored bytes of the patches on its path


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest version of a chain and the older ones that a later patch can need, decoded; oldest first."""

    path: tuple[_Node, ...]

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


def compress(data: bytes) -> tuple[int, bytes]:
    """`data` as it is or compressed, whichever is smaller, with its codec."""
    if len(data) < SMALL:
        return RAW, data
    packed = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True).compress(data)
    return (WHOLE, packed) if len(packed) < len(data) else (RAW, data)


def decompress(codec: int, data: bytes, base: bytes | None = None) -> bytes:
    """The bytes behind `compress` or a patch. Raises `StateCorrupt`."""
    if codec == RAW:
        return data
    try:
        if codec == WHOLE:
            return zstandard.ZstdDecompressor().decompress(data)
        if base is None:
            raise StateCorrupt("A patch has no base.", remedy="restore the database from a backup.")
        dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
        return zstandard.ZstdDecompressor(dict_data=dictionary, max_window_size=1 << 31).decompress(data)
    except zstandard.ZstdError as error:
        raise StateCorrupt(
            f"Stored bytes can't be decompressed ({error}).", remedy="restore the database from a backup."
        ) from error


def make_patch(base: bytes, data: bytes) -> bytes:
    """`data` as a patch against `base`."""
    window = max(10, (len(base) + len(data)).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=len(data), dict_size=len(base), window_log=min(window, 27), write_checksum=True
    )
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters).compress(data)


def extend(tip: Tip | None, n: int, data: bytes, *, patchable: bool = True) -> tuple[Blob, Tip | None]:
    """Code `data` as version number `n` of the chain that ends at `tip`; returns the blob and the new tip.

    The tip is None for values that no later version is to be patched against (`patchable` false: encrypted
    values have nothing in common; very small or very large ones).
    """
    if not patchable or len(data) > MAX_PATCHED or len(data) < SMALL:
        codec, packed = compress(data) if patchable else (RAW, data)
        return Blob(n, None, 0, codec, len(data), packed), None
    if tip is not None and (base := _base(tip)) is not None:
        packed = make_patch(base.raw, data)
        spent = base.patch_bytes + len(packed)
        # A whole blob is tried when the patches on the path weigh a good part of the value itself.
        if spent * 8 < len(data) or spent < len(compress(data)[1]):
            node = _Node(n, tip.path[-1].position + 1, data, spent)
            return Blob(n, base.n, node.position, PATCH, len(data), packed), _needed((*tip.path, node))
    codec, packed = compress(data)
    return Blob(n, None, 0, codec, len(data), packed), Tip((_Node(n, 0, data, 0),))


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


def _needed(path: Sequence[_Node]) -> Tip:
    """A tip of only those nodes that later versions are patched against."""
    position = path[-1].position
    floors = {position - position % step for step in (1, RADIX, RADIX**2, RADIX**3)}
    return Tip(tuple(node for node in path if node.position in floors))


def decode_path(blobs: Sequence[Blob]) -> Tip:
    """The tip behind the stored blobs of one path, given from the whole one to the newest. Raises `StateCorrupt`."""
    nodes: list[_Node] = []
    for blob in blobs:
        base = nodes[-1] if blob.codec == PATCH and nodes else None
        if blob.codec == PATCH and (base is None or base.n != blob.base_n):
            raise StateCorrupt(
                f"Version {blob.n} is a patch against version {blob.base_n}, which is missing.",
                remedy="restore the database from a backup.",
            )
        raw = decompress(blob.codec, blob.data, base.raw if base else None)
        if len(raw) != blob.raw_bytes:
            raise StateCorrupt(
                f"Version {blob.n} has {len(raw)} bytes instead of {blob.raw_bytes}.",
                remedy="restore the database from a backup.",
            )
        spent = (base.patch_bytes + len(blob.data)) if base else 0
        nodes.append(_Node(blob.n, blob.position, raw, spent))
    return _needed(nodes)


def decode_all(blobs: Sequence[Blob], wanted: set[int]) -> dict[int, bytes]:
    """The values of the wanted numbers, out of blobs that contain all their bases, sorted by number."""
    by_n = {blob.n: blob for blob in blobs}
    raw: dict[int, bytes] = {}
    for n in sorted(wanted):
        path: list[Blob] = []
        current: int | None = n
        while current is not None and current not in raw:
            blob = by_n.get(current)
            if blob is None:
                raise StateCorrupt(
                    f"Version {current}, a base of version {n}, is missing.",
                    remedy="restore the database from a backup.",
                )
            path.append(blob)
            current = blob.base_n
        for blob in reversed(path):
            base = raw[blob.base_n] if blob.base_n is not None else None
            raw[blob.n] = decompress(blob.codec, blob.data, base)
    return {n: raw[n] for n in wanted}
