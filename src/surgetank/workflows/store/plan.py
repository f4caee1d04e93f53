"""What a batch is about to do: its operations checked and encoded before anybody waits. Pure.

As in LangGraph's own stores, all reads of a batch see the store as it was before the batch; of two
puts to one key the last one counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    Op,
    PutOp,
    SearchOp,
    TTLConfig,
)

from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import ConfigurationError, EntryRejected, InvalidRequest
from surgetank.workflows.store import namespaces, values
from surgetank.workflows.store.filters import filter_of
from surgetank.workflows.store.index import Index
from surgetank.workflows.store.scope import Namespace, Scope, range_of

MAX_BATCH_BYTES = 512 * 1024 * 1024
_MOST = 2**31 - 1  # of rows that are asked for
# What has expired is never given, and the engine sweeps: `omit_expired` and the interval are taken.
_TTL = {"default_ttl", "refresh_on_read", "omit_expired", "sweep_interval_minutes"}
_LONGEST_S = 100 * 365 * 86_400.0
Address = tuple[str, str]  # path and key


@dataclass(frozen=True, slots=True)
class Put:
    """An item to be stored."""

    exact: bytes
    projection: str
    ttl_s: float | None
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Search:
    """A search: its arguments, and what is to be near (None: nothing is)."""

    arguments: dict[str, Any]
    query: str | None
    refresh: bool


@dataclass(slots=True)
class Plan:
    """The operations of a batch by kind, each with its place in it."""

    size: int = 0
    gets: list[tuple[int, Address, bool]] = field(default_factory=list)
    searches: list[tuple[int, Search]] = field(default_factory=list)
    lists: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    puts: dict[Address, Put | None] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """What is to be embedded, each once."""
        return list(dict.fromkeys(text for put in self.puts.values() if put for text in put.texts))

    @property
    def queries(self) -> list[str]:
        """What is searched for, each once."""
        return list(dict.fromkeys(s.query for _, s in self.searches if s.query is not None))

    @property
    def written_bytes(self) -> int:
        """About how many bytes are written."""
        return sum(2 * len(put.exact) for put in self.puts.values() if put is not None)


class Planner:
    """Makes plans within a scope."""

    def __init__(self, scope: Scope, index: Index | None, *, max_bytes: int) -> None:
        self._scope = scope
        self._index = index
        self._max_bytes = max_bytes

    def plan(self, ops: Iterable[Op]) -> Plan:
        """Check and encode. Raises `InvalidNamespaceError`, `NamespaceForbidden`, `EntryRejected`,
        `InvalidRequest`."""
        made = Plan()
        for at, op in enumerate(ops):
            made.size += 1
            if isinstance(op, GetOp):
                address = self._path(op.namespace), str(op.key)
                made.gets.append((at, address, op.refresh_ttl))
            elif isinstance(op, SearchOp):
                made.searches.append((at, self._search(op)))
            elif isinstance(op, ListNamespacesOp):
                made.lists.append((at, self._list(op)))
            elif isinstance(op, PutOp):
                address = self._address(op)
                made.puts.pop(address, None)
                made.puts[address] = self._put(op)
            else:
                raise InvalidRequest(
                    f"A store does not know the operation {type(op).__name__}.",
                    remedy="use GetOp, SearchOp, PutOp or ListNamespacesOp.",
                )
        if made.written_bytes > MAX_BATCH_BYTES:  # PostgreSQL takes no message above 1 GB
            raise InvalidRequest(
                f"The values of a batch have {made.written_bytes // 2:,} bytes together, the limit is "
                f"{MAX_BATCH_BYTES // 2:,}.",
                remedy="put them in several batches.",
            )
        return made

    def _path(self, namespace: Namespace, *, of_item: bool = True) -> str:
        namespaces.path_of(namespace)
        return namespaces.path_of(self._scope.inward(namespace, of_item=of_item))

    def _address(self, op: PutOp) -> Address:
        if not op.namespace:
            raise InvalidNamespaceError("The namespace of an item can't be empty.")
        key, path = str(op.key), self._path(op.namespace)
        if not namespaces.storable(key) or len(key.encode()) > namespaces.MAX_BYTES:
            raise EntryRejected(
                partition="/".join(op.namespace),
                path="$.key",
                reason="the key has a NUL or half a character in it, or is too long",
                remedy=f"use a text of at most {namespaces.MAX_BYTES} bytes.",
            )
        return path, key

    def _put(self, op: PutOp) -> Put | None:
        if op.value is None:
            return None
        where = "/".join((*op.namespace, str(op.key)))
        exact, projection = values.encode(where, op.value, max_bytes=self._max_bytes)
        texts = self._index.texts_of(op) if self._index is not None else []
        return Put(exact, projection, _seconds(op.ttl), texts)

    def _search(self, op: SearchOp) -> Search:
        arguments = {
            **range_of(self._path(op.namespace_prefix, of_item=False)),
            **self._scope.bounds,
            **_page(op.limit, op.offset),
            **filter_of(op.filter),
        }
        query = op.query if op.query and self._index is not None else None
        return Search(arguments, query, op.refresh_ttl)

    def _list(self, op: ListNamespacesOp) -> dict[str, Any]:
        conditions = tuple(op.match_conditions or ())
        if op.max_depth is not None and op.max_depth < 0:
            raise InvalidRequest("A depth can't be below 0.", remedy="leave `max_depth` out.")
        asked = namespaces.conditions_of(conditions)
        below = (*self._scope.root, *namespaces.common_prefix(conditions))
        return {
            **range_of(namespaces.path_of(below)),
            **self._scope.bounds,
            **_page(op.limit, op.offset),
            "skip": len(self._scope.root),
            "depth": min(op.max_depth, _MOST) if op.max_depth is not None else None,
            "conditions": dumps_jsonb(asked)[0].decode(),
        }


def checked(ttl: TTLConfig | None) -> TTLConfig | None:
    """Times to live as they were given. Raises `ConfigurationError` for what can't be used."""
    given = dict(ttl or {})
    unknown = sorted(set(given) - _TTL)
    if unknown:
        raise ConfigurationError(
            f"The `ttl` of the store has no {unknown[0]!r}.",
            remedy=f"it has {', '.join(sorted(_TTL))}.",
        )
    try:
        _seconds(cast("float | None", given.get("default_ttl")))
    except (InvalidRequest, TypeError) as error:
        raise ConfigurationError(
            f"The `default_ttl` of the store can't be {given['default_ttl']!r}.",
            remedy="use minutes above 0, or leave it out.",
        ) from error
    return ttl


def _page(limit: int, offset: int) -> dict[str, int]:
    if limit < 0 or offset < 0:
        raise InvalidRequest("`limit` and `offset` can't be below 0.", remedy="use 0 or more.")
    return {"limit": min(limit, _MOST), "offset": min(offset, _MOST)}


def _seconds(minutes: float | None) -> float | None:
    if minutes is None:
        return None
    if not 0 < minutes * 60 <= _LONGEST_S:
        raise InvalidRequest(
            f"An item can't live for {minutes!r} minutes.",
            remedy="use a number above 0 and below a hundred years, or None: it stays.",
        )
    return float(minutes) * 60
