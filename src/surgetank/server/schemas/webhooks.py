"""The shapes of deliveries of webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from surgetank.workflows.webhooks.log import WebhookStatus

_DELIVERY: dict[str, Any] = {
    "delivery_id": "5f3a0f5c-3d0e-4f0a-9a53-0f5a8f6f3c11",
    "run_id": "1f0c5e1a-7c1e-4b50-8004-5a1b2c3d4e5f",
    "thread_id": "chat-7",
    "target": "https://hooks.example.org",
    "status": "pending",
    "attempts": 1,
    "tries": [
        {
            "at": "2026-11-21T09:00:00+00:00",
            "seconds": 0.2,
            "status_code": 503,
            "error": "it answered 503",
        }
    ],
    "created_at": "2026-11-21T09:00:00Z",
    "due_at": "2026-11-21T09:00:05Z",
    "ended_at": None,
}


class DeliveryTry(BaseModel):
    """One attempt. `status_code` is null where there was no answer, `error` where it was taken."""

    at: datetime
    seconds: float
    status_code: int | None
    error: str | None


class WebhookDelivery(BaseModel):
    """A webhook of a run: where to, and what came of it. The URL's path may be a secret and is not
    shown."""

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_DELIVERY]})

    delivery_id: UUID
    run_id: UUID
    thread_id: str
    target: str
    status: WebhookStatus
    attempts: int
    tries: list[DeliveryTry] = Field(description="The newest attempts, 20 at most, in order.")
    created_at: datetime
    due_at: datetime = Field(description="When it is sent next, while it is pending.")
    ended_at: datetime | None


class WebhookDeliveries(BaseModel):
    """Deliveries, newest first."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"deliveries": [_DELIVERY], "next": None}]}
    )

    deliveries: list[WebhookDelivery]
    next: str | None = Field(description="Pass it as `after` for the next page; null at the end.")
