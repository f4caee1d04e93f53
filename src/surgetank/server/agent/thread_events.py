"""The event streaming protocol (v2): what a thread's runs send, as its events.

The stream log has one form for all readers; here each of its events becomes none, one or some of
the protocol. Numbers are those of the log, with room for what one became: what is sent again after
a break has the number and the id that it had. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgetank.encode.jsontext import dumps, loads
from surgetank.events.streams import END, StreamEvent
from surgetank.server.agent.message_blocks import MessageBlocks

STEP = 1000  # how many numbers each event of the log has
CHANNELS = (
    "values", "updates", "messages", "tools", "lifecycle", "input", "checkpoints", "tasks", "custom",
)  # fmt: skip
_ASKS = "__interrupt__"
Namespace = tuple[str, ...]
Made = tuple[str, Namespace, Any]  # method, namespace, data


@dataclass(frozen=True, slots=True)
class ProtocolEvent:
    """One event of the protocol. `body` is JSON."""

    seq: int
    method: str
    channel: str
    namespace: Namespace
    body: bytes


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a client wants to be sent."""

    channels: frozenset[str]
    namespaces: Sequence[Sequence[str]] | None = None
    depth: int | None = None

    def wants(self, event: ProtocolEvent) -> bool:
        """Whether it wants this event. What is missing is told to everybody."""
        if event.method == "gap":
            return True
        is_named = event.channel.startswith("custom:") and "custom" in self.channels
        if event.channel not in self.channels and not is_named:
            return False
        return not self.namespaces or any(
            _begins(event.namespace, prefix)
            and (self.depth is None or len(event.namespace) - len(prefix) <= self.depth)
            for prefix in self.namespaces
        )


def _begins(namespace: Sequence[str], prefix: Sequence[str]) -> bool:
    """`node` stands for each `node:id`."""
    return len(prefix) <= len(namespace) and all(
        have == want or (":" not in want and have.partition(":")[0] == want)
        for want, have in zip(prefix, namespace, strict=False)
    )


