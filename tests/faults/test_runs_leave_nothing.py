"""After runs have ended nothing of them is in the memory of the process that served, ran and followed them:
no object for each of them, and no collection that grew with them. 10,000 runs in `make torture`.
"""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from weakref import ref

import httpx
import pytest

from support.http import Server, running
from support.projects import MakeProject
from support.tanks import MakeTank
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.bounded import BoundedMap
from surgetank.workflows.graphs.config import load
from surgetank.workflows.graphs.graph_set import GraphSet

CLIENTS = KINDS = 8
# What is made once, when it is first needed, grows in one round; what runs leave grows in each. Connections and
# threads come and go by chance, also three times in a row: more rounds tell them from what is left.
ROUNDS, MOST_ROUNDS = 3, 8
RUNS, WARM = (3_336, 800) if "SURGETANK_TORTURE_SEEDS" in os.environ else (160, 160)
PROJECT = """
import operator
from typing import Annotated, Any, TypedDict
from langgraph.graph import START, StateGraph
from langgraph.types import interrupt

class State(TypedDict, total=False):
    said: Annotated[list[Any], operator.add]

def node(state):
    match state["said"][-1:]:
        case ["fail"]:
            raise ValueError("as asked")
        case ["ask"]:
            return {"said": [interrupt("what?")]}
    return {"said": ["done"]}

agent = StateGraph(State).add_node(node).add_edge(START, "node")
"""


@contextmanager
def served(tank: Surgetank, project: MakeProject) -> Iterator[Server]:
    """A server that works on runs, in this process."""
    config = load(project({"p.py": PROJECT}, {"agent": "./p.py:agent"}))
    graphs = GraphSet(config, checkpointer=tank.checkpointer())
    with running(tank, graphs=graphs, no_auth=True) as server:
        service = tank.runs.service(graphs, most=20)
        service.start()
        try:
            yield server
        finally:
            assert service.stop(30)


def run_each(url: str, numbers: range) -> None:
    """One run after the other, in all the ways in which they are started and end."""
    with httpx.Client(base_url=url, timeout=60) as http:
        for number in numbers:
            kind = number % KINDS
            said = {3: "fail", 4: "ask"}.get(kind, f"go {number}")
            body = {"assistant_id": "agent", "input": {"said": [said]}, "if_not_exists": "create"}
            thread = f"/threads/t{number}"
            if kind == 0:
                answer = http.post("/runs/wait", json=body)
            elif kind == 1:
                answer = http.post(f"{thread}/runs/stream", json={**body, "stream_mode": "updates"})
            elif kind in (2, 3, 4):
                answer = http.post(f"{thread}/runs/wait", json=body)
            else:
                answer = http.post(f"{thread}/runs", json=body)
                run = answer.json()["run_id"]
                if kind == 5:
                    http.post(f"{thread}/runs/{run}/cancel", params={"wait": True})
                elif kind == 6:
                    http.post(f"{thread}/runs/{run}/cancel", params={"action": "rollback"})
                answer = http.get(f"{thread}/runs/{run}/join")
                assert kind != 7 or answer.status_code == 200, answer.text
                continue
            assert answer.status_code == 200, answer.text


def some(url: str, first: int, count: int) -> None:
    share = count // CLIENTS
    with ThreadPoolExecutor(CLIENTS) as pool:
        shares = [range(first + n * share, first + (n + 1) * share) for n in range(CLIENTS)]
        for each in [pool.submit(run_each, url, numbers) for numbers in shares]:
            each.result()


def in_memory() -> Counter[str]:
    """How many objects of each type there are, and how long collections of each type are together.

    Without what is bounded by itself: maps with a bound; of SQLite's connections the statements, and the
    references to cursors, which they tidy when there are 200.
    """
    for _ in range(3):  # what is untracked in one is seen in the next
        gc.collect()
    everything = gc.get_objects()
    bounded = {
        id(part)
        for each in everything
        if type(each) is BoundedMap
        for part in (each._entries, *inside(each._entries))
    }
    count = Counter[str]()
    for each in everything:
        name = f"{type(each).__module__}.{type(each).__qualname__}"
        if type(each) is ref or name == "sqlite3.Statement" or id(each) in bounded:
            continue
        count[name] += 1
        if type(each) in (dict, list, set, deque, OrderedDict, defaultdict):
            if isinstance(each, list) and all(type(part) is ref for part in each):
                continue
            count[f"length of {name}"] += len(each)
    return count


def inside(each: object, depth: int = 2) -> Iterator[object]:
    """What it holds."""
    for part in gc.get_referents(each):
        if isinstance(part, type) or not gc.is_tracked(part):
            continue
        yield part
        if depth:
            yield from inside(part, depth - 1)


@pytest.mark.timeout(3600)
def test_nothing_of_runs_that_ended_is_in_memory(make_tank: MakeTank, project: MakeProject) -> None:
    tank = make_tank(flush_in_process=True)
    told, grown, left = [], Counter[str](), Counter[str]()
    with served(tank, project) as server:
        some(server.url, 0, WARM)
        at_rest(tank)
        before = in_memory()
        for number in range(MOST_ROUNDS):
            began = time.monotonic()
            some(server.url, WARM + number * RUNS, RUNS)
            told.append(f"{RUNS} runs in {time.monotonic() - began:.0f} s")
            at_rest(tank)
            after = in_memory()
            more = Counter({name: count - before[name] for name, count in after.items()})
            grown = Counter({n: min(m, more[n]) for n, m in grown.items()}) if number else more
            before = after
            left = Counter({n: least for n, least in grown.items() if least > RUNS / (2 * KINDS)})
            if number + 1 >= ROUNDS and not left:
                break
    print(f"{', '.join(told)}; {sum(after.values())} in memory, grown each time: {dict(left)}")
    assert not left


def at_rest(tank: Surgetank) -> None:
    """Everything has ended and is in the database."""
    wait_until(lambda: not tank.runs.counts(), "all runs to end", 60)
    assert tank.flush().ok
    wait_until(lambda: tank.status().buffer.entries == 0, "the buffer to be empty", 60)
    wait_until(lambda: threading.active_count() < 200, "threads to end", 60)
