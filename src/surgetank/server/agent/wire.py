"""Our rows as clients of the Agent Server API know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from surgetank.encode.jsontext import dumps
from surgetank.workflows.threads import ThreadRow

_CONFIG_SHOWN = ("thread_id", "checkpoint_id", "checkpoint_ns", "checkpoint_map")


def json_response(
    body: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON of anything, sanitized where it has to be."""
    return Response(dumps(body), status, headers=dict(headers or {}), media_type="application/json")


def thread_json(row: ThreadRow, values: Any = None) -> dict[str, Any]:
    """A thread."""
    shown = {
        "thread_id": row.thread_id,
        "created_at": row.created_at.isoformat(),
        "updated_at": row.updated_at.isoformat(),
        "state_updated_at": row.updated_at.isoformat(),
        "metadata": dict(row.metadata),
        "config": dict(row.config),
        "status": row.status,
        "values": values,
        "interrupts": interrupts_by_task(row.interrupts),
        "error": row.error,
    }
    if row.ttl_minutes is not None:
        shown["ttl"] = {
            "strategy": row.ttl_strategy,
            "ttl_minutes": row.ttl_minutes,
            "expires_at": row.expires_at.isoformat() if row.expires_at is not None else None,
        }
    return shown


def interrupts_by_task(interrupts: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What a thread asks, by the task that asks it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for each in interrupts:
        shown = {name: each[name] for name in ("id", "value", "response_schema") if name in each}
        found.setdefault(str(each.get("task_id", "")), []).append(shown)
    return found


def state_json(state: Any) -> dict[str, Any]:
    """LangGraph's `StateSnapshot`."""
    return {
        "values": state.values,
        "next": list(state.next),
        "tasks": [_task(task) for task in state.tasks],
        "checkpoint": address_of(state.config),
        "parent_checkpoint": address_of(state.parent_config) if state.parent_config else None,
        "metadata": dict(state.metadata or {}),
        "created_at": state.created_at,
        "interrupts": [interrupt_json(each) for each in state.interrupts],
    }


def interrupt_json(interrupt: Any) -> dict[str, Any]:
    """LangGraph's `Interrupt`."""
    body = {"value": interrupt.value, "id": interrupt.id}
    if interrupt.response_schema is not None:
        body["response_schema"] = interrupt.response_schema
    return body


def _task(task: Any) -> dict[str, Any]:
    nested = task.state
    is_config = isinstance(nested, Mapping)
    return {
        "id": task.id,
        "name": task.name,
        "path": list(task.path),
        "error": repr(task.error) if task.error is not None else None,
        "interrupts": [interrupt_json(each) for each in task.interrupts],
        "checkpoint": address_of(nested) if is_config else None,
        "state": state_json(nested) if nested is not None and not is_config else None,
        "result": task.result,
    }


def address_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Where a state is."""
    configurable = config.get("configurable") or {}
    found = {name: configurable[name] for name in _CONFIG_SHOWN if name in configurable}
    return {"checkpoint_ns": "", "checkpoint_id": None, **found}
