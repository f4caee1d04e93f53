"""Messages as the event streaming protocol sends them: a start, blocks that grow, a finish.

Made from the chunks of the stream mode `messages-tuple`. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_ROLES = {"ai": "ai", "AIMessageChunk": "ai", "human": "human", "system": "system"}
_SHOWN = ("langgraph_node", "ls_provider", "ls_model_name")
Data = dict[str, Any]


@dataclass(slots=True)
class _Block:
    index: int
    type: str
    text: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(slots=True)
class _Message:
    id: str
    blocks: dict[Any, _Block] = field(default_factory=dict)
    usage: Any = None


class MessageBlocks:
    """The messages of one namespace of one run, as they grow."""

    def __init__(self) -> None:
        self._open: dict[str, _Message] = {}
        self._finished: set[str] = set()

    def of(self, message: Mapping[str, Any], metadata: Any) -> Iterator[Data]:
        """What one chunk, or a message that came in one piece, adds. Results of tools are no
        messages here."""
        role = _ROLES.get(str(message.get("type")))
        id_ = str(message.get("id") or "")
        if role is None or not id_ or id_ in self._finished:
            return
        found = self._open.get(id_)
        if found is None:
            found = self._open[id_] = _Message(id_)
            known = metadata if isinstance(metadata, Mapping) else {}
            shown = {name: known[name] for name in _SHOWN if name in known}
            yield {
                "event": "message-start", "role": role, "id": id_, "message_id": id_,
                "metadata": shown,
            }  # fmt: skip
        is_chunk = message.get("type") == "AIMessageChunk"
        for key, part in _parts(message, is_chunk=is_chunk):
            yield from _grow(found, key, part)
        found.usage = _summed(found.usage, message.get("usage_metadata"))
        if not is_chunk or message.get("chunk_position") == "last":
            yield from self._finish(found)

    def end(self) -> Iterator[Data]:
        """What is still open, for the run has ended."""
        for found in list(self._open.values()):
            yield from self._finish(found)

    def _finish(self, message: _Message) -> Iterator[Data]:
        for block in message.blocks.values():
            yield {
                "event": "content-block-finish", "message_id": message.id, "index": block.index,
                "content": _complete(block),
            }  # fmt: skip
        end: Data = {"event": "message-finish", "message_id": message.id}
        if message.usage:
            end["usage"] = message.usage
        yield end
        self._open.pop(message.id, None)
        self._finished.add(message.id)


def _parts(message: Mapping[str, Any], *, is_chunk: bool) -> Iterator[tuple[Any, Data]]:
    """What a chunk holds, each with a key that is the same for what belongs together."""
    content = message.get("content")
    pieces = [content] if isinstance(content, str) else content if isinstance(content, list) else []
    for number, piece in enumerate(pieces):
        given = {"type": "text", "text": piece} if isinstance(piece, str) else piece
        if not isinstance(given, Mapping):
            continue
        kind = "reasoning" if given.get("type") in ("reasoning", "thinking") else "text"
        text = given.get("text") or given.get("reasoning") or given.get("thinking")
        if isinstance(text, str) and text:
            yield (
                (kind, given.get("index", 0 if is_chunk else number)),
                {"type": kind, "text": text},
            )
    calls = message.get("tool_call_chunks" if is_chunk else "tool_calls") or []
    for number, call in enumerate(calls):
        if not isinstance(call, Mapping):
            continue
        given = call.get("index")
        args = call.get("args")
        text = args if isinstance(args, str) else "" if args is None else json.dumps(args)
        part = {"type": "tool_call", "text": text, "id": call.get("id"), "name": call.get("name")}
        yield ("tool_call", number if given is None else given), part


def _grow(message: _Message, key: Any, part: Data) -> Iterator[Data]:
    block = message.blocks.get(key)
    if block is None:
        block = message.blocks[key] = _Block(len(message.blocks), part["type"])
        block.id, block.name = part.get("id"), part.get("name")
        yield {
            "event": "content-block-start", "message_id": message.id, "index": block.index,
            "content": _begun(block),
        }  # fmt: skip
    block.text += part["text"]
    block.id, block.name = block.id or part.get("id"), block.name or part.get("name")
    if part["text"]:
        yield {
            "event": "content-block-delta", "message_id": message.id, "index": block.index,
            "delta": _delta(block.type, part["text"]),
        }  # fmt: skip


def _begun(block: _Block) -> Data:
    if block.type == "tool_call":
        return {"type": "tool_call_chunk", "id": block.id, "name": block.name, "args": ""}
    return {"type": block.type, block.type: ""}


def _delta(kind: str, text: str) -> Data:
    if kind == "tool_call":
        return {"type": "tool-call-delta", "args": text}
    return {"type": f"{kind}-delta", kind: text}


def _complete(block: _Block) -> Data:
    if block.type != "tool_call":
        return {"type": block.type, block.type: block.text}
    call: Data = {"id": block.id, "name": block.name}
    try:
        args = json.loads(block.text or "{}")
    except (ValueError, RecursionError):
        args = None
    if isinstance(args, dict):
        return {"type": "tool_call", **call, "args": args}
    return {
        "type": "invalid_tool_call",
        **call,
        "args": block.text,
        "error": "This is no JSON object.",
    }


def _summed(before: Any, more: Any) -> Any:
    if not isinstance(more, Mapping):
        return before
    if not isinstance(before, Mapping):
        return dict(more)
    return {
        **before,
        **{
            name: before.get(name, 0) + value if isinstance(value, int) else value
            for name, value in more.items()
        },
    }
