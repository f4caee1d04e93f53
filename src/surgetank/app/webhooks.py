"""`tank.webhooks`: what is sent to other servers when a run ends, and the log of it."""

from __future__ import annotations

import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from surgetank.app.assembly import Parts
from surgetank.encode import jsontext
from surgetank.events.streams import END
from surgetank.exceptions import DatabaseUnavailable, SurgetankError
from surgetank.service import Background
from surgetank.streams.errors.groups import ErrorReport
from surgetank.telemetry import log
from surgetank.workflows.meters import RunMeters
from surgetank.workflows.webhooks.log import Webhook, WebhookLog, WebhookStatus
from surgetank.workflows.webhooks.post import key_of
from surgetank.workflows.webhooks.sender import SendingPolicy, WebhookSender
from surgetank.workflows.webhooks.targets import AllowedTargets

_EVERY_S = 2.0  # how often is looked for what other processes left
_FORGET_EVERY_S = 60.0
_END_WITHIN_S = 2.0


class Webhooks:
    """The webhooks of this database. Everything but `check_url` raises `DatabaseUnavailable`."""

    def __init__(
        self,
        parts: Parts,
        meters: RunMeters,
        *,
        state_of: Callable[[str, str], Mapping[str, Any] | None],
    ) -> None:
        self._parts = parts
        self._meters = meters
        self._state_of = state_of
        self._deliveries = WebhookLog(parts.database)

    def __call__(
        self,
        *,
        owner: str | None = None,
        status: WebhookStatus | None = None,
        run_id: uuid.UUID | None = None,
        before: int | None = None,
        limit: int = 100,
    ) -> Sequence[Webhook]:
        """Deliveries, newest first: of one owner or of all, of one run, those before a `seq`."""
        return self._deliveries.list(
            owner=owner, status=status, run_id=run_id, before=before, limit=limit
        )

    def get(self, delivery_id: uuid.UUID) -> Webhook:
        """One delivery. Raises `WebhookNotFound`."""
        return self._deliveries.get(delivery_id)

    def retry(self, delivery_id: uuid.UUID) -> Webhook:
        """Send one that waits or has failed as soon as a sender looks. Raises `WebhookNotFound`,
        `WebhookDelivered`."""
        return self._deliveries.retry(delivery_id, more=self._parts.settings.webhook_attempts)

    def check_url(self, url: str) -> None:
        """Raise `WebhookRefused` for a URL that can't be a webhook's. Asks nobody: what its name
        points to is checked when it is sent."""
        AllowedTargets(self._parts.settings.webhook_allow).check_url(url)

    def waiting(self) -> tuple[int, float]:
        """How many are not delivered yet, and for how many seconds the oldest waits."""
        return self._deliveries.waiting()

    def deliver_due(self) -> int:
        """Send what is due, a few at once, and wait for the answers: how many there were."""
        return self._sender().step()

    def service(self) -> WebhookService:
        """Sends what is due in the background."""
        return WebhookService(self._sender(), tell=self._parts.tell_of_runs)

    def _sender(self) -> WebhookSender:
        settings = self._parts.settings
        return WebhookSender(
            self._deliveries,
            rules=AllowedTargets(settings.webhook_allow),
            keys=[key_of(secret.get_secret_value()) for secret in settings.webhook_secret],
            policy=SendingPolicy(
                timeout_s=settings.webhook_timeout,
                attempts=settings.webhook_attempts,
                keep_s=settings.webhooks_keep,
            ),
            values_of=self._values_of,
            on_failed=self._failed,
            count=self._meters.webhook,
            clock=self._parts.clock,
        )

    def _values_of(self, delivery: Webhook) -> Any:
        """The state that the run left: from what it sent where its thread went with it, else the
        thread's state, if no other run has changed it since. None when it can't be reached."""
        run_id, thread_id = str(delivery.run_id), delivery.thread_id
        try:
            state = self._state_of(thread_id, run_id)
            if state is None and self._goes_with_its_thread(delivery):
                return self._sent_at_the_end(thread_id, run_id)
            return state
        except Exception as error:  # noqa: BLE001 - whatever a state is made of, its end is told
            log.info("webhook_without_values", run=run_id, error=type(error).__name__)
            return None

    @staticmethod
    def _goes_with_its_thread(delivery: Webhook) -> bool:
        run = delivery.run or {}
        return bool(run.get("kwargs", {}).get("on_completion") == "delete")

    def _sent_at_the_end(self, thread_id: str, run_id: str) -> Any:
        # Its end is recorded, and sent a moment later; where another machine ran it, not here.
        limit = time.monotonic() + _END_WITHIN_S
        while not self._parts.run_room.streams.has_ended(run_id) and time.monotonic() < limit:
            time.sleep(0.02)
        after, found = 0, None
        while events := self._parts.run_room.streams.read(
            thread_id, run_id=run_id, after=after
        ).events:
            after = events[-1].seq
            found = next((e for e in events if e.event == END), found)
        return jsontext.loads(found.data).get("values") if found is not None else None

    def _failed(self, delivery: Webhook, why: str) -> None:
        """Tell the operators, in one group for each target."""
        try:
            self._parts.reporting.errors.report(
                ErrorReport(
                    error_type="webhook_failed",
                    message=f"A webhook to {delivery.target} was not delivered: {why}.",
                    thread_id=delivery.thread_id,
                    context={
                        "delivery_id": str(delivery.delivery_id), "run_id": str(delivery.run_id),
                        "target": delivery.target, "attempts": delivery.attempts,
                    },
                )
            )  # fmt: skip
        except SurgetankError as error:  # its row says so too
            log.warning("webhook_failure_not_told", error=error.what)


class WebhookService:
    """Sends webhooks between `start` and `stop`, at once when it is woken."""

    def __init__(
        self, sender: WebhookSender, *, tell: Callable[[BaseException, str], None]
    ) -> None:
        self._sender = sender
        self._tell = tell
        self._woken = threading.Event()
        self._thread = Background("surgetank-webhooks", self._work)

    @property
    def running(self) -> bool:
        """True while it works."""
        return self._thread.running

    def start(self) -> None:
        """Start sending. Does nothing if it runs."""
        self._thread.start()

    def stop(self, within_s: float | None = None) -> bool:
        """End after what is being sent now. False if that took too long."""
        self._thread.stop(0.0)
        self._woken.set()
        return self._thread.stop(within_s)

    def wake(self) -> None:
        """Look now for what is due. May be called on any thread."""
        self._woken.set()

    def _work(self, stop: threading.Event) -> None:
        rounds = 0
        while not stop.is_set():
            self._woken.clear()
            try:
                if rounds % (_FORGET_EVERY_S // _EVERY_S) == 0:
                    self._sender.forget_old()
                rounds += 1
                if self._sender.step():
                    continue
            except DatabaseUnavailable:
                pass  # what is due stays due
            except Exception as error:  # noqa: BLE001 - told to the operators; the others are still sent
                self._tell(error, traceback.format_exc())
            self._woken.wait(_EVERY_S)
