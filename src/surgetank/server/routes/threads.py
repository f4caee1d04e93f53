"""Threads: made, found, deleted. What a caller may not see is not there."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from surgetank.exceptions import Conflict
from surgetank.server.access.authorizing import AskedRoute, allowed_on
from surgetank.server.access.narrowing import both
from surgetank.server.access.roles import Caller, Role
from surgetank.server.agent.requests import whose
from surgetank.server.agent.state import (
    config_for,
    graph_needed,
    graph_of,
    known_row,
    read_values,
)
from surgetank.server.agent.threads import delete_thread_of
from surgetank.server.agent.wire import json_response, thread_json
from surgetank.server.dependencies import (
    Admin,
    After,
    CurrentCaller,
    Deps,
    Limit,
    VisibleThread,
    signed_in,
)
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented
from surgetank.server.schemas.agent import (
    PrunedAnswer,
    RepairAnswer,
    ThreadAnswer,
    ThreadCreate,
    ThreadPart,
    ThreadPatch,
    ThreadPrune,
    ThreadRepairBody,
    ThreadSearch,
)
from surgetank.server.schemas.answers import Threads
from surgetank.server.services import Services
from surgetank.workflows.threads import ThreadFilter, ThreadRow

_ROUTER: dict[str, Any] = {
    "prefix": "/threads",
    "route_class": AskedRoute,
    "tags": ["threads"],
    "dependencies": signed_in(),
    "responses": documented(401, 403, 404, 409, 422, 429, 503),
}
router = APIRouter(**_ROUTER)
item_router = APIRouter(**_ROUTER)  # after all others: a thread's id may be any text
Name = partial(Query, max_length=2048, pattern=r"^[^\x00]*$")


@router.get("", response_model=Threads)
def threads(
    who: CurrentCaller,
    services: Deps,
    limit: Limit = 50,
    after: After = None,
    owner: Annotated[
        str | None, Name(description="Only threads of this owner (operators).")
    ] = None,
) -> dict[str, Any]:
    """Threads, newest checkpoint first. Viewers, users and reviewers get their own ones, whatever `owner`
    says."""
    whose = owner if who.role.covers(Role.OPERATOR) else who.user
    at = position(after, str, str)
    page = services.threads.page(owner=whose, after=(at[0], at[1]) if at else None, limit=limit)
    let_through = {t.thread_id for t in page.threads}
    if who.filters:
        let_through = services.visibility.readable(who, let_through)
    return {
        "threads": [
            {"thread_id": t.thread_id, "owner": t.owner, "checkpoint_id": t.checkpoint_id,
             "updated_at": t.updated_at, "waiting": t.waiting}
            for t in page.threads
            if t.thread_id in let_through
        ],
        "complete": page.complete,
        "next": cursor(*page.threads[-1].position) if page.more else None,
    }  # fmt: skip


@router.post("", response_model=ThreadAnswer)
async def create_thread(body: ThreadCreate, who: CurrentCaller, services: Deps) -> Response:
    """Make a thread, which is the caller's. `if_exists: do_nothing` gives one that is there."""
    thread_id = body.thread_id or str(uuid.uuid4())
    rows = services.tank.threads.rows
    ttl = body.ttl.lifetime() if body.ttl is not None else services.tank.lifetimes.default
    if body.thread_id and body.if_exists == "do_nothing" and services.project_auth is not None:
        there = await run_in_threadpool(services.owners.of, body.thread_id)
        actions = ("read", "update") if body.supersteps else ("read",)
        if there.exists:
            who = await allowed_on(services, who, body.thread_id, *actions)

    def make() -> ThreadRow:
        # an id that was just drawn is nobody's
        ownership = services.owners.of(thread_id) if body.thread_id else None
        if ownership is not None and ownership.exists:
            there = rows.find(thread_id)
            if body.if_exists == "do_nothing":
                services.visibility.check(who, thread_id)
                # one that only checkpoints know until now
                return there or rows.create(
                    thread_id, owner=ownership.owner, metadata=body.metadata, ttl=ttl
                )
            if there is None and services.visibility.reads(who, thread_id):
                return rows.create(
                    thread_id, owner=ownership.owner, metadata=body.metadata, ttl=ttl
                )
        row = rows.create(thread_id, owner=who.user, metadata=body.metadata, ttl=ttl)
        services.owners.forget_thread(thread_id)
        return row

    row = await run_in_threadpool(make)
    if body.supersteps:
        await _write_supersteps(services, row, body.supersteps)
        return json_response(thread_json(row, await read_values(services, row)))
    return json_response(thread_json(row))


async def _write_supersteps(
    services: Services, row: ThreadRow, supersteps: list[dict[str, Any]]
) -> None:
    from langgraph.types import StateUpdate  # noqa: PLC0415 - needs the extra

    config = config_for(row.thread_id)
    async with graph_of(services, row, config) as graph:
        if graph is None:
            raise graph_needed()
        steps = [
            [
                StateUpdate(_values_of(update), update.get("as_node"))
                for update in step.get("updates", ())
            ]
            for step in supersteps
        ]
        await graph.abulk_update_state({"configurable": config}, steps)


def _values_of(update: Mapping[str, Any]) -> Any:
    from surgetank.workflows.execution import command_of  # noqa: PLC0415 - needs the extra

    return command_of(update["command"]) if update.get("command") else update.get("values")


