"""What is asked of a LangGraph saver that serves as a sink, and what its failures mean. For sink
and cold reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.base import SerializerProtocol

from surgetank.bounded import BoundedMap
from surgetank.exceptions import DatabaseUnavailable, EntryRejected, SurgetankError
from surgetank.model import Entry
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import WriteRecord
from surgetank.streams.checkpoints.refs import CheckpointRef, LocalRef, config_of

ValueKey = tuple[str, str, str, str]  # thread, namespace, channel, version
_UNAVAILABLE = {
    "OperationalError",
    "InterfaceError",
    "PoolTimeout",
    "PoolClosed",
    "ConnectionDoesNotExistError",
}
_FIRST_PAGE, _LAST_PAGE = 2, 64


class SaverCalls:
    """A saver, and the serializer of what is read from it and put into it."""

    def __init__(self, saver: BaseCheckpointSaver[Any], serde: SerializerProtocol) -> None:
        self.saver = saver
        self.serde = serde

    def get(self, thread_id: str, ns: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        """One checkpoint, or the newest of the namespace."""
        return self.saver.get_tuple(cast("RunnableConfig", config_of(thread_id, ns, checkpoint_id)))

    def pages(
        self,
        thread_id: str | None,
        ns: str | None,
        *,
        before: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        size: int = _FIRST_PAGE,
    ) -> Iterator[list[CheckpointTuple]]:
        """Checkpoints, newest first, in pages that grow; those with the same id are never torn
        apart.

        A saver's `list` can go on before an id only, and the official ones load a whole answer at
        once.
        """
        configurable = {"thread_id": thread_id} | ({"checkpoint_ns": ns} if ns is not None else {})
        config: Any = {"configurable": configurable} if thread_id is not None else None
        while True:
            cursor: Any = (
                {"configurable": {"checkpoint_id": before}} if before is not None else None
            )
            filter_ = dict(metadata) if metadata else None
            page = self._newest(config, filter_, cursor, size)
            if len(page) < size:
                if page:
                    yield _within(page, ns)
                return
            complete = [t for t in page if t.checkpoint["id"] != page[-1].checkpoint["id"]]
            if complete:
                yield _within(complete, ns)
                before = complete[-1].checkpoint["id"]
                size = max(size, min(2 * size, _LAST_PAGE))
            else:
                size *= 2

    def _newest(self, config: Any, filter_: Any, before: Any, size: int) -> list[CheckpointTuple]:
        if not isinstance(self.saver, InMemorySaver):
            return list(self.saver.list(config, filter=filter_, before=before, limit=size))
        # It lists thread after thread, namespace after namespace: its limit leaves out newer ones.
        found = list(self.saver.list(config, filter=filter_, before=before))
        return sorted(found, key=lambda t: t.checkpoint["id"], reverse=True)[:size]

    def refs(self, thread_id: str) -> set[LocalRef]:
        """Namespace and id of all checkpoints of a thread."""
        return {
            CheckpointRef.of(t.config).local for page in self.pages(thread_id, None) for t in page
        }

    def value(
        self, thread_id: str, ns: str, channel: str, version: str, near: str | None
    ) -> tuple[Any] | None:
        """The value of a channel's version in a 1-tuple, looked for in `near`, then newest first;
        None without."""
        parent = self.get(thread_id, ns, near) if near is not None else None
        value = value_in(parent, channel, version) if parent is not None else None
        if value is not None:
            return value
        for page in self.pages(thread_id, ns):
            for found in page:
                if (value := value_in(found, channel, version)) is not None:
                    return value
        return None


def _within(page: list[CheckpointTuple], ns: str | None) -> list[CheckpointTuple]:
    """Those of the namespace: a saver's `list` takes none without a thread."""
    return page if ns is None else [t for t in page if CheckpointRef.of(t.config)[1] == ns]


def value_in(found: CheckpointTuple, channel: str, version: str) -> tuple[Any] | None:
    """The channel's value if the checkpoint has it in this version."""
    versions = found.checkpoint["channel_versions"]
    values = found.checkpoint["channel_values"]
    if (
        channel in values
        and channel in versions
        and envelope.version_text(versions[channel]) == version
    ):
        return (values[channel],)
    return None


def writes_in_order(thread_id: str, entry: Entry) -> Iterator[tuple[str, str, list[WriteRecord]]]:
    """The entry's writes by task, as `put_writes` takes them. Raises `EntryRejected` where that is
    impossible."""
    found = []
    for record in entry.records:
        if record.key[:1] == b"w":
            _, _, task_id, idx = envelope.split_write_key(record.key)
            found.append((task_id, idx, WriteRecord.unpack(record.value)))
    try:
        yield from calls_of(found)
    except ValueError as error:
        raise EntryRejected(
            partition=thread_id, path="$.writes", seq=entry.seq, reason=str(error),
            remedy="none through a saver's interface; the entry stays readable.",
        ) from error  # fmt: skip


