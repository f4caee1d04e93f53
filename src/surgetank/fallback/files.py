"""Reading single values out of spill files, with their checksums looked at. Neighbours are read
along and kept a while.

A flush reads the values of a file one after the other: one request per block instead of one per
value.
"""

from __future__ import annotations

import threading

from surgetank.bounded import BoundedMap
from surgetank.exceptions import FallbackDamaged
from surgetank.fallback.codec import ValueRef
from surgetank.fallback.store import FallbackStore, address_of, open_store

_BLOCK = 1024**2
_REMEMBERED_BYTES = 32 * 1024**2

_Key = tuple[str, str, int]  # address, file, offset


class SpillFiles:
    """The location that is configured (`url`, or none), and all those that files were spilled to
    before.

    Safe to use from several threads.
    """

    def __init__(self, url: str | None) -> None:
        self._url = url
        self._address = address_of(url) if url is not None else None
        self._stores: dict[str, FallbackStore] = {}
        self._blocks = BoundedMap[_Key, bytes](most_weight=_REMEMBERED_BYTES, weigh=len)
        self._lock = threading.Lock()

    @property
    def address(self) -> str | None:
        """The configured location, None when spilling is off."""
        return self._address

    def store(self, address: str | None = None) -> FallbackStore:
        """The store at an address; by default the configured one. Raises `ConfigurationError`,
        `MissingExtra`."""
        address = address if address is not None else self._address
        assert address is not None, "no fallback location is configured"
        with self._lock:
            store = self._stores.get(address)
            if store is None:
                # The configured URL may carry credentials that an address doesn't.
                url = self._url if address == self._address and self._url is not None else address
                store = self._stores[address] = open_store(url)
            return store

    def open(self, url: str) -> FallbackStore:
        """The store at a URL, remembered by its address. Raises `ConfigurationError`,
        `MissingExtra`."""
        store = open_store(url)
        with self._lock:
            self._stores[store.address] = store
        return store

    def value(self, address: str, name: str, ref: ValueRef) -> bytes:
        """A value from its place. Raises `FallbackUnavailable`, `FallbackDamaged`."""
        stored = self._remembered(address, name, ref)
        if stored is None:
            block = self.store(address).read(name, ref.offset, max(ref.length, _BLOCK))
            stored = block[: ref.length]
            if len(block) <= _BLOCK:
                self._remember((address, name, ref.offset), block)
        value = ref.value(stored)
        if value is None:
            self._forget(address, name)
            raise FallbackDamaged(
                f"The spill file {name} in {address} is damaged: the checksum of the "
                f"{ref.length} bytes at"
                f" {ref.offset} does not fit.",
                remedy="put an undamaged copy in its place (from a backup or a former version of "
                "the object), then run"
                " `surgetank recover`.",
            )
        return value

    def _remembered(self, address: str, name: str, ref: ValueRef) -> bytes | None:
        with self._lock:
            for key in reversed(self._blocks):
                block = self._blocks[key]
                start = ref.offset - key[2]
                if key[:2] == (address, name) and start >= 0 and start + ref.length <= len(block):
                    self._blocks.use(key)
                    return block[start : start + ref.length]
        return None

    def _remember(self, key: _Key, block: bytes) -> None:
        with self._lock:
            self._blocks[key] = block

    def _forget(self, address: str, name: str) -> None:
        with self._lock:
            for key in [key for key in self._blocks if key[:2] == (address, name)]:
                del self._blocks[key]
