"""From what LangGraph hands over to buffer entries: one `put` is one entry. No I/O, no walk of the
state.

Everything that can be refused is refused here, before anything is accepted, with the place of the
value in the error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import EXCLUDED_METADATA_KEYS, WRITES_IDX_MAP
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import ERROR

from surgetank.buffer.log import Guard
from surgetank.encode import limits
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import EntryRejected, SurgetankError
from surgetank.model import Record, Replacement
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import CheckpointRecord
from surgetank.streams.checkpoints.fencing import fence_in
from surgetank.streams.checkpoints.hot import guard_put, guard_writes
from surgetank.streams.checkpoints.serde.serializer import ValueRefused, is_faithful

_SCALARS = (str, int, float, bool, type(None))
_SCALAR_CHARS = 256
_TENANT_CHARS = 200
OPEN_METADATA = ("source", "step", "parents", "run_id", "counters_since_delta_snapshot")
_NO_JSON = b"{}"
_TYPES = ("msgpack", "null", "bytes", "bytearray")


class NewEntry(NamedTuple):
    """An entry that is ready to be appended."""

    thread_id: str
    records: list[Record]
    guard: Guard
    fence: int | None = None
    tenant: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """As an append takes them."""
        return {"guard": self.guard, "fence": self.fence, "tenant": self.tenant}


class Target(NamedTuple):
    """What a config says about where a checkpoint belongs."""

    thread_id: str
    ns: str
    checkpoint_id: str | None

    @classmethod
    def of(cls, config: RunnableConfig) -> Target:
        """Read it from LangGraph's config. Raises `EntryRejected` for names that can't be
        stored."""
        configurable: Mapping[str, Any] = config.get("configurable", {})
        thread_id = limits.thread_name(configurable.get("thread_id"))
        ns = configurable.get("checkpoint_ns") or ""
        checkpoint_id = configurable.get("checkpoint_id")
        if not limits.are_plain(thread_id, ns, "" if checkpoint_id is None else checkpoint_id):
            names = [("$.thread_id", thread_id), ("$.checkpoint_ns", ns)]
            if checkpoint_id is not None:
                names.append(("$.checkpoint_id", checkpoint_id))
            limits.check_names(thread_id, names)
            limits.check_pair(thread_id, "$.thread_id with $.checkpoint_ns", thread_id, ns)
        return cls(thread_id, ns, checkpoint_id or None)


class EntryMaker:
    """Makes entries with one serializer."""

    def __init__(
        self, serde: SerializerProtocol, *, max_value_bytes: int, tenant_key: str | None = None
    ) -> None:
        self._serde = serde
        self._tenant_key = tenant_key
        self._max = max_value_bytes

    def checkpoint(
        self,
        config: RunnableConfig,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
        new_versions: Mapping[str, str | int | float],
        *,
        known_head: str | None = None,
    ) -> NewEntry:
        """The entry of a `put`. `config` carries the parent's id; `known_head` is the thread's
        newest checkpoint, if it was read from the database just before.
        """
        at = Target.of(config)
        thread_id, ns, checkpoint_id = at.thread_id, at.ns, checkpoint["id"]
        values: Mapping[str, Any] = checkpoint["channel_values"]
        limits.check_names(thread_id, [("$.checkpoint.id", checkpoint_id)])
        limits.check_pair(thread_id, "$.thread_id with $.checkpoint.id", thread_id, checkpoint_id)
        versions: Mapping[str, str | int | float] = checkpoint["channel_versions"]
        for path, names in (
            ("$.channel_values", values),
            ("$.channel_versions", {**versions, **new_versions}),
        ):
            limits.check_all(thread_id, path, list(names))
        texts = [
            _version(thread_id, channel, v)
            for known in (versions, new_versions)
            for channel, v in known.items()
        ]
        limits.check_all(thread_id, "$.channel_versions", texts)
        record = self._record(at, checkpoint, merged_metadata(config, metadata), known_head)
        records = [Record(envelope.checkpoint_key(ns, checkpoint_id), record.pack())]
        if at.checkpoint_id is None:  # nothing can have been stored before
            new_versions = {**{c: v for c, v in versions.items() if c in values}, **new_versions}
        for channel, version in new_versions.items():
            if channel in values:
                blob = self._blob(thread_id, channel, values[channel])
                records.append(
                    envelope.blob_record(ns, channel, envelope.version_text(version), blob)
                )
        for channel in values.keys() - versions.keys() - new_versions.keys():
            blob = self._blob(thread_id, channel, values[channel])
            records.append(
                envelope.blob_record(ns, channel, envelope.unversioned(checkpoint_id), blob)
            )
        root = _root(ns, metadata)
        complete = values.keys() <= new_versions.keys() | (values.keys() - versions.keys())
        guard = guard_put(thread_id, ns, checkpoint_id, at.checkpoint_id, root, complete=complete)
        tenant = self._tenant(config, metadata)
        return NewEntry(thread_id, records, guard, fence_in(config, thread_id), tenant)

    def _record(
        self,
        at: Target,
        checkpoint: Mapping[str, Any],
        metadata: Mapping[str, Any],
        known_head: str | None = None,
    ) -> CheckpointRecord:
        values: Mapping[str, Any] = checkpoint["channel_values"]
        metadata_type, metadata_bytes = self._dump(at.thread_id, "$.metadata", metadata)
        if (run_id := metadata.get("run_id")) is not None:  # it is looked for by an index
            limits.check_indexed(at.thread_id, "$.metadata.run_id", run_id)
        encrypted = "+" in metadata_type
        replaced: tuple[Replacement, ...] = ()
        if encrypted:  # what is encrypted at rest must not lie beside it in clear
            shown = {k: metadata[k] for k in OPEN_METADATA if k in metadata}
            metadata_json, scalars_json = dumps_jsonb(shown)[0], _NO_JSON
        else:
            if "user_id" in metadata:
                limits.check_indexed(at.thread_id, "$.metadata.user_id", metadata["user_id"])
            metadata_json, replaced_metadata = dumps_jsonb(metadata)
            limits.check_json(at.thread_id, "$.metadata", metadata_json)
            scalars_json, replaced_scalars = dumps_jsonb(scalars_of(values))
            replaced = (
                *_located("$.metadata", replaced_metadata),
                *_located("$.channel_values", replaced_scalars),
            )
        try:
            structure = envelope.structure_of(checkpoint, known_head)
        except Exception as error:
            raise _refused(at.thread_id, "$.checkpoint", error) from error
        pending = checkpoint.get("pending_sends")
        extra = None
        if pending is not None:
            extra = self._dump(at.thread_id, "$.pending_sends", pending) if pending else ("", b"")
        return CheckpointRecord(
            parent_id=at.checkpoint_id,
            structure=structure,
            present=tuple(values),
            metadata_type=metadata_type,
            metadata=metadata_bytes,
            metadata_json=metadata_json,
            scalars_json=scalars_json,
            extra=extra,
            replaced=replaced,
        )

    def writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
    ) -> NewEntry:
        """The entry of a `put_writes`."""
        at = Target.of(config)
        checkpoint_id = at.checkpoint_id
        if checkpoint_id is None:
            raise EntryRejected(
                partition=at.thread_id, path="$.config.checkpoint_id", reason="missing",
                remedy="put_writes needs the id of the checkpoint that the writes belong to.",
            )  # fmt: skip
        if not limits.are_plain(checkpoint_id, task_id, task_path):
            limits.check_names(at.thread_id, [("$.task_id", task_id), ("$.task_path", task_path)])
            limits.check_pair(
                at.thread_id, "$.checkpoint_id with $.task_id", checkpoint_id, task_id
            )
        records = []
        for index, (channel, value) in enumerate(writes):
            if not limits.are_plain(channel):
                limits.check_names(at.thread_id, [(f"$.writes[{index}].channel", channel)])
            # The error of a task is kept as LangGraph keeps it, by its `repr`.
            type_, data = self._dump(
                at.thread_id, f"$.writes.{channel}", value, is_error=channel == ERROR
            )
            key = envelope.write_key(
                at.ns, checkpoint_id, task_id, WRITES_IDX_MAP.get(channel, index)
            )
            records.append(Record(key, envelope.pack_write(channel, task_path, type_, data)))
        guard = guard_writes(at.thread_id, at.ns, checkpoint_id)
        tenant = self._tenant(config, {})
        return NewEntry(at.thread_id, records, guard, fence_in(config, at.thread_id), tenant)

    def _tenant(self, config: RunnableConfig, metadata: Mapping[str, Any]) -> str:
        """Whose thread it is; empty: that is not said. What a tenant is called is never refused."""
        key = self._tenant_key
        if key is None:
            return ""
        for given in (config.get("configurable"), config.get("metadata"), metadata):
            name = (given or {}).get(key)
            if isinstance(name, str | int) and name != "":
                text = name if isinstance(name, str) else str(int(name))
                return text[:_TENANT_CHARS].encode(errors="replace").decode().replace("\0", "?")
        return ""

    def _blob(self, thread_id: str, channel: str, value: Any) -> bytes:
        return envelope.pack_blob(*self._dump(thread_id, f"$.channel_values.{channel}", value))

    def _dump(
        self, thread_id: str, path: str, value: Any, *, is_error: bool = False
    ) -> tuple[str, bytes]:
        if isinstance(value, BaseException) and not is_error and is_faithful(self._serde):
            raise EntryRejected(
                partition=thread_id, path=path, reason=f"an exception ({type(value).__name__})",
                remedy="store its repr() or str()",
            )  # fmt: skip
        try:
            type_, data = self._serde.dumps_typed(value)
        except Exception as error:
            raise _refused(thread_id, path, error) from error
        if type_ not in _TYPES:
            limits.check_names(thread_id, [(f"{path} (the name of its serialized type)", type_)])
        if len(data) > self._max:
            raise EntryRejected(
                partition=thread_id, path=path, reason=f"{len(data)} bytes, more than the limit of "
                f"{self._max}",
                remedy="keep large data elsewhere and a reference in the state, or raise "
                "SURGETANK_MAX_VALUE_BYTES.",
            )  # fmt: skip
        return type_, bytes(data)


def merged_metadata(config: RunnableConfig, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Checkpoint metadata with the scalars of the config, as LangGraph's `get_checkpoint_metadata`
    merges them, but without its removal of NUL characters: what is put comes back.
    """
    merged = dict(metadata)
    for source in (config.get("metadata"), config.get("configurable")):
        for key, value in (source or {}).items():
            if key in merged or key in EXCLUDED_METADATA_KEYS or key.startswith("__"):
                continue
            if isinstance(value, (str, int, bool, float)):
                merged[key] = value
    return merged


