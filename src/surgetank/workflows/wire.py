"""A run as clients of the Agent Server API and receivers of webhooks know it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgetank.workflows.runs import Run
from surgetank.workflows.status import wire_status

_OWN = "__"  # keys of ours in `kwargs`


def run_json(run: Run) -> dict[str, Any]:
    """A run."""
    body: dict[str, Any] = {
        "run_id": str(run.run_id),
        "thread_id": run.thread_id,
        "assistant_id": run.assistant_id,
        "status": wire_status(run.status, timed_out=run.timed_out),
        "metadata": dict(run.metadata),
        "kwargs": shown(run.kwargs),
        "multitask_strategy": run.multitask_strategy.value,
        "created_at": run.created_at.isoformat(),
        "updated_at": run.updated_at.isoformat(),
        "workflow_id": str(run.workflow_id),
        "attempt": run.attempts,
        "error": run.error,
    }
    if run.cancel_action is not None:
        body["cancel_reason"] = f"{run.cancel_action.value} by {run.cancel_actor or 'nobody known'}"
    return body


def shown(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a run is given, without what is ours."""
    return {name: value for name, value in kwargs.items() if not name.startswith(_OWN)}
