"""Crons: runs that are accepted at their times, on a thread or each on one of its own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.narrowing import both, contains
from surgetank.server.access.roles import Caller, Role
from surgetank.server.agent.assistants import chosen
from surgetank.server.agent.requests import given_of, uuid_of, whose
from surgetank.server.agent.wire import json_response
from surgetank.server.dependencies import CurrentCaller, Deps, VisibleThread, signed_in
from surgetank.server.http.problems import documented, not_found
from surgetank.server.schemas.assistants import (
    CronAnswer,
    CronCreate,
    CronPart,
    CronPatch,
    CronSearch,
)
from surgetank.server.services import Services
from surgetank.workflows.crons import Cron, CronFilter, NewCron
from surgetank.workflows.threads import not_there
from surgetank.workflows.wire import shown

router = APIRouter(
    route_class=AskedRoute,
    tags=["crons"],
    dependencies=signed_in(),
    responses=documented(401, 403, 404, 409, 422, 429, 503),
)


def _json(cron: Cron) -> dict[str, Any]:
    def at(time: Any) -> str | None:
        return time.isoformat() if time is not None else None

    return {
        "cron_id": str(cron.cron_id), "assistant_id": cron.assistant_id, "thread_id": cron.thread_id,
        "on_run_completed": cron.on_run_completed, "end_time": at(cron.end_time),
        "schedule": cron.schedule, "timezone": cron.timezone, "created_at": at(cron.created_at),
        "updated_at": at(cron.updated_at), "payload": shown(cron.payload), "user_id": cron.owner,
        "next_run_date": at(cron.next_run_date) if cron.enabled else None,
        "metadata": dict(cron.metadata), "enabled": cron.enabled, "last_error": cron.last_error,
    }  # fmt: skip


def _create(services: Services, who: Caller, body: CronCreate, thread_id: str | None) -> Response:
    assistant = chosen(services, who, body.assistant_id)
    owner: str | None = who.user
    if thread_id is not None:  # who may read it without owning it works for its owner
        ownership = services.owners.of(thread_id)
        if not ownership.exists:
            raise not_there(thread_id)
        owner = ownership.owner
    if body.webhook is not None:
        services.tank.webhooks.check_url(body.webhook)
    new = NewCron(
        assistant_id=assistant.id,
        graph_id=assistant.graph_id,
        schedule=body.schedule,
        owner=owner,
        thread_id=thread_id,
        timezone=body.timezone,
        end_time=body.end_time,
        enabled=body.enabled is not False,
        on_run_completed=body.on_run_completed or "delete",
        metadata=body.metadata or {},
        payload={**body.payload(), **given_of(who)},
    )
    return json_response(_json(services.tank.crons.create(new, actor=who.user)))


def _cron(services: Services, who: Caller, cron_id: str) -> Cron:
    """A cron of the caller. Raises `Problem` 404."""
    cron = services.tank.crons.get(uuid_of(cron_id, "cron_id"))
    let_through = contains(cron.metadata, who.filters.get("crons", {}))
    if not let_through or (who.role is not Role.ADMIN and cron.owner != who.user):
        raise not_found("cron", cron_id)
    return cron


@router.post("/runs/crons", response_model=CronAnswer)
def create(body: CronCreate, who: CurrentCaller, services: Deps) -> Response:
    """Run an assistant at times, each run on a thread of its own."""
    return _create(services, who, body, None)


@router.post("/threads/{thread_id:name}/runs/crons", response_model=CronAnswer)
def create_on_thread(
    thread_id: VisibleThread, body: CronCreate, who: CurrentCaller, services: Deps
) -> Response:
    """Run an assistant on a thread at times. With the thread the cron goes."""
    return _create(services, who, body, thread_id)


def _wanted(who: Caller, body: CronSearch) -> CronFilter | None:
    """None where no cron can be what is wanted."""
    metadata = both(body.metadata, who.filters.get("crons"))
    if metadata is None:
        return None
    return CronFilter(
        owner=whose(who), assistant_id=body.assistant_id, thread_id=body.thread_id,
        enabled=body.enabled, metadata=metadata,
    )  # fmt: skip


@router.post("/runs/crons/search", response_model=list[CronPart])
def search(body: CronSearch, who: CurrentCaller, services: Deps) -> Response:
    """The caller's crons, the newest first. Administrators find all."""
    wanted = _wanted(who, body)
    found = [] if wanted is None else services.tank.crons.search(
        wanted, sort_by=body.sort_by or "created_at", ascending=body.sort_order == "asc",
        limit=body.limit, offset=body.offset,
    )  # fmt: skip
    page = [_json(cron) for cron in found]
    if body.select is not None:
        page = [{n: each[n] for n in body.select if n in each} for each in page]
    return json_response(page)


@router.post("/runs/crons/count", response_model=int)
def count(body: CronSearch, who: CurrentCaller, services: Deps) -> int:
    """How many there are."""
    wanted = _wanted(who, body)
    return 0 if wanted is None else services.tank.crons.count(wanted)


@router.patch("/runs/crons/{cron_id}", response_model=CronAnswer)
def change(cron_id: str, body: CronPatch, who: CurrentCaller, services: Deps) -> Response:
    """Change a cron; its next time is counted from now on."""
    cron = _cron(services, who, cron_id)
    if body.webhook is not None:
        services.tank.webhooks.check_url(body.webhook)
    changed = services.tank.crons.change(cron.cron_id, body.changes(), actor=who.user)
    return json_response(_json(changed))


@router.delete("/runs/crons/{cron_id}", status_code=204)
def delete(cron_id: str, who: CurrentCaller, services: Deps) -> Response:
    """Delete a cron. Its runs stay."""
    cron = _cron(services, who, cron_id)
    services.tank.crons.delete(cron.cron_id, actor=who.user)
    return Response(status_code=204)
