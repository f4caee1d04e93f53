"""What a run sends: LangGraph's stream modes as the events that clients of the Agent Server API
know.

Names: a mode's own (`values`, `updates`, `custom`, `debug`, `tasks`, `checkpoints`, `events`);
`messages-tuple` sends `messages`; `messages` sends `messages/metadata`, `messages/partial` and
`messages/complete`. With subgraphs a name is followed by the namespace: `values|node:id`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, BaseMessageChunk
from langchain_core.runnables import RunnableConfig

from surgetank.encode.jsontext import dumps
from surgetank.workflows.graphs.shape import Graph
from surgetank.workflows.runs import STREAM_MODES

Sent = tuple[str, bytes]  # the name of an event, and its data as JSON


def modes_of(kwargs: Mapping[str, Any]) -> list[str]:
    """The stream modes that a run was asked for; `values` without any."""
    given = kwargs.get("stream_mode") or ["values"]
    named = [given] if isinstance(given, str) else list(given)
    return list(dict.fromkeys(str(mode) for mode in named if mode in STREAM_MODES)) or ["values"]


class Events:
    """Turns the chunks of one run into events. For one run."""

    def __init__(self, modes: Sequence[str], *, subgraphs: bool) -> None:
        self.modes = list(modes)
        self.subgraphs = subgraphs
        self._parts: dict[str, BaseMessage] = {}  # messages that are not complete, by id
        self._begun: set[str] = set()

    def native(self) -> list[Any]:
        """The modes as LangGraph names them. `values` is among them: it tells the last state."""
        names = {"messages" if m == "messages-tuple" else m for m in self.modes if m != "events"}
        return sorted(names | {"values"})

    async def of(
        self, graph: Graph, graph_input: Any, config: RunnableConfig, **options: Any
    ) -> AsyncIterator[Sent]:
        """Run the graph: its events as they come."""
        native = self.native()
        if "events" not in self.modes:
            async for chunk in graph.astream(
                graph_input, config, stream_mode=native, subgraphs=self.subgraphs, **options
            ):
                for sent in self._of_chunk(chunk):
                    yield sent
            return
        root = config.get("run_id")
        async for event in graph.astream_events(
            graph_input,
            config,
            version="v2",
            stream_mode=native,
            subgraphs=self.subgraphs,
            **options,
        ):
            yield "events", dumps(event)
            is_root = str(event.get("run_id")) == str(root)
            if is_root and event.get("event") == "on_chain_stream":
                for sent in self._of_chunk(event["data"].get("chunk")):
                    yield sent

    def _of_chunk(self, chunk: Any) -> Iterator[Sent]:
        namespace: tuple[str, ...] = ()
        if self.subgraphs:
            namespace, mode, data = chunk
        else:
            mode, data = chunk
        ending = "".join(f"|{part}" for part in namespace)
        if mode == "messages":
            message, metadata = data
            if "messages-tuple" in self.modes:
                yield f"messages{ending}", dumps([_plain(message), metadata])
            if "messages" in self.modes:
                for name, body in self._of_message(message, metadata):
                    yield f"{name}{ending}", dumps(body)
        elif mode in self.modes:
            yield f"{mode}{ending}", dumps(data)

    def _of_message(self, message: BaseMessage, metadata: Any) -> Iterator[tuple[str, Any]]:
        """A message as it grows: what it is about, then all of it that is known, at last the
        whole."""
        id_ = str(message.id)
        if id_ not in self._begun:
            self._begun.add(id_)
            yield "messages/metadata", {id_: {"metadata": metadata}}
        if isinstance(message, BaseMessageChunk):
            before = self._parts.get(id_)
            self._parts[id_] = message if before is None else before + message  # type: ignore[assignment]
            yield "messages/partial", [_plain(self._parts[id_])]
        else:
            self._parts.pop(id_, None)
            yield "messages/complete", [_plain(message)]


def _plain(message: Any) -> Any:
    """A message as clients know it: a chunk has the type of what it is a part of, as in LangGraph's
    server."""
    return message.model_dump() if isinstance(message, BaseMessage) else message


def interrupts_of(state: Any) -> list[dict[str, Any]]:
    """What a state asks people, by its tasks."""
    found: list[dict[str, Any]] = []
    for task in state.tasks:
        nested = task.state is not None
        for each in task.interrupts:
            row: dict[str, Any] = {
                "id": each.id, "value": each.value, "task_id": task.id, "node": task.name,
                "namespace": [f"{task.name}:{task.id}"] if nested else [],
            }  # fmt: skip
            if each.response_schema is not None:
                row["response_schema"] = each.response_schema
            found.append(row)
    return found
