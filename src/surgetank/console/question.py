"""One question to people: what is offered, what a decision would change, the decision, who shall make
it, and what became of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.console import forms
from surgetank.console.banners import banners_of
from surgetank.console.changes import Change, changes_of
from surgetank.console.forms import Field
from surgetank.console.showing import show, url
from surgetank.console.visits import UserVisit, Visit, Visitor
from surgetank.exceptions import (
    Conflict,
    DatabaseUnavailable,
    EntryRejected,
    InvalidRequest,
    SurgetankError,
)
from surgetank.server.access import questions
from surgetank.server.access.authorizing import allowed_on
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem
from surgetank.workflows.approvals.rows import UserCheckpoint
from surgetank.workflows.audit import AuditFilter

router = APIRouter()
_WORDS = {
    "approve": "Approve", "edit": "Change it, then approve", "reject": "Reject",
    "respond": "Answer in words", "ignore": "Ignore",
}  # fmt: skip
_MOST_NOTES = 20_000
_MOST_NAME = 200
_TERMS = "surgetank"  # under which an interrupt says who shall answer until when
_STEPS = 500  # of a workflow's audit that are searched for those of one question


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is decided about: what it is, what may be decided, the fields to change it."""

    number: int
    name: str
    description: str
    content: Any
    allowed: tuple[str, ...]
    fields: tuple[Field, ...]
    terms: Mapping[str, Any] = field(default_factory=dict)

    def edited(self, form: Mapping[str, str]) -> Any:
        """What was typed; who shall answer until when is no part of it, and stays. Raises
        `FormRefused`."""
        found = forms.read(self.fields, form)
        return {**found, **self.terms} if self.terms and isinstance(found, dict) else found


@router.get("/inbox/{checkpoint_id}")
async def question(visit: Visitor, checkpoint_id: UUID) -> Response:
    """One question."""
    row = await _asked_for(visit, checkpoint_id)
    return await run_in_threadpool(_shown, visit, row)


@router.get("/inbox/{checkpoint_id}/now")
async def now(visit: Visitor, checkpoint_id: UUID) -> Response:
    """What became of it, for a page that shows it as waiting: nothing as long as it waits."""
    row = await _asked_for(visit, checkpoint_id)
    if row.status == "pending" and not _is_over(visit, row):
        return Response(None, 204)
    names = [part.name for part in _parts(row)]
    return show(visit, "decided.html", row=row, changes=changes_of(row.diff or (), names))


@router.get("/inbox/{checkpoint_id}/who")
async def shall_answer(visit: Visitor, checkpoint_id: UUID) -> Response:
    """Who shall answer it, for a page that shows it."""
    row = await _asked_for(visit, checkpoint_id)
    return show(visit, "question_who.html", row=row, may_decide=_may_now(visit, row))


async def _asked_for(visit: Visit, checkpoint_id: UUID) -> UserCheckpoint:
    row = await run_in_threadpool(_visible, visit, visit.caller, checkpoint_id)
    who = await allowed_on(visit.services, visit.caller, row.thread_id, "read")
    return await run_in_threadpool(_visible, visit, who, checkpoint_id) if who.filters else row


@router.post("/inbox/{checkpoint_id}")
async def decide(visit: UserVisit, checkpoint_id: UUID) -> Response:
    """Decide. What is not allowed is said on the page, and nothing is written then."""
    row = await run_in_threadpool(_visible, visit, visit.caller, checkpoint_id)
    who = await allowed_on(visit.services, visit.caller, row.thread_id, "create_run")
    return await run_in_threadpool(_decide, visit, who, row)


@router.post("/inbox/{checkpoint_id}/check")
async def check(visit: UserVisit, checkpoint_id: UUID) -> Response:
    """What the decision that stands in the form would change, or what is wrong with it."""
    row = await _asked_for(visit, checkpoint_id)
    return await run_in_threadpool(_check, visit, row)


@router.post("/inbox/{checkpoint_id}/assign")
async def assign(visit: UserVisit, checkpoint_id: UUID) -> Response:
    """Say who shall answer: the visitor, somebody, a role, or nobody in particular."""
    row = await run_in_threadpool(_visible, visit, visit.caller, checkpoint_id)
    who = await allowed_on(visit.services, visit.caller, row.thread_id, "update")
    return await run_in_threadpool(_assign, visit, who, row)


def _visible(visit: Visit, who: Caller, checkpoint_id: UUID) -> UserCheckpoint:
    return questions.visible(visit.services, who, checkpoint_id)


