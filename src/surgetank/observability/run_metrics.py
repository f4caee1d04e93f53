"""The metrics of runs, approvals and webhooks: gauges from the database, counters and histograms from
`RunMeters`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgetank.app.surgetank import Surgetank
from surgetank.flush.meters import Durations
from surgetank.observability.specs import Spec, from_zero
from surgetank.workflows.meters import RUN_SECONDS, WEBHOOK_OUTCOMES
from surgetank.workflows.status import Status

RUN_METRICS: Mapping[str, Spec] = {
    "surgetank_runs": Spec("gauge", "Runs that wait (pending) or are under way.", ("status",)),
    "surgetank_runs_oldest_age_seconds": Spec(
        "gauge", "How long the oldest run that waits could have begun."
    ),
    "surgetank_approvals_open": Spec("gauge", "User checkpoints that wait for people."),
    "surgetank_approvals_last_day": Spec(
        "gauge", "User checkpoints that ended within a day.", ("outcome",)
    ),
    "surgetank_approval_decision_seconds": Spec(
        "gauge", "How long people took to decide, within a day.", ("quantile",)
    ),
    "surgetank_webhooks_waiting": Spec("gauge", "Webhooks that are not delivered yet."),
    "surgetank_webhooks_oldest_age_seconds": Spec("gauge", "Age of the oldest of them."),
    "surgetank_runs_ended_total": Spec(
        "counter", "Attempts of runs that ended, or were given back (pending).", ("status",)
    ),
    "surgetank_run_wait_seconds": Spec(
        "histogram", "From when a run could have begun until a worker had it."
    ),
    "surgetank_run_seconds": Spec("histogram", "How long attempts of runs took.", ("status",)),
    "surgetank_run_takeovers_total": Spec(
        "counter", "Runs that were taken from workers that went silent."
    ),
    "surgetank_webhook_attempts_total": Spec(
        "counter", "Attempts of this process to send a webhook.", ("outcome",)
    ),
}
_ENDS = (
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
    Status.AWAITING_CHECKPOINT,
    Status.PENDING,
)
_OUTCOMES = ("approved", "edited", "rejected", "responded", "ignored", "expired", "superseded")


def read_runs(tank: Surgetank) -> dict[str, Sequence[Any]]:
    """What the database says of runs, approvals and webhooks."""
    figures = tank.run_figures()
    return {
        "surgetank_runs": [
            ((status,), float(figures.runs.get(status, 0))) for status in ("pending", "running")
        ],
        "surgetank_runs_oldest_age_seconds": [((), figures.queue_oldest_s)],
        "surgetank_approvals_open": [((), float(figures.approvals.get("pending", 0)))],
        "surgetank_approvals_last_day": [
            ((outcome,), float(figures.approvals.get(outcome, 0))) for outcome in _OUTCOMES
        ],
        "surgetank_approval_decision_seconds": [
            ((quantile,), seconds) for quantile, seconds in figures.decision_s.items()
        ],
        "surgetank_webhooks_waiting": [((), float(figures.webhooks_waiting))],
        "surgetank_webhooks_oldest_age_seconds": [((), figures.webhooks_oldest_s)],
    }


def read_run_meters(tank: Surgetank) -> dict[str, Sequence[Any]]:
    """What this process did with runs."""
    counts, waited, ran = tank.run_meters.snapshot()

    def of(what: str, labels: Sequence[str]) -> Sequence[Any]:
        found: dict[tuple[str, ...], float] = {
            (label,): float(n) for (kind, label), n in counts.items() if kind == what
        }
        return from_zero([(label,) for label in labels], found)

    ends = [status.value for status in _ENDS]
    return {
        "surgetank_runs_ended_total": of("ended", ends),
        "surgetank_run_wait_seconds": [((), waited)],
        "surgetank_run_seconds": [
            ((status,), ran.get(status) or Durations(bounds=RUN_SECONDS)) for status in ends
        ],
        "surgetank_run_takeovers_total": [((), float(counts.get(("taken_over", ""), 0)))],
        "surgetank_webhook_attempts_total": of("webhooks", WEBHOOK_OUTCOMES),
    }
