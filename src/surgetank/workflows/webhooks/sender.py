"""Sends what is due, many at once, and decides when it is tried again.

At least once: a sender that dies after the other side took it sends it again, with the same
`Webhook-Id`.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from surgetank import tracing
from surgetank.exceptions import WebhookRefused
from surgetank.telemetry import log
from surgetank.workflows.webhooks.log import Webhook, WebhookLog, WebhookStatus
from surgetank.workflows.webhooks.payload import body_of, run_of
from surgetank.workflows.webhooks.post import SendResult, post, signed
from surgetank.workflows.webhooks.targets import AllowedTargets, WebhookTarget

_AT_ONCE, _OF_HOST = 8, 4
_LEASE_S = 120.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 5.0, 6 * 3600.0


@dataclass(frozen=True, slots=True)
class SendingPolicy:
    """How long one attempt may take, how many there are, and how long the log is kept."""

    timeout_s: float = 10.0
    attempts: int = 10
    keep_s: float = 7 * 86_400.0

    def pause_s(self, attempts: int) -> float:
        """The pause after so many attempts: 5 seconds, then four times as long each time."""
        return min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 4.0 ** min(attempts - 1, 10))


class WebhookSender:
    """Sends deliveries. Safe to use from several threads and processes.

    `values_of` gives the state that a run left, None when it can't be reached. `on_failed` is given
    what can't be delivered for good, and why; `count` the outcome of each attempt (`delivered`,
    `retried`, `failed`).
    """

    def __init__(
        self,
        deliveries: WebhookLog,
        *,
        rules: AllowedTargets,
        keys: Sequence[bytes] = (),
        policy: SendingPolicy = SendingPolicy(),
        values_of: Callable[[Webhook], Any] = lambda _: None,
        on_failed: Callable[[Webhook, str], None] = lambda *_: None,
        count: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._deliveries = deliveries
        self._rules = rules
        self._keys = tuple(keys)
        self._policy = policy
        self._values_of = values_of
        self._on_failed = on_failed
        self._clock = clock
        self._count = count

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def step(self) -> int:
        """Send what is due now; how many there were. Raises `DatabaseUnavailable`."""
        claimed = self._deliveries.claim(_AT_ONCE, most_of_host=_OF_HOST, lease_s=_LEASE_S)
        if not claimed:
            return 0
        with ThreadPoolExecutor(len(claimed), thread_name_prefix="surgetank-webhook") as threads:
            list(threads.map(self._deliver, claimed))
        return len(claimed)

    def forget_old(self) -> None:
        """Delete what has ended long ago. Raises `DatabaseUnavailable`."""
        self._deliveries.forget(self._policy.keep_s)

    def _deliver(self, delivery: Webhook) -> None:
        most = delivery.max_attempts or self._policy.attempts
        began = time.monotonic()
        if delivery.attempts > most:  # the last one's sender died
            answer = SendResult(error="whoever sent it went away", final=True)
        else:
            answer = self._attempt(delivery)
        attempt = {
            "at": datetime.fromtimestamp(self._clock(), UTC).isoformat(),
            "seconds": round(time.monotonic() - began, 3),
            "status_code": answer.status,
            "error": answer.error,
        }
        if answer.ok:
            status, outcome, pause = WebhookStatus.DELIVERED, "delivered", 0.0
        elif answer.final or delivery.attempts >= most:
            status, outcome, pause = WebhookStatus.FAILED, "failed", 0.0
            # Before it is recorded: who dies in between says it twice, not never.
            self._on_failed(delivery, answer.error or "")
        else:
            status, outcome = WebhookStatus.PENDING, "retried"
            pause = max(answer.pause_s or 0.0, self._policy.pause_s(delivery.attempts))
        self._count(outcome)
        self._deliveries.record(delivery, status, attempt, pause_s=pause)
        log.info(
            "webhook", delivery=str(delivery.delivery_id), run=str(delivery.run_id),
            target=delivery.target, outcome=outcome, status=answer.status, attempt=delivery.attempts,
            error=answer.error,
        )  # fmt: skip

    def _attempt(self, delivery: Webhook) -> SendResult:
        try:
            return self._send(delivery)
        except Exception as error:  # noqa: BLE001 - told when it fails for good; the others are still sent
            return SendResult(error=f"it could not be made: {type(error).__name__}")

    def _send(self, delivery: Webhook) -> SendResult:
        try:
            target = self._rules.check_url(delivery.url)
        except WebhookRefused as error:
            return SendResult(error=error.what, final=True)
        now = self._clock()
        sent_at = datetime.fromtimestamp(now, UTC).isoformat()
        body = body_of(run_of(delivery.run or {}), self._values_of(delivery), sent_at=sent_at)
        context = tracing.clean((delivery.run or {}).get("kwargs", {}).get(tracing.KEY) or {})
        with tracing.span(
            "webhook", parent=context, kind="client", thread_id=delivery.thread_id,
            run_id=str(delivery.run_id), target=target.origin, attempt=delivery.attempts,
        ) as span:  # fmt: skip
            answer = self._post(delivery, target, body, int(now), tracing.carrier() or context)
            span.set("http.status_code", answer.status)
            if not answer.ok:
                span.fail("not_delivered")
            return answer

    def _post(
        self,
        delivery: Webhook,
        target: WebhookTarget,
        body: bytes,
        now: int,
        context: Mapping[str, str],
    ) -> SendResult:
        headers = {
            **context,
            "Content-Type": "application/json",
            "User-Agent": "surgetank-webhooks",
            **signed(f"msg_{delivery.delivery_id}", now, body, self._keys),
        }
        return post(
            target,
            body,
            headers,
            rules=self._rules,
            timeout_s=self._policy.timeout_s,
            tls=self._tls,
        )
