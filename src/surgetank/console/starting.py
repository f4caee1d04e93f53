"""Starting a run of an assistant: a form made from what its graph takes."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from surgetank.console import forms
from surgetank.console.banners import banners_of
from surgetank.console.showing import show, url
from surgetank.console.visits import UserVisit, Visit
from surgetank.exceptions import SurgetankError
from surgetank.server.access.authorizing import allowed_on
from surgetank.server.agent.assistants import defaults, looked_up
from surgetank.server.agent.requests import start_run, whose
from surgetank.server.http.problems import Problem
from surgetank.workflows.assistants import Assistant, AssistantFilter

router = APIRouter()
_MOST_ASSISTANTS = 100
_STRATEGIES = {
    "enqueue": "it waits", "reject": "it isn't started", "interrupt": "the other one is stopped",
    "rollback": "the other one is undone",
}  # fmt: skip
Text = Annotated[str, Query(max_length=2048, pattern=r"^[^\x00]*$")]


@dataclass(frozen=True, slots=True)
class Taken:
    """What a graph takes: fields for its input and its context."""

    inputs: tuple[forms.Field, ...]
    context: tuple[forms.Field, ...]
    problem: str = ""


@router.get("/thread/start")
async def start(
    visit: UserVisit, thread_id: Annotated[Text, Query(alias="id")] = "", assistant: Text = ""
) -> Response:
    """The form, for a thread or for a new one."""
    if thread_id:
        await _check(visit, thread_id)
    return await _form(visit, thread_id, assistant)


async def _form(
    visit: Visit, thread_id: str, named: str, *, refused: str = "", code: int = 200
) -> Response:
    services = visit.services
    there = await run_in_threadpool(_assistants, visit)
    named = named or (await run_in_threadpool(_last_used, visit, thread_id) if thread_id else "")
    chosen = next((a for a in there if named in (str(a.assistant_id), a.graph_id)), None)
    chosen = chosen or next(iter(there), None)
    taken = await _taken(visit, str(chosen.assistant_id)) if chosen is not None else None
    return await run_in_threadpool(
        lambda: show(
            visit,
            "start.html",
            code,
            page_name="threads",
            thread_id=thread_id,
            assistants=there,
            chosen=chosen,
            taken=taken,
            strategies=_STRATEGIES,
            refused=refused,
            given=visit.form() if refused else {},
            **banners_of(services, visit.caller, thread_id or None),
        )
    )


def _assistants(visit: Visit) -> list[Assistant]:
    """Those of graphs, and those that were made and that the visitor may use."""
    services = visit.services
    names = services.graphs.names if services.graphs is not None else ()
    try:
        made = services.tank.assistants.search(
            AssistantFilter(owner=whose(visit.caller)), limit=_MOST_ASSISTANTS
        )
    except SurgetankError:
        made = []
    return [*defaults(services), *(each for each in made if each.graph_id in names)]


def _last_used(visit: Visit, thread_id: str) -> str:
    try:
        row = visit.services.tank.threads.rows.find(thread_id)
    except SurgetankError:
        return ""
    metadata = row.metadata if row is not None else {}
    return str(metadata.get("assistant_id") or metadata.get("graph_id") or "")


async def _taken(visit: Visit, named: str) -> Taken:
    from surgetank.workflows.graphs.shape import schemas_of  # noqa: PLC0415 - needs the extra

    services = visit.services
    try:
        found = await run_in_threadpool(looked_up, services, visit.caller, named)
        assert services.graphs is not None
        async with services.graphs.open(found.graph_id, access="assistants.read") as graph:
            schemas = schemas_of(graph)
    except SurgetankError as error:
        return Taken((), (), str(error))
    context = schemas["context_schema"] or {}
    return Taken(
        forms.of_input("input", schemas["input_schema"] or {}),
        forms.of_schema("context", context) if context.get("properties") else (),
    )


@router.post("/thread/start")
async def begin(visit: UserVisit) -> Response:
    """Start it. What is refused is said on the page, and what was typed stays."""
    form = visit.form()
    thread_id = form.get("thread", "")[:2048].replace("\x00", "") or str(uuid.uuid4())
    named = form.get("assistant", "")
    try:
        run = await start_run(
            visit.services, visit.caller, thread_id, await _asked(visit, named, form)
        )
    except SurgetankError as error:
        return await _form(
            visit, form.get("thread", ""), named, refused=str(error), code=error.http_status
        )
    except Problem as problem:
        if problem.status >= 500:
            raise
        return await _form(
            visit,
            form.get("thread", ""),
            named,
            refused=f"{problem.detail} {problem.remedy}",
            code=problem.status,
        )
    return RedirectResponse(url("thread", id=run.thread_id, run=run.run_id), 303)


async def _asked(visit: Visit, named: str, form: Mapping[str, str]) -> dict[str, Any]:
    taken = await _taken(visit, named)
    if taken.problem:
        raise forms.FormRefused(taken.problem, remedy="mend the graph, then try again.")
    asked: dict[str, Any] = {
        "assistant_id": named, "input": forms.read(taken.inputs, form) if taken.inputs else {},
        "if_not_exists": "create", "stream_mode": ["values", "messages"], "stream_subgraphs": True,
        "multitask_strategy": form.get("strategy") if form.get("strategy") in _STRATEGIES else "enqueue",
    }  # fmt: skip
    if taken.context and (context := forms.read(taken.context, form)):
        asked["context"] = context
    return asked


async def _check(visit: Visit, thread_id: str) -> None:
    who = await allowed_on(visit.services, visit.caller, thread_id, "read")
    await run_in_threadpool(visit.services.visibility.check, who, thread_id)