@router.post("/search", response_model=list[ThreadPart])
async def search_threads(body: ThreadSearch, who: CurrentCaller, services: Deps) -> Response:
    """Threads of the caller, of all for administrators, newest first. `values` are compared with
    the state as it was flushed last."""
    wanted = _filter(body, who)
    if wanted is None:
        return json_response([])
    rows = await run_in_threadpool(
        services.tank.threads.rows.search,
        wanted,
        sort_by=body.sort_by or "created_at",
        ascending=body.sort_order == "asc",
        limit=body.limit + 1,
        offset=body.offset,
    )
    wants_values = (body.select is None or "values" in body.select) or bool(body.extract)
    found = []
    for row in rows[: body.limit]:
        shown = thread_json(row, await read_values(services, row) if wants_values else None)
        if body.extract:
            shown["extracted"] = {n: _extract(shown, path) for n, path in body.extract.items()}
        if body.select is not None:
            shown = {
                n: v for n, v in shown.items() if n in {*body.select, "thread_id", "extracted"}
            }
        found.append(shown)
    more = {"X-Pagination-Next": str(body.offset + body.limit)} if len(rows) > body.limit else {}
    return json_response(found, headers=more)


@router.post("/count", response_model=int)
async def count_threads(body: ThreadSearch, who: CurrentCaller, services: Deps) -> Response:
    """How many threads there are."""
    wanted = _filter(body, who)
    if wanted is None:
        return json_response(0)
    return json_response(await run_in_threadpool(services.tank.threads.rows.count, wanted))


def _filter(body: ThreadSearch, who: Caller) -> ThreadFilter | None:
    """None where no thread can be what is wanted."""
    metadata = both(body.metadata, who.filters.get("threads"))
    if metadata is None:
        return None
    return ThreadFilter(
        owner=whose(who), ids=body.ids, status=body.status, metadata=metadata, values=body.values
    )


def _extract(value: Any, path: str) -> Any:
    """A part of a thread, as `values.messages[-1].content` names it."""
    for name, index in re.findall(r"([^.\[\]]+)|\[(-?\d+)\]", path):
        try:
            value = value[int(index)] if index else value[name]
        except (KeyError, IndexError, TypeError):
            return None
    return value


@router.post("/prune", response_model=PrunedAnswer)
async def prune_threads(body: ThreadPrune, who: CurrentCaller, services: Deps) -> Response:
    """Delete threads, or all their states but the newest. Those that are not the caller's are left
    out."""
    mine = await run_in_threadpool(services.visibility.readable, who, body.thread_ids)
    threads = [name for name in dict.fromkeys(body.thread_ids) if name in mine]
    for thread_id in threads:
        if body.strategy == "delete":
            await run_in_threadpool(delete_thread_of, services, who, thread_id)
        else:
            await services.tank.checkpointer().aprune([thread_id], strategy="keep_latest")
    return json_response({"pruned_count": len(threads)})


@item_router.post("/{thread_id:name}/copy", response_model=ThreadAnswer)
async def copy_thread(thread_id: VisibleThread, who: CurrentCaller, services: Deps) -> Response:
    """A new thread with all states of this one."""
    row = await known_row(services, thread_id)
    new = str(uuid.uuid4())
    made = await run_in_threadpool(
        services.tank.threads.rows.create,
        new,
        owner=(await run_in_threadpool(services.owners.of, thread_id)).owner or who.user,
        metadata=row.metadata if row is not None else None,
        ttl=services.tank.lifetimes.default,
    )
    await services.tank.checkpointer().acopy_thread(thread_id, new)
    return json_response(thread_json(made, await read_values(services, made)))


@item_router.post(
    "/{thread_id:name}/repair", response_model=RepairAnswer, responses=documented(403)
)
def repair_thread(
    who: Admin, thread_id: VisibleThread, body: ThreadRepairBody, services: Deps
) -> RepairAnswer:
    """What holds a thread that is stuck; with `dry_run: false` it is let go of. `forget` gives up
    what it asks people. Done twice it does nothing more."""
    done = services.tank.threads.repair(
        thread_id, actor=who.user, dry_run=body.dry_run, forget=body.forget
    )
    return RepairAnswer.model_validate(done)


@item_router.get("/{thread_id:name}", response_model=ThreadAnswer)
async def get_thread(thread_id: VisibleThread, services: Deps) -> Response:
    """A thread with its newest values."""
    row = await known_row(services, thread_id)
    if row is None:  # made by a program with a checkpointer: shown as it would be
        row = await run_in_threadpool(adopted, services, thread_id)
    return json_response(thread_json(row, await read_values(services, row)))


@item_router.patch("/{thread_id:name}", response_model=ThreadAnswer)
async def patch_thread(
    thread_id: VisibleThread,
    body: ThreadPatch,
    services: Deps,
    prefer: Annotated[str | None, Header(description="`return=minimal`: 204, no body.")] = None,
) -> Response:
    """Add to the metadata of a thread, or let it live for another time from now on."""
    if await known_row(services, thread_id) is None:
        await run_in_threadpool(adopted, services, thread_id)
    ttl = body.ttl.lifetime() if body.ttl is not None else None
    patch = services.tank.threads.rows.patch
    row = await run_in_threadpool(patch, thread_id, body.metadata or {}, ttl)
    if "return=minimal" in (prefer or "").replace(" ", "").lower():
        return Response(status_code=204)
    return json_response(thread_json(row, await read_values(services, row)))


@item_router.delete("/{thread_id:name}", status_code=204)
async def delete_thread(thread_id: VisibleThread, who: CurrentCaller, services: Deps) -> Response:
    """Delete a thread with its states, runs, events and lines. 409 while a run is under way."""
    await known_row(services, thread_id)
    await run_in_threadpool(delete_thread_of, services, who, thread_id)
    return Response(status_code=204)


def adopted(services: Services, thread_id: str) -> ThreadRow:
    """A row for a thread that only its checkpoints know."""
    rows = services.tank.threads.rows
    owner = services.owners.of(thread_id).owner
    try:
        return rows.create(thread_id, owner=owner)
    except Conflict:
        row = rows.find(thread_id)
        assert row is not None
        return row
