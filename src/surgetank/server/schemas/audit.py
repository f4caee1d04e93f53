"""The shapes of answers about the audit, as OpenAPI tells them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field


class AuditRow(BaseModel):
    """Who did what, when and from where. Erased names are null."""

    id: int
    at: str = Field(description="RFC 3339.")
    action: str
    actor: str | None
    origin: str | None = Field(description="A client's address, `cli`, or the name of a node.")
    thread_id: str | None
    workflow_id: str | None
    run_id: str | None
    detail: dict[str, Any]


class AuditRows(BaseModel):
    """A page of the audit, newest first."""

    count: int
    audit: list[AuditRow]
    next: str | None
