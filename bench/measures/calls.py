"""`put`, `put_writes` and `get_tuple` called directly, on a chat that grows step by step.

`get_tuple` is *hot* right after the `put`; it is *cold* when everything was flushed, so that
Surgetank, too, answers from PostgreSQL: then each checkpoint of the thread is read once, and its
newest one as often.
"""

from __future__ import annotations

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.harness import BenchError, Recorder, Scene, timed
from bench.peers import Contestant, contestants

TITLE = "Direct calls"


def run(scene: Scene) -> Recorder:
    """All savers in turn."""
    recorder = Recorder("calls")
    with contestants(scene) as all_:
        for number, who in scene.turns(all_):
            states = chat.growing(scene.scale.steps, seed=number)
            configs = _write(recorder, number, who, states)
            who.settle()
            _read(recorder, number, who, states, configs)
    return recorder


def _write(
    recorder: Recorder, number: int, who: Contestant, states: list[list[object]]
) -> list[object]:
    """Put every state, write to it, read it back hot. Returns where the checkpoints are."""
    saver, configs = who.saver, []
    thread = chat.Thread(saver, str(uuid6()))
    put: list[float] = []
    put_writes: list[float] = []
    hot: list[float] = []
    for step, messages in enumerate(states):
        arguments = thread.next_put({"messages": messages, "step": step})
        thread.config = config = timed(put, lambda: saver.put(*arguments))  # noqa: B023
        writes, task = [("messages", messages[-2:])], str(uuid6())
        timed(put_writes, lambda: saver.put_writes(config, writes, task))  # noqa: B023
        found = timed(hot, lambda: saver.get_tuple(config))  # noqa: B023
        if len(found.checkpoint["channel_values"]["messages"]) != len(messages):
            raise BenchError(f"{who.name} gave back another state than was put")
        configs.append(config)
    recorder.add(number, who.name, "put", put)
    recorder.add(number, who.name, "put_writes", put_writes)
    recorder.add(number, who.name, "get_tuple hot", hot, label="get_tuple, hot")
    return configs


def _read(
    recorder: Recorder,
    number: int,
    who: Contestant,
    states: list[list[object]],
    configs: list[object],
) -> None:
    saver, newest = who.saver, configs[-1]
    each: list[float] = []
    last: list[float] = []
    for config in configs:
        timed(each, lambda: saver.get_tuple(config))  # noqa: B023
        timed(last, lambda: saver.get_tuple(newest))
    found = saver.get_tuple(newest)
    if found.checkpoint["channel_values"] != {"messages": states[-1], "step": len(states) - 1}:
        raise BenchError(f"{who.name} gave back another state than was put")
    recorder.add(number, who.name, "get_tuple cold", each, label="get_tuple, cold, each checkpoint")
    recorder.add(number, who.name, "get_tuple newest", last, label="get_tuple, cold, the newest")