def _decide(visit: Visit, who: Caller, row: UserCheckpoint) -> Response:
    _visible(visit, who, row.checkpoint_id)
    form = visit.form()
    try:
        questions.check_may_decide(who, row)
        said = _said(row, form)
        visit.services.tank.approvals.resolve(row.checkpoint_id, actor=who.user, **said)
    except DatabaseUnavailable:
        raise
    except (InvalidRequest, Conflict) as error:
        fresh = visit.services.tank.approvals.get(row.checkpoint_id)
        return _shown(visit, fresh, code=error.http_status, refused=str(error), given=form)
    except Problem as error:
        return _shown(visit, row, code=error.status, refused=error.detail, given=form)
    return RedirectResponse(url(f"inbox/{row.checkpoint_id}"), 303)


def _assign(visit: Visit, who: Caller, row: UserCheckpoint) -> Response:
    _visible(visit, who, row.checkpoint_id)
    form = visit.form()
    assignee: str | None = form.get("assignee", "").strip()[:_MOST_NAME] or None
    role: str | None = form.get("role", "") or None
    if form.get("to") == "me":
        assignee, role = who.user, None
    elif form.get("to") == "nobody":
        assignee, role = None, None
    elif role is not None and role not in list(Role):
        raise Problem(422, "invalid-request", "There is no such role.", remedy="choose one.")
    elif assignee is None and role is None:
        return _shown(visit, row, code=422, refused="Say who shall answer: a user or a role.")
    try:
        visit.services.tank.approvals.assign(
            row.checkpoint_id, assignee=assignee, role=role, actor=who.user
        )
    except DatabaseUnavailable:
        raise
    except (InvalidRequest, Conflict, EntryRejected) as error:
        fresh = visit.services.tank.approvals.get(row.checkpoint_id)
        return _shown(visit, fresh, code=error.http_status, refused=str(error))
    seen = questions.seen(
        visit.services, who, [visit.services.tank.approvals.get(row.checkpoint_id)]
    )
    return RedirectResponse(url(f"inbox/{row.checkpoint_id}" if seen else "inbox"), 303)


def _check(visit: Visit, row: UserCheckpoint) -> Response:
    form = visit.form()
    parts = _parts(row)
    wrong: list[str] = []
    found: list[Change] = []
    for part in parts:
        if form.get(f"decision.{part.number}") != "edit":
            continue
        try:
            edited = part.edited(form)
        except forms.FormRefused as error:
            wrong.append(f"{part.name}: {error.what}" if part.name else error.what)
            continue
        changed = visit.services.tank.approvals.difference(part.content, edited)
        found += [
            Change(f"{part.name} / {each.where}" if part.name else each.where, each.pieces)
            for each in changes_of(changed)
        ]
    is_ready = not wrong and (row.kind == "schema" or all(form.get(f"decision.{p.number}") for p in parts))  # fmt: skip
    if is_ready:
        try:
            visit.services.tank.approvals.check(row, **_said(row, form))
        except InvalidRequest as error:
            wrong.append(error.what)
    edits = any(form.get(f"decision.{part.number}") == "edit" for part in parts)
    return show(visit, "question_check.html", wrong=wrong, changes=found, edits=edits)


def _shown(
    visit: Visit,
    row: UserCheckpoint,
    *,
    code: int = 200,
    refused: str = "",
    given: Mapping[str, str] | None = None,
) -> Response:
    parts = _parts(row)
    answer = forms.of_schema("answer", row.response_schema or {}) if row.kind == "schema" else ()
    fields = [*answer, *(field for part in parts for field in part.fields)]
    return show(
        visit,
        "question.html",
        code,
        page_name="inbox",
        row=row,
        parts=parts,
        answer=answer,
        needs_editor=any(field.kind == "json" for field in fields),
        words=_WORDS,
        refused=refused,
        given=given or {},
        may_decide=_may_now(visit, row),
        is_over=_is_over(visit, row),
        changes=changes_of(row.diff or (), [part.name for part in parts]),
        history=_history(visit, row),
        roles=[role.value for role in Role],
        now=visit.services.clock(),
        shown_json=forms.shown_json,
        **banners_of(visit.services, visit.caller, None),
    )


def _is_over(visit: Visit, row: UserCheckpoint) -> bool:
    """Whether its time is over, also while nobody has dealt with that yet."""
    return row.expires_at is not None and row.expires_at.timestamp() <= visit.services.clock()


def _may_now(visit: Visit, row: UserCheckpoint) -> bool:
    return visit.covers("user") and _may(visit.caller, row)


