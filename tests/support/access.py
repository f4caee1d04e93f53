"""A server with threads of several owners, asked in every role."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from support.http import Server
from support.savers import put
from surgetank.server.access.roles import Role
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status

ROLES = ("nobody", "viewer", "user", "reviewer", "operator", "admin")


def ask(client: httpx.Client, method: str, url: str, body: Any) -> tuple[int, str]:
    """The status of an answer (of a stream, without reading it; of a WebSocket that opens: 101) and
    its media type."""
    if method == "WEBSOCKET":
        headers = (
            {"Authorization": client.headers["authorization"]}
            if "authorization" in client.headers
            else {}
        )
        try:
            with connect(
                str(client.base_url).rstrip("/").replace("http", "ws", 1) + url,
                additional_headers=headers,
            ):
                return 101, ""
        except InvalidStatus as denied:
            return denied.response.status_code, denied.response.headers["content-type"]
    with client.stream(method, url, json=body) as answer:
        return answer.status_code, answer.headers.get("content-type", "")


def furnish(server: Server) -> dict[str, str]:
    """One thread of each kind, a job and a token; what stands for the parameters of paths."""
    saver = server.tank.checkpointer()
    owners = {"own": {"user_id": "ada"}, "foreign": {"user_id": "bob"}, "ownerless": {}}
    states = {name: put(saver, name, {"x": 1}, **owner) for name, owner in owners.items()}
    job = server.tank.flush()
    spare = server.services.tokens.create("spare", Role.VIEWER, by="test")[0]
    error_id = server.tank.log_system_error("odd", "something", thread_id="own")
    accepted = NewRun(
        thread_id="own", assistant_id="agent", owner="ada", kwargs={"webhook": "https://hooks.test"}
    )
    run = server.tank.runs.accept(accepted, actor="ada")
    server.tank.runs.cancel(run.run_id, actor="ada")
    (delivery,) = server.tank.webhooks()
    asked: dict[str, str] = {}
    queue = RunQueue(server.tank.parts.database)
    for name, user in (("own", "ada"), ("foreign", "bob")):
        new = NewRun(thread_id=f"asks {user}", assistant_id="agent", owner=user)
        server.tank.runs.accept(new, actor=user)
        (claimed,) = queue.claim("w", 1)
        question = [{"id": name, "value": "sure?", "task_id": "1", "node": "n"}]
        queue.end(claimed, Status.AWAITING_CHECKPOINT, interrupts=question, actor="w")
        (row,) = server.tank.approvals(thread_id=new.thread_id)
        asked[f"asked {name}"] = str(row.checkpoint_id)
        asked[f"workflow {name}"] = str(row.workflow_id)
    return {
        **asked,
        "assistant": "agent", "namespace": "none", "cron_id": str(uuid.uuid4()),
        "delivery_id": str(delivery.delivery_id),
        **{f"state of {name}": at["configurable"]["checkpoint_id"] for name, at in states.items()},
        "run_id": str(uuid.uuid4()),
        "job_id": job.id, "parked_id": "1", "token_id": spare.id, "error_id": error_id, "user": "some/body",
    }  # fmt: skip
