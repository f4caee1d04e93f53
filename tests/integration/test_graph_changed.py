"""A graph that was changed while a thread waited in it: people are told, and what can't go on says
so."""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable
from typing import Annotated, Any, TypedDict, cast

from langgraph.graph import END, START, StateGraph
from langgraph.types import interrupt

from surgetank import Surgetank
from surgetank.streams.errors.groups import ErrorGroup
from surgetank.workflows.graphs.shape import Graph
from surgetank.workflows.queue import RunQueue
from surgetank.workflows.runs import NewRun, Run
from surgetank.workflows.status import Status
from surgetank.workflows.structure import Change, changed_since, current_hash, marked


class State(TypedDict, total=False):
    steps: Annotated[list[str], operator.add]


def step(name: str) -> Callable[[State], Any]:
    return lambda _: {"steps": [name]}


def ask(_: State) -> Any:
    return {"steps": [interrupt("go on?")]}


def chain(tank: Surgetank, *names: str) -> Graph:
    """A graph of these nodes in a row; the one called ask, or renamed, asks."""
    builder = StateGraph(State)
    for name in names:
        builder.add_node(name, cast("Any", ask if "ask" in name else step(name)))
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    return cast("Graph", builder.compile(checkpointer=tank.checkpointer()))


def accept(tank: Surgetank, of: Run | None = None, **kwargs: Any) -> Run:
    workflow: dict[str, Any] = {} if of is None else {"workflow_id": of.workflow_id}
    new = NewRun(thread_id="t", assistant_id="agent", kwargs=kwargs, **workflow)
    return tank.runs.accept(new, actor="ada")


def run(tank: Surgetank, graph: Graph, accepted: Run) -> Run:
    """The run, after a worker of this graph had it."""

    async def work() -> None:
        worker, stop = tank.runs.worker({"agent": graph}), asyncio.Event()
        working = asyncio.create_task(worker.work(stop))
        async with asyncio.timeout(30):
            while not over(tank.runs.get(accepted.run_id)):  # noqa: ASYNC110 - its end is in the database
                await asyncio.sleep(0.02)
        stop.set()
        await working

    asyncio.run(work())
    return tank.runs.get(accepted.run_id)


def over(run: Run) -> bool:
    return run.status not in (Status.PENDING, Status.RUNNING)


def warnings(tank: Surgetank) -> list[ErrorGroup]:
    """What operators were told of changed graphs."""
    return [group for group in tank.errors.find().errors if group.error_type == "graph_changed"]


def events(tank: Surgetank) -> list[Any]:
    _, told = tank.events.thread_events("t")
    return [event for event in told if event.type == "graph_changed"]


def saved(tank: Surgetank) -> Any:
    found = tank.checkpointer().get_tuple({"configurable": {"thread_id": "t"}})
    assert found is not None
    return found


def values(tank: Surgetank) -> list[str]:
    return list(saved(tank).checkpoint["channel_values"].get("steps", []))


def waiting(tank: Surgetank, *names: str) -> Run:
    first = run(tank, chain(tank, *names), accept(tank, input={"steps": []}))
    assert first.status is Status.AWAITING_CHECKPOINT
    return first


def test_each_checkpoint_says_of_which_structure_it_is(tank: Surgetank) -> None:
    waiting(tank, "a", "ask", "b")
    graph = chain(tank, "a", "ask", "b")
    for found in tank.checkpointer().list({"configurable": {"thread_id": "t"}}):
        assert found.metadata["graph_hash"] == current_hash(graph)  # type: ignore[typeddict-item]
    assert current_hash(graph) != current_hash(chain(tank, "a", "ask", "c"))


def test_nobody_is_told_where_nothing_changed_or_something_new_begins(tank: Surgetank) -> None:
    first = waiting(tank, "a", "ask")
    again = run(tank, chain(tank, "a", "ask"), accept(tank, first, command={"resume": "yes"}))
    assert again.status is Status.COMPLETED
    assert run(tank, chain(tank, "b"), accept(tank, input={"steps": []})).status is Status.COMPLETED
    assert (warnings(tank), events(tank)) == ([], [])


