"""What may wait leaves the event loop: large or contended writes run on threads of their own.

Not on the loop's default executor: while another process holds the buffer, waiting appends would
fill it, and with it everything else that the application runs there.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")
LARGE = 256 * 1024  # bytes: about what is serialized and written within a few milliseconds
_THREADS = 4
_SAMPLED = 32  # containers with more members are estimated by some of them
_SAMPLES = 8
_DEPTH = 5

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


async def off_loop(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The call on a thread, with the context variables of the caller."""
    context = contextvars.copy_context()
    work = partial(context.run, partial(call, *arguments, **named))
    return await asyncio.get_running_loop().run_in_executor(_executor(), work)


def on_loop() -> bool:
    """Whether the caller runs on an event loop, which must not wait."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _executor() -> ThreadPoolExecutor:
    global _pool  # noqa: PLW0603 - one for the process, and another one for a forked child
    with _lock:
        if _pool is None or _pool[0] != os.getpid():
            _pool = os.getpid(), ThreadPoolExecutor(_THREADS, thread_name_prefix="surgetank-append")
        return _pool[1]


def _after_fork() -> None:
    global _lock  # noqa: PLW0603 - the parent's may have been held
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def is_large(values: Any) -> bool:
    """Whether serializing these values takes long, estimated by looking at few of them (some 10
    microseconds)."""
    return _estimate(values, _DEPTH) > LARGE


def _estimate(value: Any, depth: int) -> int:
    kind = type(value)
    if kind is str or kind is bytes or kind is bytearray:
        return len(value)
    if value is None or kind is int or kind is float or kind is bool:
        return 8
    if depth == 0:
        return 64
    if kind is dict:
        return _sampled(value.values(), len(value), depth) + 16 * len(value)
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return _sampled(value, len(value), depth)
    return _of_object(value, depth)


def _of_object(value: Any, depth: int) -> int:
    size = getattr(value, "nbytes", None)  # arrays, memoryviews
    if type(size) is int:
        return size
    fields = getattr(value, "__dict__", None)
    if type(fields) is dict:
        return 64 + _estimate(fields, depth - 1)
    return 64


def _sampled(items: Any, count: int, depth: int) -> int:
    if count <= _SAMPLED:
        total = 0
        for item in items:
            total += _estimate(item, depth - 1)
            if total > LARGE:
                break
        return total
    # Of a dict or a set the first ones: it has no others at hand.
    some = (
        items[:: count // _SAMPLES]
        if isinstance(items, (list, tuple))
        else tuple(islice(items, _SAMPLES))
    )
    return sum(_estimate(item, depth - 1) for item in some) * count // max(1, len(some))
