"""Clients of runs over HTTP that do what people do, again until it is acknowledged, and remember that; and the
comparison of what they were told with what there is.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg

from support.plant import MARKED, Plant, check_marks
from surgetank import Surgetank

PATIENCE_S = 120.0
# A node marks when it begins and ends, so that two of one thread at once are seen.
PROJECT = (
    MARKED
    + """
import asyncio, operator
from typing import Annotated, Any, TypedDict
from langchain_core.runnables import RunnableConfig
from langgraph.config import get_stream_writer
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

async def speak(config, name):
    with marked(config, name):
        for number in range(4):
            get_stream_writer()({"node": name, "number": number})
            await asyncio.sleep(0.03)

async def work(state, config: RunnableConfig):
    await speak(config, "work")
    return {"said": ["worked"]}

def ask(state):
    return {"said": [interrupt("go on?")]}

async def carry_out(state, config: RunnableConfig):
    await speak(config, "carry_out")
    return {"said": ["done"]}

agent = StateGraph(State).add_node(work).add_node(ask).add_node(carry_out)
agent.add_edge(START, "work").add_edge("work", "ask").add_edge("ask", "carry_out")
"""
)


@dataclass
class Client:
    """Does with threads what people do, again until it is acknowledged, and remembers that."""

    url: str
    chance: random.Random
    over: threading.Event
    # thread, run, and what became of it as far as this client was told
    accepted: list[tuple[str, str]] = field(default_factory=list)
    rolled_back: set[str] = field(default_factory=set)
    cancelled: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)  # it had ended before, or the answer was lost
    decided: dict[str, str] = field(default_factory=dict)  # by question, what was answered
    followed: int = 0
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20))

    def work(self) -> None:
        while not self.over.is_set():
            thread = self.ask(
                "POST", "/threads", {"thread_id": str(uuid.uuid4()), "if_exists": "do_nothing"}
            )
            thread_id = thread["thread_id"]
            run = str(uuid.uuid4())
            body = {
                "assistant_id": "agent",
                "input": {"said": []},
                "run_id": run,
                "stream_mode": "custom",
            }
            self.ask("POST", f"/threads/{thread_id}/runs", body)
            self.accepted.append((thread_id, run))
            match self.chance.choice(
                ["cancel", "rollback", "follow", "answer", "answer", "answer"]
            ):
                case "follow":
                    self.follow(thread_id, run)
                case "answer":
                    self.answer(thread_id)
                case action:
                    time.sleep(self.chance.uniform(0.0, 0.4))
                    self.cancel(thread_id, run, "rollback" if action == "rollback" else "interrupt")

    def cancel(self, thread_id: str, run: str, action: str) -> None:
        path = f"/threads/{thread_id}/runs/{run}/cancel?action={action}"
        # 404: it has ended before, or an answer that was lost in a kill said that it is cancelled
        if self.ask("POST", path, None, (404,)) is not None:
            (self.rolled_back if action == "rollback" else self.cancelled).add(run)
            self.settled(thread_id)
        else:
            self.unsure.add(run)

    def answer(self, thread_id: str) -> None:
        """Answer what the thread asks, by one of the two doors."""
        self.settled(thread_id)
        found = self.ask("GET", f"/user-checkpoints?thread_id={thread_id}&status=pending", None)
        (question,) = found["user_checkpoints"]
        given = f"answer {uuid.uuid4()}"
        number = question["checkpoint_id"]
        if self.chance.random() < 0.5:
            body: dict[str, Any] = {"action": "respond", "response": given}
            self.ask("POST", f"/user-checkpoints/{number}/resolve", body, (409,))
        else:
            run = str(uuid.uuid4())
            command = {"resume": {question["interrupt_id"]: given}}
            body = {"assistant_id": "agent", "command": command, "run_id": run}
            if self.ask("POST", f"/threads/{thread_id}/runs", body, (409,)) is not None:
                self.accepted.append((thread_id, run))
        # refused as answered: by this client's own request, whose answer was lost
        self.decided[number] = given
        self.settled(thread_id)

    def follow(self, thread_id: str, run: str) -> None:
        """All events of a run, each once, however often the stream breaks."""
        path = f"/threads/{thread_id}/runs/{run}/stream"
        last, ids, names = "-1", list[int](), list[str]()
        limit = time.monotonic() + PATIENCE_S
        while "end" not in names:
            assert time.monotonic() < limit, f"{path} does not end: {names}"
            try:
                headers = {"Last-Event-ID": last}
                with self.http.stream(
                    "GET", f"{self.url}{path}", headers=headers, timeout=10
                ) as answer:
                    if answer.status_code != 200:
                        raise httpx.ReadError(str(answer.status_code))
                    name = ""
                    for line in answer.iter_lines():
                        if line.startswith("event: "):
                            name = line[7:]
                        elif line.startswith("id: "):
                            last = line[4:]
                            ids.append(int(last))
                            names.append(name)
                        elif not line and name == "end":
                            names.append(name)
            except httpx.TransportError:
                time.sleep(0.1)
        assert "gap" not in names
        assert len(set(ids)) == len(ids), ids
        assert ids == sorted(ids), ids
        self.followed += 1

    def settled(self, thread_id: str) -> None:
        """Until no run of the thread is under way or waits for a worker."""
        limit = time.monotonic() + PATIENCE_S
        while self.ask("GET", f"/threads/{thread_id}", None)["status"] == "busy":
            assert time.monotonic() < limit, f"the thread {thread_id} stays busy"
            time.sleep(0.05)

    def ask(self, method: str, path: str, body: Any, others: tuple[int, ...] = ()) -> Any:
        """An answer; None for one of the `others`. Asked again until there is one."""
        limit = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.http.request(method, f"{self.url}{path}", json=body)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code in others:
                return None
            if answer is not None and answer.status_code < 300:
                return answer.json() if answer.content else {}
            refused = answer.text if answer is not None else "no connection"
            assert answer is None or answer.status_code in (429, 503), (method, path, refused)
            assert time.monotonic() < limit, (method, path, refused)
            time.sleep(0.05)


def is_at_rest(url: str) -> bool:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "SELECT count(*) FROM surgetank.runs WHERE status IN ('pending', 'running')"
        ).fetchone()
    return row == (0,)


def check(
    tank: Surgetank, plant: Plant, clients: list[Client], url: str, *, alone: bool = True
) -> str:
    """Compare what clients were told with what there is. `alone`: nobody stood still for longer than his lease
    lasts, so that no two were ever in nodes of one thread."""
    runs = rows(
        url, "SELECT run_id::text, thread_id, status, workflow_id, attempts FROM surgetank.runs"
    )
    by_id = {row[0]: row for row in runs}
    rolled_back = set[str]().union(*(client.rolled_back for client in clients))
    cancelled = set[str]().union(*(client.cancelled for client in clients))
    unsure = set[str]().union(*(client.unsure for client in clients))
    accepted = [each for client in clients for each in client.accepted]
    for thread, run in accepted:
        if run in rolled_back:
            assert run not in by_id, "a run that was rolled back is there"
            continue
        if run in unsure:  # both are right
            continue
        status = by_id[run][2]  # a KeyError is a run that was lost
        expected = ("cancelled",) if run in cancelled else ("completed", "awaiting_checkpoint")
        assert status in expected, (thread, run, status)
    decided = {q: given for client in clients for q, given in client.decided.items()}
    questions = rows(
        url, "SELECT checkpoint_id::text, thread_id, status FROM surgetank.user_checkpoints"
    )
    for question, thread, status in questions:
        if question not in decided:
            continue
        assert status not in ("pending", "expired"), (question, status)
        said = values(tank, thread)["said"]
        assert said.count(decided[question]) == 1, (thread, said, decided[question])
        assert said[-1] == "done", (thread, said)
    assert set(decided) <= {row[0] for row in questions}
    check_threads(url)
    assert tank.audit.verify().sound
    again = sum(row[4] - 1 for row in runs)
    marks = check_marks(plant.marks, plant.killed_at, alone=alone)
    begun = [node for nodes in marks.values() for node in nodes]
    repeated = len(begun) - len(set(begun))  # nodes run at least once
    followed = sum(client.followed for client in clients)
    return (
        f"{len(accepted)} runs acknowledged, {len(decided)} answers, {len(cancelled)} cancelled, "
        f"{len(rolled_back)} rolled back, {followed} streams followed, {again} runs taken over, "
        f"{repeated} of {len(begun)} nodes run again, 0 lost"
    )


def check_threads(url: str) -> None:
    """The state of each thread is what its newest run and its questions say."""
    wrong = rows(
        url,
        "SELECT t.thread_id, t.status, t.running_run, n.status, q.open FROM surgetank.thread_status t"
        " LEFT JOIN LATERAL (SELECT r.status FROM surgetank.runs r WHERE r.thread_id = t.thread_id"
        "  ORDER BY r.seq DESC LIMIT 1) n ON true"
        " CROSS JOIN LATERAL (SELECT count(*) AS open FROM surgetank.user_checkpoints c"
        "  WHERE c.thread_id = t.thread_id AND c.status = 'pending') q"
        " WHERE t.running_run IS NOT NULL OR t.status IN ('busy', 'error')"
        "  OR (n.status = 'completed' AND (t.status <> 'idle' OR q.open > 0))"
        "  OR (n.status = 'awaiting_checkpoint' AND (t.status <> 'interrupted' OR q.open <> 1))"
        "  OR (n.status IS NULL AND (t.status <> 'idle' OR q.open > 0))",
    )
    assert wrong == []
    flows = rows(
        url,
        "SELECT w.workflow_id, w.status, r.status FROM surgetank.workflows w JOIN LATERAL ("
        " SELECT status FROM surgetank.runs r WHERE r.workflow_id = w.workflow_id ORDER BY seq DESC LIMIT 1"
        ") r ON true WHERE w.status <> r.status",
    )
    assert flows == []


def values(tank: Surgetank, thread: str) -> dict[str, Any]:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": thread}})
    assert found is not None
    state: dict[str, Any] = found.checkpoint["channel_values"]
    return state


def rows(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()
