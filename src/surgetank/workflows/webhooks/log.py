"""The log of deliveries, which is the queue of what is still to be sent."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.jsontext import dumps
from surgetank.exceptions import InvalidRequest, WebhookDelivered, WebhookNotFound
from surgetank.workflows.webhooks.targets import WebhookTarget

SQL = queries("workflows/webhooks/webhooks.sql")
_TRIES_KEPT = 20
_FORGOTTEN_AT_ONCE = 1000


class WebhookStatus(StrEnum):
    """How far a delivery is."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """One webhook of one run. `tries` are the newest attempts: `at`, `seconds`, `status_code`,
    `error`.

    `url` may hold secrets and is not shown; `target` is. `run` is None once it is delivered.
    """

    delivery_id: uuid.UUID
    seq: int
    run_id: uuid.UUID
    thread_id: str
    owner: str | None
    url: str
    status: WebhookStatus
    attempts: int
    max_attempts: int | None
    tries: Sequence[Mapping[str, Any]]
    due_at: datetime
    created_at: datetime
    ended_at: datetime | None
    run: Mapping[str, Any] | None

    @property
    def target(self) -> str:
        """Scheme, host and port."""
        try:
            return WebhookTarget.of(self.url).origin
        except InvalidRequest:
            return "(not a URL)"

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Webhook:
        """From a row of the table."""
        known = {name: row[name] for name in cls.__slots__}
        return cls(**{**known, "status": WebhookStatus(row["status"])})


class WebhookLog:
    """Deliveries in PostgreSQL; any number of processes may share it. Everything raises
    `DatabaseUnavailable`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, most: int, *, most_of_host: int, lease_s: float) -> list[Webhook]:
        """Take up to `most` that are due; others get them when `lease_s` is over."""
        arguments = {"most": most, "most_of_host": most_of_host, "lease_s": lease_s}
        return [Webhook.of(row) for row in self._rows("claim", arguments)]

    def record(
        self,
        delivery: Webhook,
        status: WebhookStatus,
        attempt: Mapping[str, Any],
        *,
        pause_s: float = 0.0,
    ) -> bool:
        """Keep what came of an attempt; False when somebody else had it meanwhile."""
        arguments = {
            "delivery_id": delivery.delivery_id, "attempts": delivery.attempts,
            "status": status.value, "attempt": Jsonb([dict(attempt)], dumps=dumps),
            "pause_s": pause_s, "kept": _TRIES_KEPT,
        }  # fmt: skip
        return bool(self._rows("record", arguments))

    def list(
        self,
        *,
        owner: str | None = None,
        status: WebhookStatus | None = None,
        run_id: uuid.UUID | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[Webhook]:
        """Deliveries, newest first: of one owner or of all, of one run, those before a `seq`."""
        arguments = {
            "owner": owner, "status": status.value if status is not None else None,
            "run_id": run_id, "before": before, "limit": limit,
        }  # fmt: skip
        return [Webhook.of(row) for row in self._rows("list", arguments)]

    def get(self, delivery_id: uuid.UUID) -> Webhook:
        """One delivery. Raises `WebhookNotFound`."""
        rows = self._rows("get", {"delivery_id": delivery_id})
        if not rows:
            raise WebhookNotFound(
                f"There is no webhook delivery {delivery_id}.",
                remedy="see GET /webhooks/deliveries.",
            )
        return Webhook.of(rows[0])

    def retry(self, delivery_id: uuid.UUID, *, more: int) -> Webhook:
        """Let it be sent now, and up to `more` times. Raises `WebhookNotFound`, `WebhookDelivered`."""
        rows = self._rows("retry", {"delivery_id": delivery_id, "more": more})
        if not rows:
            self.get(delivery_id)
            raise WebhookDelivered(
                f"The webhook {delivery_id} was delivered, and what it said is not kept.",
                remedy="ask for the run itself.",
            )
        return Webhook.of(rows[0])

    def forget(self, keep_s: float) -> None:
        """Delete some of those that ended longer ago."""
        with self._database.reading() as connection:
            connection.execute(SQL["forget"], {"keep_s": keep_s, "most": _FORGOTTEN_AT_ONCE})

    def waiting(self) -> tuple[int, float]:
        """How many are not delivered yet, and for how many seconds the oldest waits."""
        (row,) = self._rows("counts", {})
        return row["waiting"], float(row["oldest_s"])

    def _rows(self, name: str, arguments: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()