def scalars_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are short scalars, for the projection in SQL."""
    return {
        name: value
        for name, value in values.items()
        if type(value) in _SCALARS and not (type(value) is str and len(value) > _SCALAR_CHARS)
        and not name.startswith(("branch:", "__"))
    }  # fmt: skip


def _root(ns: str, metadata: Mapping[str, Any]) -> tuple[str, str] | None:
    """The parent graph's checkpoint that a subgraph's checkpoint belongs to."""
    parents = metadata.get("parents")
    root = parents.get("") if ns and isinstance(parents, Mapping) else None
    return ("", root) if isinstance(root, str) else None


def _located(prefix: str, replaced: Sequence[Replacement]) -> list[Replacement]:
    return [Replacement(prefix + r.path.removeprefix("$"), r.reason, r.original) for r in replaced]


def _refused(thread_id: str, path: str, error: Exception) -> SurgetankError:
    if isinstance(error, ValueRefused):
        return EntryRejected(
            partition=thread_id, path=path + error.path, reason=error.reason, remedy=error.remedy
        )
    if isinstance(error, SurgetankError):
        return error
    return EntryRejected(
        partition=thread_id, path=path, reason=f"it can't be serialized ({type(error).__name__}: "
        f"{error})",
        remedy="store a type that the checkpointer's serializer knows.",
    )  # fmt: skip


def _version(thread_id: str, channel: str, version: object) -> str:
    """The text of a version. Raises `EntryRejected` for a type that comes back as another one, with
    another text."""
    if isinstance(version, str) or type(version) in (int, float):
        return envelope.version_text(cast("str | int | float", version))
    raise EntryRejected(
        partition=thread_id, path=f"$.channel_versions.{channel}", reason=f"a version of type "
        f"{type(version).__name__}",
        remedy="use str, int or float, as the checkpointer's get_next_version does",
    )  # fmt: skip
