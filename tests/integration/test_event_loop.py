"""The event loop goes on: what may wait or takes long leaves it, what is short and free stays on
it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.holder import held
from support.savers import checkpoint, config, put
from surgetank import Surgetank
from surgetank.exceptions import BufferFull
from surgetank.offloop import LARGE, is_large, off_loop

LARGE_TEXT = "x" * (2 * LARGE)


async def aput(saver: Any, values: dict[str, Any], thread: str = "t") -> Any:
    made = checkpoint(values)
    return await saver.aput(
        config(thread), made, {"source": "loop", "step": 0}, made["channel_versions"]
    )


def actions(tank: Surgetank) -> dict[str, Callable[[], Awaitable[Any]]]:
    saver = tank.checkpointer()
    at = put(saver, "t", {"n": 1})
    return {
        "aput": lambda: aput(saver, {"n": 2}),
        "a large aput": lambda: aput(saver, {"n": LARGE_TEXT}),
        "aput_writes": lambda: saver.aput_writes(at, [("n", 1)], "task"),
        "adelete_thread": lambda: saver.adelete_thread("t"),
        "acopy_thread": lambda: saver.acopy_thread("t", "t2"),
        "aprune": lambda: saver.aprune(["t"], strategy="delete"),
        "aemit_log": lambda: tank.aemit_log("m", thread_id="t"),
        "alog_system_error": lambda: tank.alog_system_error("app", "m"),
    }


@pytest.mark.parametrize(
    "name",
    ["aput", "a large aput", "aput_writes", "adelete_thread", "acopy_thread", "aprune", "aemit_log",
     "alog_system_error"],
)  # fmt: skip
async def test_while_another_process_holds_the_buffer_the_loop_goes_on(tank: Surgetank, name: str):
    act = actions(tank)[name]
    buffer = tank.parts.buffer
    before = buffer.depth().entries
    with held(Path(buffer.name)) as holder:
        waiting = asyncio.ensure_future(act())
        done, _ = await asyncio.wait({waiting}, timeout=0.2)
        # Were it on the loop, it would hold us here until the holder let go, which it does only
        # below.
        assert not done
        assert buffer.depth().entries == before
        holder.let_go()
        await asyncio.wait_for(waiting, 20)
    assert buffer.depth().entries > before


async def test_lines_of_a_loop_whose_buffer_is_held_are_written_in_order_when_it_is_free(
    tank: Surgetank,
):
    logger = logging.getLogger("app.of.the.test")
    handler = tank.log_handler()
    logger.addHandler(handler)
    try:
        assert tank.emit_log("first", thread_id="t") > 0
        with held(Path(tank.parts.buffer.name)) as holder:
            assert tank.emit_log("second", thread_id="t") == 0  # not accepted yet, and said so
            logger.warning("third", extra={"thread_id": "t"})
            tank.log_system_error("app", "an error")
            assert tank.emit_log("fourth", thread_id="t") == 0
            assert [line.message for line in tank.logs("t")] == ["first"]
            holder.let_go()
        assert await asyncio.to_thread(tank.parts.reporting.runs.hand_over.wait, 20)
        assert await asyncio.to_thread(tank.parts.reporting.errors.hand_over.wait, 20)
        assert [line.message for line in tank.logs("t")] == ["first", "second", "third", "fourth"]
        assert [e.error_message for e in tank.errors.find().errors] == ["an error"]
        assert tank.emit_log("fifth", thread_id="t") > 0
    finally:
        logger.removeHandler(handler)


async def test_what_a_loop_handed_over_is_written_before_the_engine_closes(make_tank):
    tank = make_tank()
    with held(tank.parts.buffer.path) as holder:
        assert tank.emit_log("said", thread_id="t") == 0
        closing = asyncio.ensure_future(asyncio.to_thread(tank.close))
        holder.let_go()
        await asyncio.wait_for(closing, 20)
    assert [line.message for line in make_tank().logs("t")] == ["said"]


async def test_what_could_not_be_written_later_is_told_in_the_status(tank: Surgetank, monkeypatch):
    def refuse(*_: Any, **__: Any) -> int:
        raise BufferFull("full")

    with held(Path(tank.parts.buffer.name)):
        monkeypatch.setattr(tank.parts.buffer, "append", refuse)
        assert tank.emit_log("lost", thread_id="t") == 0
        await asyncio.to_thread(tank.parts.reporting.runs.hand_over.wait, 20)
    assert any("not accepted: full" in problem for problem in tank.status().problems)


class Seen:
    """On which threads the buffer was written and values were serialized."""

    def __init__(self, saver: Any, tank: Surgetank, monkeypatch: pytest.MonkeyPatch) -> None:
        self.appended: list[bool] = []
        self.serialized: list[bool] = []
        buffer, loop = tank.parts.buffer, threading.get_ident()
        for name in ("append", "try_append"):
            original = getattr(buffer, name)

            def append(*args: Any, original: Any = original, **named: Any) -> Any:
                self.appended.append(threading.get_ident() == loop)
                return original(*args, **named)

            monkeypatch.setattr(buffer, name, append)
        dump = saver.serde.dumps_typed

        def dumps_typed(value: Any) -> Any:
            self.serialized.append(threading.get_ident() == loop)
            return dump(value)

        monkeypatch.setattr(saver.serde, "dumps_typed", dumps_typed)


async def test_a_large_state_is_serialized_and_written_off_the_loop_and_a_small_one_on_it(
    tank, monkeypatch
):
    saver = tank.checkpointer()
    seen = Seen(saver, tank, monkeypatch)
    at = await aput(saver, {"n": 1})
    await saver.aput_writes(at, [("n", 1)], "task")
    assert seen.appended == [True, True]
    assert all(seen.serialized)
    seen.appended.clear()
    seen.serialized.clear()
    at = await aput(saver, {"n": LARGE_TEXT})
    await saver.aput_writes(at, [("n", LARGE_TEXT)], "task2")
    assert seen.appended == [False, False]
    assert not any(seen.serialized)
    assert (await saver.aget_tuple(config("t"))).checkpoint["channel_values"] == {"n": LARGE_TEXT}


async def test_what_turns_out_large_when_it_is_serialized_is_written_off_the_loop(
    tank, monkeypatch
):
    saver = tank.checkpointer()
    seen = Seen(saver, tank, monkeypatch)
    hidden = {"n": [*["x"] * 101, LARGE_TEXT, *["x"] * 99]}  # no sample meets it
    assert not is_large(list(hidden.values()))
    await aput(saver, hidden)
    assert seen.appended == [False]


async def test_a_full_buffer_is_waited_for_off_the_loop(make_tank):
    tank = make_tank(buffer_max_entries=1, buffer_block_timeout=20.0)
    saver = tank.checkpointer()
    await aput(saver, {"n": 1})
    waiting = asyncio.ensure_future(aput(saver, {"n": 2}, "t2"))
    done, _ = await asyncio.wait({waiting}, timeout=0.2)
    assert not done
    assert (await asyncio.to_thread(tank.flush)).ok
    await asyncio.wait_for(waiting, 20)
    with pytest.raises(BufferFull):  # a log line of a loop doesn't wait for space
        tank.emit_log("m", thread_id="t")


async def test_off_loop_carries_context_and_errors():
    import contextvars

    variable = contextvars.ContextVar("variable", default=0)
    variable.set(7)
    assert await off_loop(variable.get) == 7
    with pytest.raises(ZeroDivisionError):
        await off_loop(lambda: 1 // 0)


def test_the_estimate_knows_large_from_small():
    class Holder:
        def __init__(self, value: Any) -> None:
            self.value = value

    class Array:
        nbytes = 10**7

    cycle: list[Any] = []
    cycle.append(cycle)
    for large in ("x" * LARGE * 2, b"x" * LARGE * 2, ["x" * 600] * 1000, dict.fromkeys(range(1000), "x" * 600),
                  Holder("x" * LARGE * 2), [Holder({"a": "x" * 600})] * 1000, Array(), [1] * LARGE):  # fmt: skip
        assert is_large([large])
    smalls: list[Any] = [
        "x" * 600,
        ["x" * 600] * 100,
        {},
        None,
        Holder("x"),
        cycle,
        {1, 2},
        10**400,
    ]
    for small in smalls:
        assert not is_large([small])


def test_a_forked_child_has_threads_of_its_own(tank: Surgetank):
    import os

    async def once() -> int:
        return await off_loop(os.getpid)

    assert asyncio.run(once()) == os.getpid()
    child = os.fork()
    if child == 0:
        os._exit(0 if asyncio.run(asyncio.wait_for(once(), 10)) == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
