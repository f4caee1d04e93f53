"""One implementation, two drivers: an operation is a generator that yields whatever would block.

Reading the buffer takes microseconds and is called straight. What waits for PostgreSQL or writes to
the buffer is yielded as a callable; the synchronous driver calls it, the asynchronous one runs it
on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
Steps = Generator[Callable[[], Any], Any, T]


def run(steps: Steps[T]) -> T:
    """Drive the operation on the calling thread."""
    try:
        blocking = next(steps)
        while True:
            try:
                result = blocking()
            except Exception as error:  # noqa: BLE001 - handed to the operation, which decides
                blocking = steps.throw(error)
            else:
                blocking = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


async def arun(steps: Steps[T], *, over_network: bool = False) -> T:
    """Drive the operation from an event loop, which never waits for the database; nor for the buffer,
    where that is `over_network`: then all of it runs on a thread."""
    if over_network:
        return await asyncio.to_thread(run, steps)
    try:
        blocking = next(steps)
        while True:
            try:
                result = await asyncio.to_thread(blocking)
            except Exception as error:  # noqa: BLE001 - handed to the operation, which decides
                blocking = steps.throw(error)
            else:
                blocking = steps.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
