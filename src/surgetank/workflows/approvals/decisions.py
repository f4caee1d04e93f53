"""Decisions: from what a person says to the value that the graph resumes with, and back. Pure.

Everything is checked before anything is written: a wrong number of decisions, or one that was not
offered, would leave the graph in a state in which every later answer fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgetank.exceptions import DecisionRefused
from surgetank.workflows.approvals.offers import ACTIONS, Action, Offer, snake

OUTCOMES = {
    "approve": "approved", "edit": "edited", "reject": "rejected", "respond": "responded",
    "ignore": "ignored",
}  # fmt: skip
_INBOX_WORDS = {"accept": "approve", "edit": "edit", "response": "respond", "ignore": "ignore"}
_INBOX_OF = {ours: theirs for theirs, ours in _INBOX_WORDS.items()}
_DIFFERENCES = 200


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision that the interrupt allows: `resume` is what the graph is given."""

    outcome: str
    resume: Any
    edited: Any = None
    notes: str | None = None


def decide(
    offer: Offer, action: str, *, edited: Any = None, notes: str | None = None, response: Any = None
) -> Decision:
    """From what a person did to a decision. Raises `DecisionRefused`."""
    if action not in ACTIONS:
        raise DecisionRefused(
            f"There is no action {action!r}.", remedy=f"use one of {', '.join(ACTIONS)}."
        )
    if offer.kind == "batched":
        resume = (
            response
            if _has_decisions(response)
            else {"decisions": _batch(offer, action, edited, notes, response)}
        )
    elif offer.kind == "tool_approval":
        (resume,) = _batch(offer, action, [edited], notes, response)
    elif offer.kind == "agent_inbox":
        resume = [
            _inbox(a, action, e, notes, response)
            for a, e in zip(offer.actions, _each(offer, edited), strict=True)
        ]
    elif action == "edit":
        resume = edited
    elif response is not None:
        resume = response
    elif action == "respond":
        resume = notes
    else:
        resume = {"approve": True, "reject": False}.get(action)
    found = judge(offer, resume)
    outcome = found.outcome if offer.kind == "batched" else OUTCOMES[action]
    shown = edited if action == "edit" else found.edited
    return Decision(outcome, found.resume, shown, notes)


def judge(offer: Offer, resume: Any) -> Decision:
    """What a value to resume with decides. Raises `DecisionRefused` for one that was not
    offered."""
    plain = snake(resume) if offer.kind in ("batched", "tool_approval", "agent_inbox") else resume
    if offer.kind == "batched":
        if not _has_decisions(plain):
            raise DecisionRefused(
                "The answer has no list of decisions.",
                remedy=f'send {{"decisions": [...]}} with {len(offer.actions)} of them, in order.',
            )
        decisions = _same_number(offer, plain["decisions"])
        kinds = [_check(a, d) for a, d in zip(offer.actions, decisions, strict=True)]
        edited = [d.get("edited_action") for d in decisions] if "edit" in kinds else None
        return Decision(_together(kinds), {"decisions": decisions}, edited)
    if offer.kind == "tool_approval":
        kind = _check(offer.actions[0], plain)
        _matches(offer.schema, plain)
        return Decision(OUTCOMES[kind], plain, plain.get("edited_action"))
    if offer.kind == "agent_inbox":
        answers = _same_number(offer, plain if isinstance(plain, list) else [plain])
        kinds = [_check_inbox(a, d) for a, d in zip(offer.actions, answers, strict=True)]
        edited = [d.get("args") for d in answers] if "edit" in kinds else None
        return Decision(_together(kinds), answers, edited)
    if offer.kind == "schema":
        _matches(offer.schema, plain)
    return Decision("responded", plain)


def _has_decisions(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("decisions"), list)


def _same_number(offer: Offer, given: Sequence[Any]) -> list[Any]:
    if len(given) != len(offer.actions):
        raise DecisionRefused(
            f"There are {len(given)} decisions for {len(offer.actions)} actions.",
            remedy="send one for each action, in the order in which they are listed.",
        )
    return list(given)


def _together(kinds: Sequence[str]) -> str:
    for kind in ("reject", "respond", "ignore", "edit"):
        if kind in kinds:
            return OUTCOMES[kind]
    return OUTCOMES["approve"]


def _check(action: Action, decision: Any) -> str:
    kind = decision.get("type") if isinstance(decision, Mapping) else None
    if kind not in action.allowed:
        raise DecisionRefused(
            f"{kind!r} is not allowed for {action.name!r}.",
            remedy=f"allowed: {', '.join(action.allowed) or 'nothing'}.",
        )
    if kind == "edit":
        edited = decision.get("edited_action", decision)
        name = edited.get("name", action.name) if isinstance(edited, Mapping) else None
        if name != action.name or not isinstance(edited.get("args"), Mapping):
            raise DecisionRefused(
                f"An edit may change the arguments of {action.name!r}, not which tool is called.",
                remedy=f'send edited_action: {{"name": "{action.name}", "args": {{...}}}}.',
            )
    if kind == "respond" and not isinstance(decision.get("message"), str):
        raise DecisionRefused("A response has no text.", remedy="send it as message.")
    return str(kind)


