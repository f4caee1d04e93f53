"""The messages of a conversation, as people read them: those of its state, and those that a run sends while it
is under way. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

_NEWEST = 30
_MOST_CHARACTERS = 4000
_KINDS = {
    "human": "Person", "user": "Person", "ai": "Assistant", "assistant": "Assistant",
    "system": "System", "developer": "System", "tool": "Tool", "function": "Tool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `calls` are tools that it asks for, with what they are given; `cut`: characters that are
    left out; `grows`: it isn't complete."""

    id: str
    who: str
    text: str
    calls: tuple[tuple[str, str], ...] = ()
    cut: int = 0
    grows: bool = False


def messages_of(value: Any) -> tuple[list[Message], int]:
    """The newest messages of a channel's value, and how many there are before them."""
    items, before = value, 0
    if isinstance(value, Mapping) and "$tail" in value:
        items, before = value["$tail"], int(value["$items"]) - len(value["$tail"])
    if not isinstance(items, list):
        return [], 0
    shown = [_message(each) for each in items[-_NEWEST:] if isinstance(each, Mapping)]
    return shown, before + max(0, len(items) - _NEWEST)


def _message(given: Mapping[str, Any]) -> Message:
    kind = str(given.get("type") or given.get("role") or "").removesuffix("MessageChunk").lower()
    who = _KINDS.get(kind, kind.capitalize() or "Message")
    if given.get("name"):
        who = f"{who} {given['name']}"
    text = _text(given.get("content"))
    calls = given.get("tool_calls")
    return Message(
        str(given.get("id") or ""), who, text[:_MOST_CHARACTERS],
        tuple(_call(each) for each in calls if isinstance(each, Mapping)) if isinstance(calls, list) else (),
        max(0, len(text) - _MOST_CHARACTERS),
    )  # fmt: skip


def _call(given: Mapping[str, Any]) -> tuple[str, str]:
    args = given.get("args")
    if isinstance(args, Mapping):
        return str(given.get("name")), ", ".join(f"{name}: {_short(v)}" for name, v in args.items())
    return str(given.get("name")), "" if args is None else _short(args)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]} …"


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(filter(None, (_block(each) for each in content)))
    return "" if content is None else _short(content)


def _block(block: Any) -> str:
    if isinstance(block, str):
        return block
    if not isinstance(block, Mapping):
        return _short(block)
    if isinstance(block.get("text"), str):
        return str(block["text"])
    kind = str(block.get("type") or "part")
    return "" if kind in ("tool_use", "tool_call", "input_json_delta") else f"[{kind}]"


def growing(events: Iterable[tuple[str, bytes]], known: Sequence[Message]) -> list[Message]:
    """Messages that a run has sent and that are not among the `known` ones, as far as they have come."""
    found: dict[str, Message] = {}
    for event, data in events:
        name = event.partition("|")[0]
        if name not in ("messages", "messages/partial", "messages/complete"):
            continue
        sent = json.loads(data)
        given = sent[0] if isinstance(sent, list) and sent else None
        if not isinstance(given, Mapping):
            continue
        message = replace(_message(given), grows=name != "messages/complete")
        before = found.get(message.id)
        # with `messages-tuple` each event is a piece
        is_piece = name == "messages" and str(given.get("type")).endswith("Chunk")
        if is_piece and before is not None:
            text = before.text + message.text
            message = replace(message, text=text[:_MOST_CHARACTERS], who=before.who)
        found[message.id] = message
    there = {each.id for each in known}
    return [each for id_, each in found.items() if id_ not in there]
