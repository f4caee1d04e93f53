"""Threads: the list, a state, the history. What a caller may not see is not there."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import StringConstraints
from starlette.responses import Response

from surgetank.encode.sanitize import encode_clean
from surgetank.server.access.roles import Role
from surgetank.server.dependencies import (
    After,
    CurrentCaller,
    Deps,
    Limit,
    VisibleThread,
    signed_in,
)
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import Problem, documented, not_found
from surgetank.server.schemas.answers import History, State, Threads
from surgetank.server.shown import Shown, head_of, values_of, writes_of

router = APIRouter(
    prefix="/threads",
    tags=["threads"],
    dependencies=signed_in(),
    responses=documented(401, 404, 422, 429, 503),
)
Name = partial(Query, max_length=2048, pattern=r"^[^\x00]*$")
Namespace = Annotated[str, Name(description="The checkpoint namespace; empty for the root graph.")]
ValueBytes = Annotated[
    int, Query(ge=64, le=4 * 1024 * 1024, description="Larger values are cut short.")
]
Channel = Annotated[str, StringConstraints(min_length=1, max_length=2048, pattern=r"^[^\x00]+$")]
MAX_HISTORY = 100


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
    """Threads, newest checkpoint first. Viewers and reviewers get their own ones, whatever `owner`
    says."""
    whose = owner if who.role.covers(Role.OPERATOR) else who.user
    at = position(after, str, str)
    page = services.threads.page(owner=whose, after=(at[0], at[1]) if at else None, limit=limit)
    return {
        "threads": [
            {"thread_id": t.thread_id, "owner": t.owner, "checkpoint_id": t.checkpoint_id,
             "updated_at": t.updated_at, "waiting": t.waiting}
            for t in page.threads
        ],
        "complete": page.complete,
        "next": cursor(*page.threads[-1].position) if page.more else None,
    }  # fmt: skip


@router.get("/{thread_id:name}/state", response_model=State)
def state(
    thread_id: VisibleThread,
    services: Deps,
    checkpoint_id: Annotated[
        str | None, Name(description="Which checkpoint; the newest without it.")
    ] = None,
    ns: Namespace = "",
    value_bytes: ValueBytes = 256 * 1024,
) -> Response:
    """The thread's newest state, or an older one, with what tasks wrote on top of it.

    Values are JSON: what JSON can't carry is replaced, what is too large is left out or cut to its
    tail, and both are named beside it. Nothing is changed in what is stored.
    """
    raw = services.stored.read(thread_id, ns, checkpoint_id or None)
    if raw is None:
        raise not_found(
            "checkpoint of the thread", thread_id, remedy="see GET /threads/{thread_id}/history."
        )
    shown = Shown(value_bytes)
    body = {
        "thread_id": thread_id,
        **head_of(raw, shown),
        "values": values_of(raw, raw.record.present, shown),
        "pending_writes": writes_of(raw, shown),
        "omitted": shown.omitted,
        "replaced": shown.replaced,
    }
    return _json(body)


@router.get("/{thread_id:name}/history", response_model=History)
def history(
    thread_id: VisibleThread,
    services: Deps,
    limit: Annotated[
        int, Query(ge=1, le=MAX_HISTORY, description="Most checkpoints in one answer.")
    ] = 20,
    after: After = None,
    ns: Namespace = "",
    channel: Annotated[
        list[Channel], Query(max_length=50, description="Channels whose values to show.")
    ] = [],  # noqa: B006
    value_bytes: ValueBytes = 16 * 1024,
) -> Response:
    """The thread's checkpoints, newest first, without their values unless channels are named."""
    at = position(after, str)
    found = services.stored.history(
        thread_id, ns, before=at[0] if at else None, limit=limit, channels=channel
    )
    shown, checkpoints = Shown(value_bytes), list[dict[str, Any]]()
    for raw in found:
        values = values_of(raw, channel, shown) if channel else None
        checkpoints.append({**head_of(raw, shown), "values": values})
    if not checkpoints and at is None:
        raise not_found("thread", thread_id, remedy="see GET /threads for those that you may see.")
    return _json(
        {
            "thread_id": thread_id,
            "checkpoints": checkpoints,
            "omitted": shown.omitted,
            "replaced": shown.replaced,
            "next": cursor(checkpoints[-1]["checkpoint_id"])
            if found.more and checkpoints
            else None,
        }
    )


def _json(body: dict[str, Any]) -> Response:
    """Values may hold integers of any size, which not every encoder takes."""
    try:
        return Response(encode_clean(body), media_type="application/json")
    except RecursionError as error:
        raise Problem(
            422,
            "too-deep",
            "The state is nested too deeply to be shown.",
            remedy="read it with the checkpointer.",
        ) from error