def _may(who: Caller, row: UserCheckpoint) -> bool:
    with suppress(Problem):
        questions.check_may_decide(who, row)
        return True
    return False


def _history(visit: Visit, row: UserCheckpoint) -> list[tuple[Any, str, str]]:
    """What was done with it: when, by whom, what. Empty where the audit can't be read."""
    try:
        rows = visit.services.tank.audit.list(AuditFilter(workflow=row.workflow_id), limit=_STEPS)
    except SurgetankError:
        return []
    mine = [
        each for each in rows if (each["detail"] or {}).get("checkpoint_id") == str(row.checkpoint_id)
    ]  # fmt: skip
    return [(each["at"], each["actor"] or "somebody", _done(each, row)) for each in reversed(mine)]


def _done(step: Mapping[str, Any], row: UserCheckpoint) -> str:
    detail = step["detail"] or {}
    what = str(step["action"]).removeprefix("checkpoint_")
    if what == "assigned":
        digest, role = detail.get("assignee_digest"), detail.get("role")
        if digest is None and role is None:
            return "left it to anybody who may"
        if digest == _digest(step["actor"]):
            return "took it"
        named = row.assignee if digest == _digest(row.assignee) else "somebody"
        return f"gave it to {named if digest else f'the role {role}'}"
    if what == "resolved":
        outcome = str(detail.get("outcome") or "decided")
        return (
            f"took the default at the end of its time: {outcome}"
            if detail.get("expired")
            else outcome
        )
    return {
        "created": "asked", "first_approval": "approved it as the first of two",
        "expired": "closed it: nobody answered in time",
    }.get(what, f"closed it: {what}")  # fmt: skip


def _digest(name: str | None) -> str | None:
    return None if name is None else hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


def _parts(row: UserCheckpoint) -> tuple[Part, ...]:
    if row.actions:
        return tuple(
            Part(
                number=n,
                name=str(action.get("name")),
                description=str(action.get("description") or ""),
                content=action.get("args"),
                allowed=tuple(action.get("allowed") or ()),
                fields=forms.of_content(f"edit.{n}", action.get("args")),
            )
            for n, action in enumerate(row.actions)
        )
    if row.kind == "schema":
        return ()
    content = row.editable_content
    terms = (
        {n: v for n, v in content.items() if n == _TERMS} if isinstance(content, Mapping) else {}
    )
    shown = {n: v for n, v in content.items() if n != _TERMS} if terms else content
    fields = forms.of_content("edit.0", shown)
    return (Part(0, "", "", content, allowed=row.offer.allowed, fields=fields, terms=terms),)


def _said(row: UserCheckpoint, form: Mapping[str, str]) -> dict[str, Any]:
    """What a form says, for `resolve`. Raises `FormRefused`."""
    notes = form.get("notes", "").strip()[:_MOST_NOTES] or None
    if row.kind == "schema":
        answer = forms.read(forms.of_schema("answer", row.response_schema or {}), form)
        return {"action": "respond", "response": answer, "notes": notes}
    parts = _parts(row)
    actions = [form.get(f"decision.{part.number}", "") for part in parts]
    if not all(actions):
        raise forms.FormRefused(
            "There is no decision yet."
            if len(parts) == 1
            else "One of the actions has no decision.",
            remedy="choose one for each action.",
        )
    words = [form.get(f"words.{part.number}", "").strip() or None for part in parts]
    edited = [
        part.edited(form) if action == "edit" else None
        for part, action in zip(parts, actions, strict=True)
    ]
    if row.kind == "batched":
        decisions = [_wire(*each) for each in zip(parts, actions, words, edited, strict=True)]
        return {"action": actions[0], "response": {"decisions": decisions}, "notes": notes}
    return _alike(actions, words, edited, notes)


def _alike(
    actions: Sequence[str], words: Sequence[str | None], edited: Sequence[Any], notes: str | None
) -> dict[str, Any]:
    if len(set(actions)) > 1:
        raise forms.FormRefused(
            "These requests can only be decided alike.", remedy="choose the same for each."
        )
    said: dict[str, Any] = {"action": actions[0], "notes": words[0] or notes}
    if actions[0] == "edit":
        said["edited"] = edited[0] if len(edited) == 1 else list(edited)
    return said


def _wire(part: Part, action: str, words: str | None, edited: Any) -> dict[str, Any]:
    if action == "edit":
        return {"type": "edit", "edited_action": {"name": part.name, "args": edited}}
    if action in ("reject", "respond") and words:
        return {"type": action, "message": words}
    return {"type": action}