class ThreadEvents:
    """Turns the events of a thread into those of the protocol. For one reader; given all of a run
    from its beginning."""

    def __init__(self) -> None:
        self.graph: str | None = None  # of the run whose events are given now
        self._begin()

    def _begin(self) -> None:
        self._messages: dict[Namespace, MessageBlocks] = {}
        self._asked: dict[str, Made] = {}
        self._children: set[Namespace] = set()
        self._error: str | None = None

    def of(self, event: StreamEvent) -> list[ProtocolEvent]:
        """What one event of the log became."""
        found = []
        for number, (method, namespace, data) in enumerate(self._made(event)):
            seq = event.seq * STEP + min(number, STEP - 1)
            body = {
                "type": "event",
                "event_id": f"{event.seq}-{number}"
                if event.event != END
                else f"{event.run_id}-{number}",
                "seq": seq,
                "method": method,
                "params": {
                    "namespace": list(namespace),
                    "timestamp": int(event.at * 1000),
                    "data": data,
                },
            }
            channel = _channel(method, data)
            found.append(ProtocolEvent(seq, method, channel, namespace, dumps(body)))
        return found

    def _made(self, event: StreamEvent) -> Iterator[Made]:
        name, *rest = event.event.split("|")
        namespace = tuple(rest)
        data = loads(event.data)
        yield from self._started(namespace)
        if name in ("metadata", "error", "gap", END):
            yield from self._of_run(name, data)
        else:
            yield from self._of_mode(name, namespace, data)

    def _of_run(self, name: str, data: Mapping[str, Any]) -> Iterator[Made]:
        if name == "metadata":
            yield from self._open_messages()
            self._begin()
            yield "lifecycle", (), _lifecycle("running", self.graph)
        elif name == "error":
            self._error = str(data.get("message") or data.get("error") or "It failed.")
        elif name == "gap":
            yield "gap", (), data
        else:
            yield from self._open_messages()
            end = self._ended(data)
            if end["event"] == "interrupted":
                yield from self._asked.values()
            yield "lifecycle", (), end

    def _of_mode(self, name: str, namespace: Namespace, data: Any) -> Iterator[Made]:
        """What a stream mode sent. Some have no channel."""
        if name in ("values", "updates") and isinstance(data, Mapping):
            self._ask(namespace, data.get(_ASKS))
            if name == "values":
                yield "values", namespace, {n: v for n, v in data.items() if n != _ASKS}
                return
            for node, values in data.items():
                if not str(node).startswith("__"):
                    yield "updates", namespace, {"node": node, "values": values}
        elif name == "messages" and isinstance(data, list) and len(data) == 2:
            blocks = self._messages.setdefault(namespace, MessageBlocks())
            for each in blocks.of(data[0], data[1]):
                yield "messages", namespace, each
        elif name == "tasks":
            yield "tasks", namespace, data
            yield from self._over(namespace, data)
        elif name == "checkpoints":
            yield "checkpoints", namespace, _checkpoint(data)
        elif name == "custom":
            named = data.get("name") if isinstance(data, Mapping) else None
            called = {"name": named} if isinstance(named, str) and named else {}
            yield "custom", namespace, {**called, "payload": data}

    def _ask(self, namespace: Namespace, interrupts: Any) -> None:
        """Remember a question: it can be answered when the run's end is recorded. Several modes
        tell of it."""
        for each in interrupts if isinstance(interrupts, list) else ():
            if not isinstance(each, Mapping) or "id" not in each:
                continue
            # `payload` is the protocol's name, `value` the one that LangGraph's Python client reads.
            id_, value = str(each["id"]), each.get("value")
            asked = {"interrupt_id": id_, "payload": value, "value": value}
            if each.get("response_schema") is not None:
                asked["response_schema"] = each["response_schema"]
            self._asked.setdefault(id_, ("input.requested", namespace, asked))

    def _started(self, namespace: Namespace) -> Iterator[Made]:
        for length in range(1, len(namespace) + 1):
            child = namespace[:length]
            if child not in self._children:
                self._children.add(child)
                yield "lifecycle", child, _lifecycle("started", child[-1].partition(":")[0])

    def _over(self, namespace: Namespace, task: Any) -> Iterator[Made]:
        """The end of a task is that of the graph that it ran."""
        if not isinstance(task, Mapping) or "result" not in task:
            return
        child = (*namespace, f"{task.get('name')}:{task.get('id')}")
        if child in self._children:
            error = task.get("error")
            how = "failed" if error else "interrupted" if task.get("interrupts") else "completed"
            yield "lifecycle", child, _lifecycle(how, str(task.get("name")), error)

    def _open_messages(self) -> Iterator[Made]:
        for namespace, blocks in self._messages.items():
            for each in blocks.end():
                yield "messages", namespace, each

    def _ended(self, end: Mapping[str, Any]) -> dict[str, Any]:
        status = end.get("status")
        if status == "success":
            waits = bool(self._asked) or bool(end.get("waits"))
            return _lifecycle("interrupted" if waits else "completed", self.graph)
        # Who waits for the end of a cancelled run must not wait for ever.
        error = "The run was cancelled." if status == "interrupted" else self._error
        return _lifecycle("failed", self.graph, error or f"It ended: {status}.")


def _lifecycle(event: str, graph_name: Any, error: Any = None) -> dict[str, Any]:
    data: dict[str, Any] = {"event": event}
    if graph_name:
        data["graph_name"] = graph_name
    if error:
        data["error"] = str(error)
    return data


def _checkpoint(data: Any) -> dict[str, Any]:
    given = data if isinstance(data, Mapping) else {}
    metadata = given.get("metadata") or {}
    found = {
        "id": _id_of(given.get("config")), "step": metadata.get("step"),
        "source": metadata.get("source"), "parent_id": _id_of(given.get("parent_config")),
    }  # fmt: skip
    return {name: value for name, value in found.items() if value is not None}


def _id_of(config: Any) -> Any:
    return (config.get("configurable") or {}).get("checkpoint_id") if config else None


def _channel(method: str, data: Any) -> str:
    if method == "input.requested":
        return "input"
    name = data.get("name") if method == "custom" else None
    return f"custom:{name}" if name else method
