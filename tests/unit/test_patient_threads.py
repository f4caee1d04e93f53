"""Threads for code that may never come back: who waits stops waiting, and never are there more."""

from __future__ import annotations

import asyncio
import threading

import pytest

from surgetank.server.access.patient_threads import PatientThreads


async def test_there_are_never_more_of_them_than_said() -> None:
    threads = PatientThreads(2)
    go, begun = threading.Event(), list[int]()

    def stuck() -> None:
        begun.append(1)
        assert go.wait(30)

    async def within(seconds: float) -> None:
        async with asyncio.timeout(seconds):
            await threads.run(stuck)

    given_up = await asyncio.gather(*(within(0.2) for _ in range(6)), return_exceptions=True)
    assert [type(each) for each in given_up] == [TimeoutError] * 6
    assert len(begun) == 2
    with pytest.raises(TimeoutError):
        await within(0.05)
    go.set()  # their places are free again
    assert await asyncio.wait_for(threads.run(lambda: 7), 30) == 7
    assert await asyncio.wait_for(threads.run(lambda: 8), 30) == 8
    assert len(begun) == 2


async def test_what_is_raised_is_raised_and_the_place_is_free_again() -> None:
    threads = PatientThreads(1)

    def fails() -> None:
        raise SystemExit(3)

    for _ in range(3):
        with pytest.raises(SystemExit):
            await threads.run(fails)
    assert await threads.run(lambda: 1) == 1


async def test_who_is_cancelled_before_a_thread_was_taken_leaves_the_place() -> None:
    threads = PatientThreads(1)
    for _ in range(50):
        task = asyncio.create_task(threads.run(lambda: 1))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await asyncio.wait_for(threads.run(lambda: 1), 30) == 1
