"""`list` of a thread of 300 checkpoints that was flushed: all of it, and a filter on metadata that
few of them pass."""

from __future__ import annotations

from langgraph.checkpoint.base.id import uuid6

from bench import chat
from bench.harness import BenchError, Recorder, Scene, timed
from bench.peers import MEMORY, OURS, POSTGRES, SQLITE, Contestant, contestants

TITLE = "Listing a thread"
_CHOSEN = 100  # every so many checkpoints one passes the filter
_SHOWN = 6  # messages in each state
_TIMES = 5


def run(scene: Scene) -> Recorder:
    """Those that can list, in turn."""
    recorder = Recorder("lists")
    with contestants(scene, (MEMORY, SQLITE, POSTGRES, OURS)) as all_:
        for number, who in scene.turns(all_):
            _measure(scene, recorder, number, who)
    return recorder


def _measure(scene: Scene, recorder: Recorder, number: int, who: Contestant) -> None:
    count = scene.scale.list_steps
    said = chat.messages(count + _SHOWN, seed=number)
    thread = chat.Thread(who.saver, str(uuid6()))
    for step in range(count):
        config, checkpoint, metadata, versions = thread.next_put(
            {"messages": said[step : step + _SHOWN], "step": step}
        )
        chosen = {"review": {"by": "ann", "marked": step % _CHOSEN == 0}}
        thread.config = who.saver.put(config, checkpoint, {**metadata, **chosen}, versions)
    who.settle()
    where = {"configurable": {"thread_id": thread.thread_id, "checkpoint_ns": ""}}
    flat = {"step": count // 2}
    nested = {"review": {"marked": True}}
    found: dict[str, list[float]] = {"all": [], "one": [], "nested": []}
    for _ in range(_TIMES):
        everything = timed(found["all"], lambda: list(who.saver.list(where)))
        one = timed(found["one"], lambda: list(who.saver.list(where, filter=flat)))
        if len(everything) != count or len(one) != 1:
            raise BenchError(f"{who.name} lists {len(everything)} and {len(one)} checkpoints")
        if who.name in (OURS, POSTGRES):  # the others compare nested values as a whole
            few = timed(found["nested"], lambda: list(who.saver.list(where, filter=nested)))
            if len(few) != -(-count // _CHOSEN):
                raise BenchError(f"{who.name} finds {len(few)} checkpoints")
    labels = {
        "all": f"all {count} checkpoints",
        "one": "a filter that one passes",
        "nested": f"a nested filter that every {_CHOSEN}th passes",
    }
    for key, values in found.items():
        if values:
            recorder.add(number, who.name, key, values, label=labels[key])
