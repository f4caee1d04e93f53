"""Commands of the event streaming protocol: `run.start`, `input.respond`, `agent.getTree`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from surgetank.exceptions import (
    CheckpointAnswered,
    CheckpointNotFound,
    InvalidRequest,
    ThreadNotFound,
)
from surgetank.server.access.authorizing import allowed_command
from surgetank.server.access.roles import Caller, Role
from surgetank.server.agent.requests import accept_run
from surgetank.server.agent.thread_events import STEP
from surgetank.server.http.problems import Problem, check_role
from surgetank.server.schemas.agent import ProtocolCommand, RunCreate
from surgetank.server.services import Services
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

_MODES = ["values", "updates", "messages-tuple", "tasks", "checkpoints", "custom"]
_CAMEL = {
    "assistantId": "assistant_id", "multitaskStrategy": "multitask_strategy", "runId": "run_id",
    "interruptBefore": "interrupt_before", "interruptAfter": "interrupt_after",
    "checkpointId": "checkpoint_id", "afterSeconds": "after_seconds", "webhookUrl": "webhook",
    "ifNotExists": "if_not_exists", "onDisconnect": "on_disconnect", "strictResume": "strict_resume",
}  # fmt: skip
Params = dict[str, Any]


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def carry_out(
    services: Services, who: Caller, thread_id: str, command: ProtocolCommand
) -> dict[str, Any]:
    """Do what a command says; the answer is an error of the protocol when it can't be done.

    Raises `Problem` and errors of the family where a request without the protocol would, too: a
    thread that is not the caller's, a database that is away, a quota.
    """
    does = _COMMANDS.get(command.method)
    if does is None:
        services.visibility.check(who, thread_id)
        return refusal(
            command.id, "unknown_command", f"There is no command {command.method[:100]!r}."
        )
    # Events of what is started here come after this number.
    seq = services.streams.log.read(thread_id, limit=1).last * STEP + STEP - 1
    try:
        result = does(services, who, thread_id, _snake(command.params or {}))
    except _Refused as error:
        return refusal(command.id, error.code, str(error))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        return refusal(command.id, "invalid_argument", f"{at}: {first['msg']}")
    except (CheckpointNotFound, CheckpointAnswered) as error:
        return refusal(command.id, "no_such_interrupt", str(error))
    except InvalidRequest as error:
        return refusal(command.id, "invalid_argument", str(error))
    except Problem as problem:
        if problem.status != 422:
            raise
        return refusal(command.id, "invalid_argument", problem.detail)
    return {
        "type": "success", "id": command.id, "result": result, "meta": {"applied_through_seq": seq},
    }  # fmt: skip


def refusal(id_: int | None, code: str, message: str) -> dict[str, Any]:
    """An error of the protocol."""
    return {"type": "error", "id": id_, "error": code, "message": message}


async def allowed(
    services: Services, who: Caller, thread_id: str, command: ProtocolCommand
) -> tuple[Caller, ProtocolCommand]:
    """The caller and the command, as the project's handlers leave them. Raises `Problem`."""
    starts = command.method in _STARTING
    if starts:
        check_role(who, Role.USER)
    params = _snake(command.params or {})
    who, params = await allowed_command(services, who, thread_id, params, starts=starts)
    return who, command.model_copy(update={"params": params})


def _snake(params: Mapping[str, Any]) -> Params:
    return {_CAMEL.get(name, name): value for name, value in params.items()}


def _start(services: Services, who: Caller, thread_id: str, params: Params) -> Params:
    """A run whose events all channels are made from."""
    asked = {
        **params, "stream_mode": _MODES, "stream_subgraphs": True,
        "if_not_exists": params.get("if_not_exists") or "create",
    }  # fmt: skip
    run = accept_run(services, who, RunCreate.model_validate(asked), thread_id)
    services.owners.forget_thread(thread_id)  # it may be new
    return {"run_id": str(run.run_id)}


def _respond(services: Services, who: Caller, thread_id: str, params: Params) -> Params:
    """A run with the answers to what the thread asks."""
    services.visibility.check(who, thread_id)
    given = params.get("responses", [params])
    resume: Params = {}
    for each in given if isinstance(given, list) else ():
        if not isinstance(each, dict) or not isinstance(each.get("interrupt_id"), str):
            raise _Refused("invalid_argument", "Each response names its interrupt_id.")
        resume[each["interrupt_id"]] = each.get("response")
    if not resume:
        raise _Refused("invalid_argument", "There is no response.")
    last = _last(services, thread_id)
    row = services.tank.threads.rows.find(thread_id)
    asked = {str(each.get("id")) for each in row.interrupts} if row is not None else set()
    missing = sorted(resume if last is None else resume.keys() - asked)
    if last is None or missing:
        raise _Refused("no_such_interrupt", f"The thread does not ask {missing[0][:100]!r}.")
    command = {"resume": resume} | {n: params[n] for n in ("update", "goto") if n in params}
    again: Params = {"assistant_id": last.assistant_id, "command": command}
    again |= {name: params[name] for name in ("config", "metadata") if name in params}
    return _start(services, who, thread_id, again)


def _tree(services: Services, who: Caller, thread_id: str, params: Params) -> Params:
    """The graph of the thread's newest run, and how it is with it."""
    services.visibility.check(who, thread_id)
    runs = services.tank.runs.of_thread(thread_id, limit=100)
    wanted = params.get("run_id")
    run = next((r for r in runs if wanted is None or str(r.run_id) == wanted), None)
    if run is None:
        if services.tank.threads.rows.find(thread_id) is None:
            raise ThreadNotFound(f"There is no thread {thread_id!r}.", remedy="list the threads.")
        raise _Refused("no_such_run", "The thread has no such run.")
    return {"tree": {"namespace": [], "status": _STATUS[run.status], "graph_name": run.graph}}


def _last(services: Services, thread_id: str) -> Run | None:
    return next(iter(services.tank.runs.of_thread(thread_id, limit=1)), None)


_STATUS = {
    Status.PENDING: "started", Status.RUNNING: "running", Status.AWAITING_CHECKPOINT: "interrupted",
    Status.COMPLETED: "completed", Status.FAILED: "failed", Status.CANCELLED: "failed",
}  # fmt: skip
_STARTING = ("run.start", "input.respond")
_COMMANDS: dict[str, Callable[[Services, Caller, str, Params], Params]] = {
    "run.start": _start,
    "input.respond": _respond,
    "agent.getTree": _tree,
}
