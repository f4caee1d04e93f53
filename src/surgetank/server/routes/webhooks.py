"""Webhooks that were sent or wait to be: of the caller's own runs, for operators of all."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query

from surgetank.server.access.authorizing import AskedRoute
from surgetank.server.access.roles import Caller, Role
from surgetank.server.dependencies import After, CurrentCaller, Deps, Limit, signed_in
from surgetank.server.http.paging import cursor, position
from surgetank.server.http.problems import documented, not_found
from surgetank.server.schemas.webhooks import WebhookDeliveries, WebhookDelivery
from surgetank.workflows.webhooks.log import Webhook, WebhookStatus

router = APIRouter(
    route_class=AskedRoute,
    prefix="/webhooks/deliveries",
    tags=["webhooks"],
    dependencies=signed_in(),
    responses=documented(401, 404, 422, 429, 503),
)


def _sees_all(who: Caller) -> bool:
    return who.role.covers(Role.OPERATOR)


@router.get("", response_model=WebhookDeliveries)
def deliveries(
    services: Deps,
    who: CurrentCaller,
    limit: Limit = 50,
    after: After = None,
    status: Annotated[WebhookStatus | None, Query(description="Only these.")] = None,
    run_id: Annotated[UUID | None, Query(description="Only of this run.")] = None,
) -> dict[str, Any]:
    """Webhooks, newest first: each attempt with its status code or error."""
    at = position(after, int)
    found = services.tank.webhooks(
        owner=None if _sees_all(who) else who.user,
        status=status,
        run_id=run_id,
        before=max(0, min(at[0], 2**62)) if at else None,
        limit=limit + 1,
    )
    shown = found[:limit]
    seen = services.visibility.let_through(who, [each.thread_id for each in shown])
    return {
        "deliveries": [
            WebhookDelivery.model_validate(each) for each in shown if each.thread_id in seen
        ],
        "next": cursor(shown[-1].seq) if len(found) > limit else None,
    }


@router.post("/{delivery_id}/retry", response_model=WebhookDelivery, responses=documented(409))
def retry(delivery_id: UUID, services: Deps, who: CurrentCaller) -> Webhook:
    """Send one that waits or has failed again, as soon as a worker looks. 409 when it was
    delivered."""
    webhooks = services.tank.webhooks
    there = webhooks.get(delivery_id)
    is_theirs = _sees_all(who) or there.owner == who.user
    if not is_theirs or not services.visibility.let_through(who, [there.thread_id]):
        raise not_found(
            "webhook delivery", str(delivery_id), remedy="see GET /webhooks/deliveries."
        )
    return webhooks.retry(delivery_id)
