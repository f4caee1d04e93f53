"""`put`, `put_writes` and `get_tuple` called directly, on a chat that grows step by step.

In each step all savers take a turn. The floor of `put_writes` is a bare transaction of SQLite
(`bench/floor.py`), that of `put` is one and InMemorySaver's time, which is for serializing the
state. `get_tuple` is *hot* right after the `put`; it is *cold* when everything was flushed, so that
Surgetank, too, answers from PostgreSQL: then each checkpoint of the thread is read once, and its
newest one as often.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from langgraph.checkpoint.base.id import uuid6

from bench import chat, floor
from bench.harness import BenchError, Recorder, Scene, timed
from bench.peers import MEMORY, Contestant, contestants

TITLE = "Direct calls"
_LABELS = {
    "put": "put", "put_writes": "put_writes", "get_tuple hot": "get_tuple, hot",
    "get_tuple cold": "get_tuple, cold, each checkpoint", "get_tuple newest": "get_tuple, cold, the newest",
}  # fmt: skip


@dataclass(slots=True)
class _Course:
    """One saver's thread in one round, and how long its calls took."""

    who: Contestant
    thread: chat.Thread
    configs: list[Any] = field(default_factory=list)
    times: dict[str, list[float]] = field(default_factory=lambda: {key: [] for key in _LABELS})


def run(scene: Scene) -> Recorder:
    """All savers, step by step in turn."""
    recorder = Recorder("calls")
    bare_file = Path(mkdtemp(dir=scene.home)) / "bare.db"
    with contestants(scene) as all_, closing(floor.BareSQLite(bare_file)) as bare:
        for number, players in scene.together(all_):
            states = chat.growing(scene.scale.steps, seed=number)
            courses = [_Course(who, chat.Thread(who.saver, str(uuid6()))) for who in players]
            least: list[float] = []
            least_put: list[float] = []
            for step, messages in enumerate(states):
                for course in courses:
                    _write(course, step, messages)
                # a key and a value as long as ours are
                record = (f"w{uuid6()}".encode() * 2, repr(messages[-2:]).encode())
                timed(least, lambda: bare.append([record]))  # noqa: B023
                timed(least_put, lambda: bare.append([record] * 3))  # noqa: B023
            for course in courses:
                course.who.settle()
            for config in zip(*(course.configs for course in courses), strict=True):
                for course, at in zip(courses, config, strict=True):
                    _read(course, at)
            for course in courses:
                _check(course, states)
                for key, values in course.times.items():
                    recorder.add(number, course.who.name, key, values, label=_LABELS[key])
            memory = next(c.times["put"] for c in courses if c.who.name == MEMORY)
            sums = [a + b for a, b in zip(memory, least_put, strict=True)]
            recorder.add(number, floor.NAME, "put", sums, label="put")
            recorder.add(number, floor.NAME, "put_writes", least, label="put_writes")
    return recorder


def _write(course: _Course, step: int, messages: list[object]) -> None:
    """Put a state, write to it, read it back hot."""
    saver, thread, times = course.who.saver, course.thread, course.times
    arguments = thread.next_put({"messages": messages, "step": step})
    thread.config = config = timed(times["put"], lambda: saver.put(*arguments))
    writes, task = [("messages", messages[-2:])], str(uuid6())
    timed(times["put_writes"], lambda: saver.put_writes(config, writes, task))
    found = timed(times["get_tuple hot"], lambda: saver.get_tuple(config))
    if len(found.checkpoint["channel_values"]["messages"]) != len(messages):
        raise BenchError(f"{course.who.name} gave back another state than was put")
    course.configs.append(config)


def _read(course: _Course, config: object) -> None:
    saver = course.who.saver
    timed(course.times["get_tuple cold"], lambda: saver.get_tuple(config))
    timed(course.times["get_tuple newest"], lambda: saver.get_tuple(course.configs[-1]))


def _check(course: _Course, states: list[list[object]]) -> None:
    found = course.who.saver.get_tuple(course.configs[-1])
    if found.checkpoint["channel_values"] != {"messages": states[-1], "step": len(states) - 1}:
        raise BenchError(f"{course.who.name} gave back another state than was put")
