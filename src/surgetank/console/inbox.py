"""What waits for a person: the list, one question with its decision, and what was decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.console import forms
from surgetank.console.banners import banners_of
from surgetank.console.forms import Field
from surgetank.console.showing import chosen, show, url
from surgetank.console.visits import UserVisit, Visit, Visitor
from surgetank.exceptions import Conflict, DatabaseUnavailable, InvalidRequest
from surgetank.server.access import questions
from surgetank.server.access.authorizing import allowed_on, allowed_to_search
from surgetank.server.access.roles import Caller, Role
from surgetank.server.http.problems import Problem
from surgetank.workflows.approvals.rows import UserCheckpoint

router = APIRouter()
_PAGE = 50
_STATES = ("waiting", "approved", "edited", "rejected", "responded", "ignored", "expired", "superseded")  # fmt: skip
_WORDS = {
    "approve": "Approve", "edit": "Change it, then approve", "reject": "Reject",
    "respond": "Answer in words", "ignore": "Ignore",
}  # fmt: skip
_MOST_NOTES = 20_000


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that is decided about: what it is, what may be decided, the fields to change it."""

    number: int
    name: str
    description: str
    content: Any
    allowed: tuple[str, ...]
    fields: tuple[Field, ...]


@router.get("/inbox")
async def inbox(visit: Visitor, after: Annotated[int, Query(ge=0, le=2**62)] = 0) -> Response:
    """Questions of the visitor's threads, and those that the visitor shall answer."""
    who = await allowed_to_search(visit.services, visit.caller)
    return await run_in_threadpool(_list, visit, who, after)


def _list(visit: Visit, who: Caller, after: int) -> Response:
    services = visit.services
    state = chosen(visit.request.query_params, "state", _STATES)
    found = services.tank.approvals(
        after=after, limit=_PAGE + 1, status="pending" if state == "waiting" else state,
        owner=None if who.role is Role.ADMIN else who.user,
    )  # fmt: skip
    shown = found[:_PAGE]
    seen = questions.seen(services, who, shown) if who.filters else shown
    return show(
        visit,
        "inbox.html",
        page_name="inbox",
        rows=sorted(
            seen, key=lambda row: (row.expires_at is None, row.expires_at or row.created_at)
        ),
        state=state,
        states_of_questions=_STATES,
        next=shown[-1].checkpoint_number if len(found) > _PAGE else None,
        is_first=after == 0,
        **banners_of(services, who, None),
    )


@router.get("/inbox/{checkpoint_id}")
async def question(visit: Visitor, checkpoint_id: UUID) -> Response:
    """One question."""
    row = await _asked_for(visit, checkpoint_id)
    return await run_in_threadpool(_shown, visit, row)


@router.get("/inbox/{checkpoint_id}/now")
async def now(visit: Visitor, checkpoint_id: UUID) -> Response:
    """What became of it, for a page that shows it as waiting: nothing as long as it waits."""
    row = await _asked_for(visit, checkpoint_id)
    return show(visit, "decided.html", row=row) if row.status != "pending" else Response(None, 204)


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


def _shown(
    visit: Visit,
    row: UserCheckpoint,
    *,
    code: int = 200,
    refused: str = "",
    given: Mapping[str, str] | None = None,
) -> Response:
    return show(
        visit,
        "question.html",
        code,
        page_name="inbox",
        row=row,
        parts=_parts(row),
        answer=forms.of_schema("answer", row.response_schema or {}) if row.kind == "schema" else (),
        words=_WORDS,
        refused=refused,
        given=given or {},
        may_decide=visit.covers("user") and _may(visit.caller, row),
        now=visit.services.clock(),
        shown_json=forms.shown_json,
        **banners_of(visit.services, visit.caller, None),
    )


def _may(who: Caller, row: UserCheckpoint) -> bool:
    try:
        questions.check_may_decide(who, row)
    except Problem:
        return False
    return True


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
    allowed, fields = row.offer.allowed, forms.of_content("edit.0", content)
    return (Part(0, "", "", content, allowed=allowed, fields=fields),)


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
        forms.read(part.fields, form) if action == "edit" else None
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
