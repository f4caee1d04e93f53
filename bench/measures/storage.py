"""Bytes that one conversation takes after so many steps, with a plain channel and with LangGraph's
DeltaChannel.

Counted is what lies on disk in tables, indexes and TOAST, beyond what they take empty and without
any vacuum (for InMemorySaver: serialized bytes in memory). A DeltaChannel (beta) stores only what
each step wrote and builds the state again from there when it is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

from langchain_core._api import LangChainBetaWarning
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph.message import add_messages

from bench import chat
from bench.harness import BenchError, Recorder, Scene
from bench.measures.graph import build
from bench.peers import MEMORY, OURS, POSTGRES, SQLITE, Contestant, contestants

TITLE = "Storage of one growing conversation"


def _extend(said: list[Any], writes: Sequence[list[Any]]) -> list[Any]:
    return [*said, *(message for write in writes for message in write)]


class Plain(TypedDict):
    """Each version of the list is a value of its own."""

    messages: Annotated[list[Any], add_messages]
    step: int
    until: int


with warnings.catch_warnings():
    warnings.simplefilter("ignore", LangChainBetaWarning)

    class Delta(TypedDict):
        """Only what was added is stored."""

        messages: Annotated[list[Any], DeltaChannel(_extend)]
        step: int
        until: int


def run(scene: Scene) -> Recorder:
    """Each saver plays one thread and is weighed on the way."""
    recorder = Recorder("storage")
    for kind, state in (("plain", Plain), ("DeltaChannel", Delta)):
        with contestants(scene, (MEMORY, SQLITE, POSTGRES, OURS)) as all_:
            for who in all_:
                _grow(recorder, scene, who, kind, state)
    with contestants(scene, (MEMORY, SQLITE, POSTGRES, OURS)) as all_:
        for who in all_:
            _many(recorder, scene, who)
    return recorder


def _many(recorder: Recorder, scene: Scene, who: Contestant) -> None:
    """What a short conversation takes beside others: without the first pages of empty tables and
    indexes."""
    threads, steps = scene.scale.short_deltas, scene.scale.storage_steps[0]
    said = chat.messages(steps, seed=1)
    compiled = build(said, state=Delta).compile(checkpointer=who.saver)
    empty = 0
    for number in range(threads + 1):
        config: Any = {"configurable": {"thread_id": str(uuid6())}, "recursion_limit": steps + 5}
        compiled.invoke({"messages": [], "step": 0, "until": 2 * steps}, config, durability="sync")
        if number == 0:
            who.settle()
            empty = who.stored()
    who.settle()
    label = f"{steps} steps, DeltaChannel, each of {threads} more threads"
    recorder.add(
        1,
        who.name,
        "DeltaChannel more",
        (who.stored() - empty) / 1e6 / threads,
        label=label,
        unit="MB",
    )


def _grow(recorder: Recorder, scene: Scene, who: Contestant, kind: str, state: type[Any]) -> None:
    marks = scene.scale.storage_steps
    said = chat.messages(marks[-1], seed=1)
    compiled = build(said, state=state).compile(checkpointer=who.saver)
    config: Any = {"configurable": {"thread_id": str(uuid6())}, "recursion_limit": marks[-1] + 5}
    given: dict[str, Any] = {"messages": [], "step": 0}
    empty = who.stored()
    for mark in marks:
        compiled.invoke({**given, "until": 2 * mark}, config, durability="sync")
        given = {}
        who.settle()
        label = f"{mark} steps, {kind} channel" if kind == "plain" else f"{mark} steps, {kind}"
        recorder.add(
            1, who.name, f"{kind} {mark}", (who.stored() - empty) / 1e6, label=label, unit="MB"
        )
    if compiled.get_state(config).values["messages"] != said:
        raise BenchError(f"{who.name} lost messages")
    if who.buffer is not None:
        label = f"{marks[-1]} steps, {kind}: the buffer's file when it was emptied"
        recorder.add(
            1, who.name, f"{kind} file", who.buffer.file_bytes() / 1e6, label=label, unit="MB"
        )
        who.buffer.tidy()
        label = f"{marks[-1]} steps, {kind}: the buffer's file after housekeeping"
        recorder.add(
            1, who.name, f"{kind} tidy file", who.buffer.file_bytes() / 1e6, label=label, unit="MB"
        )