def test_a_run_that_goes_on_with_a_changed_graph_is_flagged_and_goes_on(tank: Surgetank) -> None:
    first = waiting(tank, "a", "ask", "b")
    again = run(tank, chain(tank, "ask", "c"), accept(tank, first, command={"resume": "yes"}))
    assert again.status is Status.COMPLETED
    assert values(tank) == ["a", "yes", "c"]
    (warning,) = warnings(tank)
    assert warning.severity == "warning"
    assert "it has no 'a' any more" in warning.error_message
    assert warning.error_context["run_id"] == str(again.run_id)
    (event,) = events(tank)
    assert event.data["severity"] == "warning"
    assert event.data["message"].endswith("It goes on with the graph that is there now.")


def test_an_answer_to_a_node_that_is_gone_fails_and_the_state_is_kept(tank: Surgetank) -> None:
    """LangGraph would do nothing, and the run would be shown as completed."""
    first = waiting(tank, "a", "ask", "b")
    before = saved(tank)
    again = run(
        tank, chain(tank, "a", "renamed_ask", "b"), accept(tank, first, command={"resume": "yes"})
    )
    assert again.status is Status.FAILED
    assert again.error is not None
    assert "waits for 'ask', which the graph 'agent' doesn't have any more" in again.error
    assert saved(tank) == before
    (warning,) = warnings(tank)
    assert warning.error_context["waiting"] == ["ask"]
    asked = tank.workflows.retry(first.workflow_id, actor="ada")
    retried = run(tank, chain(tank, "a", "ask", "b"), asked)
    assert retried.status is Status.COMPLETED
    assert values(tank) == ["a", "yes", "b"]


def test_a_person_can_send_a_stuck_thread_elsewhere(tank: Surgetank) -> None:
    first = waiting(tank, "a", "ask", "b")
    again = run(tank, chain(tank, "a", "b"), accept(tank, first, command={"goto": "b"}))
    assert again.status is Status.COMPLETED
    assert values(tank) == ["a", "b"]
    assert len(warnings(tank)) == 1


def test_a_run_that_is_taken_over_by_a_changed_graph_is_flagged(tank: Surgetank) -> None:
    """Its first worker died with the old code; the next has the new one."""
    accepted = accept(tank, input={"steps": []})
    queue: RunQueue = tank.runs._queue
    (mine,) = queue.claim("old", 1)
    graph = chain(tank, "a", "gone", "b")
    config: Any = {"configurable": {"thread_id": "t"}, "metadata": {"run_id": str(mine.run_id)}}
    graph.invoke({"steps": []}, marked(config, graph), interrupt_before=["b"], durability="sync")
    queue.end(mine, Status.PENDING, actor="old")
    assert run(tank, chain(tank, "a", "b"), accepted).status is Status.COMPLETED
    assert values(tank) == ["a", "gone", "b"]
    assert len(warnings(tank)) == len(events(tank)) == 1


def test_checkpoints_that_say_no_structure_are_only_doubted_when_their_next_node_is_gone(
    tank: Surgetank,
) -> None:
    graph = chain(tank, "a", "ask")
    graph.invoke({"steps": []}, {"configurable": {"thread_id": "t"}})
    assert changed_since(saved(tank), chain(tank, "b", "ask")) is None
    change = changed_since(saved(tank), chain(tank, "a", "b"))
    assert change is not None
    assert (change.before, change.waiting, change.stuck) == (None, ("ask",), True)


def test_a_change_inside_a_subgraph_is_one(tank: Surgetank) -> None:
    def outer(*names: str) -> Graph:
        inner, builder = chain(tank, *names), StateGraph(State)
        builder.add_node("inner", cast("Any", inner))
        builder.add_edge(START, "inner")
        builder.add_edge("inner", END)
        return cast("Graph", builder.compile(checkpointer=tank.checkpointer()))

    graph = outer("a", "ask")
    graph.invoke({"steps": []}, marked({"configurable": {"thread_id": "t"}}, graph))
    assert changed_since(saved(tank), outer("a", "ask")) is None
    change = changed_since(saved(tank), outer("b", "ask"))
    assert change is not None
    assert (change.gone, change.message) == (
        (), "The graph has changed since this conversation stopped: its nodes or edges are others.",
    )  # fmt: skip


def test_many_names_are_not_all_said(tank: Surgetank) -> None:

    change = Change("1", "2", tuple(f"n{number:02}" for number in range(12)))
    assert "'n09' and 2 more" in change.message
    assert len(change.message) < 250