def _check_inbox(action: Action, answer: Any) -> str:
    word = answer.get("type") if isinstance(answer, Mapping) else None
    kind = _INBOX_WORDS.get(str(word))
    if kind is None or kind not in action.allowed:
        allowed = ", ".join(_INBOX_OF[a] for a in action.allowed) or "nothing"
        raise DecisionRefused(
            f"{word!r} is not allowed for {action.name!r}.", remedy=f"allowed: {allowed}."
        )
    args = answer.get("args")
    if kind == "edit" and not (isinstance(args, Mapping) and args.get("action") == action.name):
        raise DecisionRefused(
            f"An edit may change the arguments of {action.name!r}, not which action is taken.",
            remedy=f'send args: {{"action": "{action.name}", "args": {{...}}}}.',
        )
    return kind


def _each(offer: Offer, edited: Any) -> list[Any]:
    """Edited content for each action: a list, or the arguments of the only one."""
    if isinstance(edited, list) and len(edited) == len(offer.actions):
        return edited
    if edited is not None and len(offer.actions) != 1:
        raise DecisionRefused(
            f"There are {len(offer.actions)} actions.",
            remedy="send user_edited_content as a list of arguments, one for each.",
        )
    return [edited] * len(offer.actions)


def _batch(offer: Offer, action: str, edited: Any, notes: str | None, response: Any) -> list[Any]:
    message = response if isinstance(response, str) else notes
    made: list[Any] = []
    for each, content in zip(offer.actions, _each(offer, edited), strict=True):
        if action == "edit":
            args = (
                content.get("args", content)
                if isinstance(content, Mapping) and set(content) <= {"name", "args"}
                else content
            )
            name = (
                content.get("name", each.name)
                if isinstance(content, Mapping) and "args" in content
                else each.name
            )
            made.append({"type": "edit", "edited_action": {"name": name, "args": args}})
        elif action in ("reject", "respond") and message is not None:
            made.append({"type": action, "message": message})
        else:
            made.append({"type": action})
    return made


def _inbox(action: Action, asked: str, edited: Any, notes: str | None, response: Any) -> Any:
    message = response if response is not None else notes
    if asked == "reject":  # agent-inbox has no such word: said in words where that is allowed
        asked = "respond" if "respond" in action.allowed and message else "ignore"
    if asked == "edit":
        return {"type": "edit", "args": {"action": action.name, "args": edited}}
    if asked == "respond":
        return {"type": "response", "args": message or ""}
    return {"type": _INBOX_OF[asked], "args": None}


def _matches(schema: Mapping[str, Any] | None, value: Any) -> None:
    """Raise `DecisionRefused` for a value that the schema refuses, or a schema that is none."""
    if schema is None:
        return
    import jsonschema_rs  # noqa: PLC0415 - of the extra `langgraph`

    try:
        jsonschema_rs.validate(dict(schema), value)
    except jsonschema_rs.ValidationError as error:
        at = "/".join(str(part) for part in error.instance_path) or "the whole answer"
        raise DecisionRefused(
            f"The answer doesn't match what was asked: {str(error.message)[:300]}",
            remedy=f"mend {at}; response_schema says what is wanted.",
        ) from error
    except (ValueError, TypeError) as error:
        raise DecisionRefused(
            f"The graph asks with a schema that can't be used: {str(error)[:200]}",
            remedy="mend the response_schema of the graph's interrupt.",
        ) from error


def changes(offer: Offer, decision: Decision) -> list[dict[str, Any]] | None:
    """What a decision changed of what was offered; None where nothing was edited."""
    if offer.kind not in ("batched", "tool_approval", "agent_inbox"):
        edited = decision.outcome == OUTCOMES["edit"]
        return difference(offer.editable, decision.edited) if edited else None
    given = decision.resume if offer.kind != "batched" else decision.resume["decisions"]
    answers = given if isinstance(given, list) else [given]
    if not any(answer.get("type") == "edit" for answer in answers):
        return None
    pairs = zip(offer.actions, answers, strict=True)
    after = [_args(d) if d.get("type") == "edit" else action.args for action, d in pairs]
    return difference(offer.editable, after[0] if offer.kind == "tool_approval" else after)


def _args(edit: Mapping[str, Any]) -> Any:
    """The arguments that an edit gives an action, in either of the two forms."""
    return (edit.get("edited_action") or edit.get("args") or edit).get("args")


def difference(before: Any, after: Any) -> list[dict[str, Any]]:
    """What an edit changed, by JSON pointer; at most 200 places."""
    found: list[dict[str, Any]] = []
    _compare("", before, after, found)
    return found[:_DIFFERENCES]


def _compare(path: str, before: Any, after: Any, found: list[dict[str, Any]]) -> None:
    if len(found) > _DIFFERENCES or before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *(k for k in after if k not in before)]:
            at = f"{path}/{str(key).replace('~', '~0').replace('/', '~1')}"
            if key not in after:
                found.append({"op": "remove", "path": at, "before": before[key]})
            elif key not in before:
                found.append({"op": "add", "path": at, "value": after[key]})
            else:
                _compare(at, before[key], after[key], found)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, pair in enumerate(zip(before, after, strict=True)):
            _compare(f"{path}/{number}", *pair, found)
    else:
        found.append({"op": "replace", "path": path, "before": before, "value": after})
