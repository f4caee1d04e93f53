"""One call of `list`: which places pass its filter, read in batches where that is cheaper.

A filter is on metadata, by containment, as in PostgresSaver: what PostgreSQL says to `metadata @>
filter`. SQL looks for it in the projection of the metadata, and values are loaded only of what
passes. The projection loses what JSON doesn't have (NaN, tuples), so the stored metadata decides in
the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointMetadata, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol

from surgetank.encode import limits
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.streams.checkpoints.entries import OPEN_METADATA
from surgetank.streams.checkpoints.listing import Listing
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.reader import Reader
from surgetank.streams.checkpoints.refs import CheckpointRef
from surgetank.streams.checkpoints.steps import Steps

_FIRST_BATCH, _LARGEST_BATCH = 8, 100
_BATCH_BYTES = 8 * 1024**2
_JSON = (str, int, float, bool, type(None))


class Tuples(Protocol):
    """What a query asks of its saver."""

    reader: Reader
    serde: SerializerProtocol

    def tuple_of(self, raw: RawCheckpoint, config: RunnableConfig | None) -> CheckpointTuple:
        """The deserialized checkpoint."""
        ...

    def metadata_of(self, raw: RawCheckpoint) -> CheckpointMetadata:
        """The deserialized metadata."""
        ...


class Query:
    """One call of `list`, for both drivers."""

    def __init__(
        self,
        saver: Tuples,
        config: RunnableConfig | None,
        filter_: dict[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> None:
        self._saver = saver
        self._config = config
        self._filter = filter_ or {}
        self._narrowed, self._exact = narrowed(self._filter, saver.serde)
        self._batch: dict[CheckpointRef, RawCheckpoint] = {}
        self._batch_size = _FIRST_BATCH
        self._singly: str | None = None  # the thread that can't be read in batches
        self._left = limit
        configurable: Mapping[str, Any] = (config or {}).get("configurable", {})
        thread_id = configurable.get("thread_id")
        self._only = configurable.get("checkpoint_id")
        # Without the key it is all threads, as with LangGraph's savers; None is a thread that
        # nobody named.
        self._thread = limits.thread_name(thread_id) if "thread_id" in configurable else None
        before_id = before.get("configurable", {}).get("checkpoint_id") if before else None
        asked = (
            ("$.thread_id", self._thread),
            ("$.checkpoint_ns", configurable.get("checkpoint_ns")),
            ("$.before.checkpoint_id", before_id),
        )
        limits.check_names(
            self._thread or "", [(path, name) for path, name in asked if name is not None]
        )
        self.listing: Listing = saver.reader.start_listing(
            self._thread, configurable.get("checkpoint_ns"), before_id
        )
        self.done = limit is not None and limit <= 0

    def page(self) -> Steps[None]:
        """Fetch more places; the filter is applied in SQL as far as SQL can tell."""
        return self._saver.reader.add_page(self.listing, self._narrowed or None)

    def next_raw(self) -> Steps[RawCheckpoint | None] | None:
        """The steps that read the next checkpoint; None when this place is none, or at the end."""
        ref = self.listing.pop()
        if ref is None:
            self.done = True
            return None
        if self._only and ref[2] != self._only:
            return None
        return self._read(ref, is_hot=self.listing.is_hot)

    def _read(self, ref: CheckpointRef, *, is_hot: bool) -> Steps[RawCheckpoint | None]:
        reader = self._saver.reader
        if self._filter and (is_hot or not self._exact):
            raw = yield from reader.read(*ref, ())
            if raw is None or not self._passes(raw):
                return None
        if not is_hot and not self._only:
            ahead = yield from self._ahead(ref)
            if ahead is not None:
                return ahead
        return (yield from reader.read(*ref))

    def _ahead(self, ref: CheckpointRef) -> Steps[RawCheckpoint | None]:
        """The checkpoint out of a batch, which is fetched if need be."""
        raw = self._batch.pop(ref, None)
        if raw is not None:
            return raw
        thread_id, ns, checkpoint_id = ref
        # Where the filter is not exact, the next ones may not be wanted.
        most = self._batch_size if self._exact and self._singly != thread_id else 1
        ids = [
            checkpoint_id,
            *self.listing.upcoming(thread_id, ns, min(most, self._left or most) - 1),
        ]
        if len(ids) == 1:
            return None
        found = yield from self._saver.reader.read_ahead(thread_id, ns, ids)
        self._batch = {CheckpointRef(thread_id, ns, cid): raw for cid, raw in found.items()}
        if found:
            size = max(1, sum(raw.size for raw in found.values()) // len(found))
            self._batch_size = max(
                1, min(self._batch_size * 4, _LARGEST_BATCH, _BATCH_BYTES // size)
            )
        else:
            self._singly = thread_id
        return self._batch.pop(ref, None)

    def accept(self, raw: RawCheckpoint | None) -> CheckpointTuple | None:
        """The checkpoint as a tuple if it passes the filter; counts the limit."""
        if raw is None or not self._passes(raw):
            return None
        if self._left is not None:
            self._left -= 1
            self.done = self._left <= 0
        return self._saver.tuple_of(raw, self._config if self._thread is not None else None)

    def _passes(self, raw: RawCheckpoint) -> bool:
        return not self._filter or contains(self._saver.metadata_of(raw), self._filter)


def narrowed(filter_: Mapping[str, Any], serde: SerializerProtocol) -> tuple[dict[str, Any], bool]:
    """The part of a filter that SQL can look for, and whether that is all of it.

    Encrypted metadata has a projection of a few keys only.
    """
    if not filter_:
        return {}, True
    encrypted = "+" in serde.dumps_typed({})[0]
    part = {
        key: value
        for key, value in filter_.items()
        if (key in OPEN_METADATA or not encrypted)
        and _is_json(value)
        and not dumps_jsonb({key: value})[1]
    }
    return part, len(part) == len(filter_)


def _is_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(k) is str and _is_json(v) for k, v in value.items())
    return all(map(_is_json, value)) if isinstance(value, (list, tuple)) else type(value) in _JSON


def contains(found: Any, wanted: Any) -> bool:
    """Whether a value contains another one, as PostgreSQL's jsonb says (documentation, section
    8.14.3).

    >>> contains({"a": {"b": 1, "c": 2}, "tags": ["x", "y"]}, {"a": {"b": 1}, "tags": ["y"]})
    True
    >>> contains({"a": {"b": 1}}, {"a": {"b": None}})
    False
    """
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            k in found and contains(found[k], v) for k, v in wanted.items()
        )
    if isinstance(wanted, (list, tuple)):
        if not isinstance(found, (list, tuple)):
            return False
        return all(
            any(contains(item, part) for item in cast("Sequence[Any]", found)) for part in wanted
        )
    if isinstance(wanted, bool) or isinstance(found, bool):
        return isinstance(wanted, bool) and isinstance(found, bool) and wanted == found
    try:
        return bool(found == wanted or (found != found and wanted != wanted))  # noqa: PLR0124 - NaN
    except (TypeError, ValueError):  # an array of NumPy, compared with something else
        return False
