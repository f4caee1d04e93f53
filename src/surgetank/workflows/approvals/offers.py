"""What an interrupt offers a person: which kind it is, what may be decided, what may be edited.
Pure.

The kinds are those of LangChain's human-in-the-loop middleware (all tool calls of a message in one
interrupt, or one interrupt for each), of agent-inbox, interrupts with a `response_schema`, and
anything else. Field names may be camelCase, as JavaScript clients write them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from surgetank.durations import seconds_of

KINDS = ("batched", "tool_approval", "agent_inbox", "schema", "free")
ACTIONS = ("approve", "edit", "reject", "respond", "ignore")
_ALL = ("approve", "edit", "reject", "respond")
_INBOX = {
    "allow_accept": "approve",
    "allow_edit": "edit",
    "allow_respond": "respond",
    "allow_ignore": "ignore",
}
_TEXT = 4000


@dataclass(frozen=True, slots=True)
class Action:
    """One thing that an agent wants to do, and what may be decided about it."""

    name: str
    args: Any = None
    description: str | None = None
    allowed: tuple[str, ...] = _ALL

    def to_dict(self) -> dict[str, Any]:
        """As it is stored and shown."""
        return {
            "name": self.name, "args": self.args, "description": self.description,
            "allowed": list(self.allowed),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Offer:
    """An interrupt as people see it. `several`: agent-inbox sent a list of requests."""

    kind: str
    actions: tuple[Action, ...] = ()
    instructions: str | None = None
    editable: Any = None
    schema: Mapping[str, Any] | None = None
    several: bool = False
    terms: Mapping[str, Any] = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        """What may be decided about all of it at once."""
        if not self.actions:
            return ACTIONS
        found = [action for action in ACTIONS if all(action in a.allowed for a in self.actions)]
        return tuple(found)

    def stored(self) -> dict[str, Any]:
        """As the database is given it."""
        return {
            "kind": self.kind,
            "instructions": self.instructions,
            "actions": [action.to_dict() for action in self.actions],
            "editable_content": self.editable,
            **self.terms,
        }


def snake(value: Any) -> Any:
    """The same with the keys of the protocol in snake_case; what is in `args` stays as it is."""
    if isinstance(value, list):
        return [snake(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    named = {
        re.sub(r"(?<=[a-z])([A-Z])", lambda m: "_" + m[1].lower(), str(k)): v
        for k, v in value.items()
    }
    return {k: v if k == "args" else snake(v) for k, v in named.items()}


def offer_of(
    value: Any, schema: Mapping[str, Any] | None = None, terms: Mapping[str, Any] | None = None
) -> Offer:
    """What an interrupt's value offers. `terms` are the run's own: who, until when."""
    said = value.get("surgetank") if isinstance(value, Mapping) else None
    own = _terms({**(terms or {}), **(said if isinstance(said, Mapping) else {})})
    plain = snake(value)
    if isinstance(plain, Mapping):
        if isinstance(plain.get("action_requests"), list):
            return _batched(plain, schema, own)
        if plain.get("type") == "tool_approval":
            return _tool_approval(plain, schema, own)
        if isinstance(plain.get("action_request"), Mapping):
            return _inbox([plain], own, several=False)
    if isinstance(plain, list) and plain and all(_is_inbox(item) for item in plain):
        return _inbox(plain, own, several=True)
    text = (
        _text(plain.get("instructions") or plain.get("question"))
        if isinstance(plain, Mapping)
        else _text(plain)
    )
    kind = "schema" if schema is not None else "free"
    return Offer(kind, instructions=text, editable=value, schema=schema, terms=own)


def _batched(plain: Mapping[str, Any], schema: Any, terms: Mapping[str, Any]) -> Offer:
    rules = {
        str(rule.get("action_name")): tuple(rule.get("allowed_decisions") or _ALL)
        for rule in plain.get("review_configs") or ()
        if isinstance(rule, Mapping)
    }
    requests = [r for r in plain["action_requests"] if isinstance(r, Mapping)]
    actions = tuple(_action(r, rules.get(str(r.get("name")), _ALL)) for r in requests)
    return Offer(
        "batched", actions, _descriptions(actions), [a.args for a in actions], schema, terms=terms
    )


def _tool_approval(plain: Mapping[str, Any], schema: Any, terms: Mapping[str, Any]) -> Offer:
    allowed = _types_of(schema) or _ALL
    action = _action(plain, allowed)
    return Offer("tool_approval", (action,), action.description, action.args, schema, terms=terms)


def _types_of(schema: Any) -> tuple[str, ...]:
    """The decisions that a `oneOf` by `type` names."""
    found: list[str] = []
    for branch in (schema or {}).get("oneOf") or (schema or {}).get("anyOf") or ():
        kind = (
            ((branch.get("properties") or {}).get("type") or {})
            if isinstance(branch, Mapping)
            else {}
        )
        found += [v for v in (kind.get("const"), *(kind.get("enum") or ())) if v in ACTIONS]
    return tuple(dict.fromkeys(found))


def _is_inbox(item: Any) -> bool:
    return isinstance(item, Mapping) and isinstance(item.get("action_request"), Mapping)


def _inbox(items: Sequence[Mapping[str, Any]], terms: Mapping[str, Any], *, several: bool) -> Offer:
    actions = []
    for item in items:
        request, config = item["action_request"], item.get("config") or {}
        allowed = tuple(ours for theirs, ours in _INBOX.items() if config.get(theirs))
        described = _text(item.get("description"))
        actions.append(
            Action(str(request.get("action", "")), request.get("args"), described, allowed)
        )
    made = tuple(actions)
    return Offer(
        "agent_inbox",
        made,
        _descriptions(made),
        [a.args for a in made],
        several=several,
        terms=terms,
    )


def _action(request: Mapping[str, Any], allowed: tuple[str, ...]) -> Action:
    return Action(
        str(request.get("name", "")),
        request.get("args"),
        _text(request.get("description")),
        allowed,
    )


def _descriptions(actions: Sequence[Action]) -> str | None:
    return _text("\n".join(a.description for a in actions if a.description)) or None


def _text(value: Any) -> str | None:
    return value[:_TEXT] if isinstance(value, str) and value else None


def _terms(given: Mapping[str, Any]) -> dict[str, Any]:
    """Who shall answer until when, as the interrupt (under `surgetank`) or the run's metadata
    (under `approval`) say it. What can't be used is left out: a run is never refused its
    question."""
    found: dict[str, Any] = {}
    for name in ("assignee", "role"):
        if isinstance(given.get(name), str) and given[name]:
            found[name] = given[name][:200]
    if given.get("default_action") in ("approve", "reject", "ignore"):
        found["default_action"] = given["default_action"]
    if given.get("approvals") in (1, 2):
        found["approvals"] = given["approvals"]
    late = given.get("expires_in")
    try:
        seconds = seconds_of(late) if isinstance(late, str) else late
    except ValueError:
        seconds = None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds < 1e10:
        found["expires_in"] = float(seconds)
    return found
