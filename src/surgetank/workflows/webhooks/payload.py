"""What a webhook says: the run as the Agent Server API has it, when it began and ended, and the
state that it left. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from surgetank.encode.jsontext import dumps
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status
from surgetank.workflows.wire import run_json

MAX_VALUES = 4 * 1024 * 1024


def body_of(run: Run, values: Any, *, sent_at: str) -> bytes:
    """The JSON of a run that ended. Values that are too large are left out, and it says so."""
    said: dict[str, Any] = {
        **run_json(run),
        "run_started_at": _at(run.started_at),
        "run_ended_at": _at(run.ended_at),
        "webhook_sent_at": sent_at,
        "values": values,
    }
    if run.status is Status.AWAITING_CHECKPOINT:
        said["awaiting_checkpoint"] = True
    if run.error is not None:
        said["error"] = _error(run.error, timed_out=run.timed_out)
    body = dumps(said)
    if values is not None and len(body) > MAX_VALUES:
        return dumps(said | {"values": None, "values_omitted": True})
    return body


def run_of(kept: Mapping[str, Any]) -> Run:
    """The run whose row was kept as JSON."""
    return Run.of({name: _restored(name, kept.get(name)) for name in Run.__slots__})


def _restored(name: str, value: Any) -> Any:
    if value is not None and name.endswith(("_at", "_until")):
        return datetime.fromisoformat(value)
    return UUID(value) if name in ("run_id", "workflow_id") else value


def _at(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None


def _error(text: str, *, timed_out: bool) -> dict[str, str]:
    kind, _, message = text.partition(": ")
    if message and kind.isidentifier():
        return {"error": kind, "message": message}
    return {"error": "TimeoutError" if timed_out else "Error", "message": text}
