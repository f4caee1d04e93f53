"""What a webhook says: the run as the Agent Server API has it, when it began and ended, and the
state that it left. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgetank.encode.jsontext import dumps
from surgetank.workflows.status import Status, wire_status

MAX_VALUES = 4 * 1024 * 1024
_OWN = "__"  # keys of ours in `kwargs`


def body_of(run: Mapping[str, Any], values: Any, *, sent_at: str) -> bytes:
    """The JSON of a row of `runs` that ended. Values that are too large are left out, and it says
    so."""
    timed_out = bool(run.get("timed_out"))
    said: dict[str, Any] = {
        **{name: run.get(name) for name in ("run_id", "thread_id", "assistant_id", "metadata")},
        "status": wire_status(Status(run["status"]), timed_out=timed_out),
        "multitask_strategy": run.get("multitask_strategy"),
        "kwargs": {
            name: value
            for name, value in (run.get("kwargs") or {}).items()
            if not name.startswith(_OWN)
        },
        "created_at": run.get("created_at"),
        "updated_at": run.get("updated_at"),
        "run_started_at": run.get("started_at"),
        "run_ended_at": run.get("ended_at"),
        "webhook_sent_at": sent_at,
        "values": values,
    }
    if run["status"] == Status.CANCELLED:
        said["cancel_reason"] = run.get("cancel_action")
    if run["status"] == Status.AWAITING_CHECKPOINT:
        said["awaiting_checkpoint"] = True
    if run.get("error") is not None:
        said["error"] = _error(str(run["error"]), timed_out=timed_out)
    body = dumps(said)
    if values is not None and len(body) > MAX_VALUES:
        return dumps(said | {"values": None, "values_omitted": True})
    return body


def _error(text: str, *, timed_out: bool) -> dict[str, str]:
    kind, _, message = text.partition(": ")
    if message and kind.isidentifier():
        return {"error": kind, "message": message}
    return {"error": "TimeoutError" if timed_out else "Error", "message": text}