def calls_of(
    writes: Iterable[tuple[str, int, WriteRecord]],
) -> list[tuple[str, str, list[WriteRecord]]]:
    """The calls of `put_writes` that give each write its index: task id, path, and the writes.

    A saver counts the writes of a call; special ones (index below zero) may stand anywhere, and
    fill gaps. Raises `ValueError` for gaps that stay.
    """
    tasks: dict[tuple[str, str], list[tuple[int, WriteRecord]]] = {}
    for task_id, idx, write in writes:
        tasks.setdefault((task_id, write.task_path), []).append((idx, write))
    calls = []
    for (task_id, task_path), found in tasks.items():
        special = [write for idx, write in found if idx < 0]
        ordinary = {idx: write for idx, write in found if idx >= 0}
        placed: list[WriteRecord] = []
        while ordinary:
            if len(placed) in ordinary:
                placed.append(ordinary.pop(len(placed)))
            elif special:
                placed.append(special.pop(0))
            else:
                raise ValueError(
                    f"write {len(placed)} of task {task_id!r} is missing: the next ones can't keep "
                    f"their index"
                )
        calls.append((task_id, task_path, placed + special))
    return calls


def raise_refused(error: Exception, thread_id: str, entry: Entry) -> NoReturn:
    """Raise what a saver's failure means: the saver can't be reached, or it refuses this entry's
    data."""
    if isinstance(error, (SurgetankError, OSError, MemoryError)):
        raise error
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str) and not state.startswith(("22", "23")):
        raise error  # `flush.classify` knows SQLSTATEs
    if is_unavailable(error):
        raise unavailable(error) from error
    raise EntryRejected(
        partition=thread_id, path=_suspect(entry), seq=entry.seq,
        reason=f"the saver refuses it ({type(error).__name__}: "
        f"{' '.join(str(error).split())[:300]})",
        remedy="store a value that this saver can carry (PostgresSaver: no NaN or NUL in top-level "
        "channels).",
    ) from error  # fmt: skip


def is_unavailable(error: BaseException) -> bool:
    """Whether a saver's error is about its connection, by the names that the Python database
    drivers use."""
    names = {c.__name__ for c in type(error).__mro__}
    closed = "ProgrammingError" in names and "closed" in str(error)
    return isinstance(error, OSError) or bool(names & _UNAVAILABLE) or closed


def unavailable(error: BaseException) -> DatabaseUnavailable:
    """The family's error for it."""
    return DatabaseUnavailable(
        f"The saver can't be reached ({type(error).__name__}: "
        f"{' '.join(str(error).split())[:300]}).",
        remedy="make its database answer again; a saver on a single connection has to be made "
        "anew, one on a "
        "pool heals by itself. What was accepted is safe in the buffer.",
    )


def _suspect(entry: Entry) -> str:
    """The place of the value that a database refuses most often: a non-finite number or a NUL in a
    scalar."""
    for record in entry.records:
        if record.key[:1] == b"b":
            _, data = envelope.unpack_blob(record.value)
            non_finite = (
                len(data) == 9
                and data[:1] == b"\xcb"
                and data[1] & 0x7F == 0x7F
                and data[2] & 0xF0 == 0xF0
            )
            if non_finite or (len(data) < 1024 and data[:1] >= b"\xa0" and b"\x00" in data[1:]):
                return f"$.channel_values.{envelope.split_blob_key(record.key)[1]}"
    return "$"


class ValueCache:
    """The newest channel values by version, bounded in bytes: the next checkpoint mostly has them
    unchanged."""

    def __init__(self, max_bytes: int) -> None:
        self._values = BoundedMap[ValueKey, tuple[str, bytes]](
            most_weight=max_bytes, weigh=lambda raw: len(raw[1])
        )

    def get(self, key: ValueKey) -> tuple[str, bytes] | None:
        """The value's type and bytes, if remembered."""
        return self._values.use(key)

    def add(self, key: ValueKey, raw: tuple[str, bytes]) -> None:
        """Remember a value; the ones unused for longest are forgotten."""
        self._values[key] = raw

    def forget(self, thread_id: str) -> None:
        """Forget all values of a thread."""
        for key in [k for k in self._values if k[0] == thread_id]:
            del self._values[key]
