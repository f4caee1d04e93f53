"""The last step of `surgetank demo`: a run waits for a person, its worker is killed, and the answer
arrives once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from surgetank.app.surgetank import Surgetank
from surgetank.cli.output import out
from surgetank.workflows.graphs.config import assistant_id
from surgetank.workflows.runs import NewRun
from surgetank.workflows.status import Status

if TYPE_CHECKING:
    from langgraph.graph import StateGraph

_THREAD = "demo-approval"
Wait = Callable[[Callable[[], bool], str], None]


class Mail(TypedDict, total=False):
    """The state of the graph."""

    to: str
    sent: str


def mail() -> StateGraph[Mail]:
    """A graph that asks before it sends mail."""
    from langgraph.graph import START, StateGraph  # noqa: PLC0415 - needs the extra
    from langgraph.types import interrupt  # noqa: PLC0415

    def send(state: Mail) -> Mail:
        request = {"name": "send_mail", "args": {"to": state.get("to", "nobody")}}
        rules = {"action_name": "send_mail", "allowed_decisions": ["approve", "edit", "reject"]}
        answer = interrupt({"action_requests": [request], "review_configs": [rules]})
        (decision,) = answer["decisions"]
        args = decision.get("edited_action", request)["args"]
        return {"sent": "not sent" if decision["type"] == "reject" else f"sent to {args['to']}"}

    return StateGraph(Mail).add_node("send", send).add_edge(START, "send")


def show_approval(tank: Surgetank, folder: Path, wait: Wait) -> dict[str, Any]:
    """Play it on an open engine."""
    config = folder / "demo-langgraph.json"
    named = {"graphs": {"mail": "surgetank.cli.demo_approval:mail"}, "dependencies": []}
    config.write_text(json.dumps(named))
    new = NewRun(
        thread_id=_THREAD,
        assistant_id=str(assistant_id("mail")),
        graph_id="mail",
        kwargs={"input": {"to": "everybody@example.com"}},
    )
    with _worker(folder, config) as worker:
        run = tank.runs.accept(new, actor="demo")
        wait(lambda: bool(tank.approvals(thread_id=_THREAD)), "the question")
        (question,) = tank.approvals(thread_id=_THREAD)
        out.print(f"   the graph asks: {question.actions[0]['name']} {question.actions[0]['args']}")
        worker.kill()
        worker.wait()
        out.print("   its worker is killed (kill -9). The question stays:")
    (same,) = tank.approvals(thread_id=_THREAD, status="pending")
    out.print(f"   {same.step_name} waits since {same.created_at:%H:%M:%S}, allowed: "
              f"{', '.join(same.offer.allowed)}")  # fmt: skip
    decided, resumed = tank.approvals.resolve(
        same.checkpoint_id, "edit", edited={"to": "ada@example.com"}, actor="you"
    )
    assert resumed is not None
    with _worker(folder, config):
        over = (Status.COMPLETED, Status.FAILED)
        wait(lambda: tank.runs.get(resumed.run_id).status in over, "the run to end")
    ended = tank.runs.get(resumed.run_id)
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": _THREAD}})
    sent = found.checkpoint["channel_values"].get("sent") if found is not None else None
    steps = [row["action"] for row in tank.runs.audit(run.workflow_id)]
    out.print(f"   {decided.status} by {decided.resolved_by}; the run is {ended.status}: {sent}")
    out.print(f"   the audit: {', '.join(steps)}")
    return {"decision": decided.status, "run": ended.status.value, "sent": sent, "audit": steps}


@contextmanager
def _worker(home: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of runs as a process of its own, with no setting but the demo's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SURGETANK_")}
    command = [sys.executable, "-m", "surgetank", "worker", "--home", str(home), "--config", str(config)]  # fmt: skip
    process = subprocess.Popen(  # noqa: S603 - ourselves
        command, env=own, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
