"""Calls of several threads, made together: who comes first makes the call for all who came
meanwhile.

A commit costs the same for one run as for fifty. Nobody waits for others to come: alone, a call is
made at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


@dataclass(slots=True)
class _Call(Generic[A, R]):
    argument: A
    heard: threading.Event = field(default_factory=threading.Event)
    leads: bool = False
    answer: R | BaseException | None = None
    over: bool = False


class Together(Generic[A, R]):
    """`make` is given up to `most` arguments and gives an answer, or an error to raise, for each.

    What `make` raises is raised by each of the calls that it was given.
    """

    def __init__(self, make: Callable[[Sequence[A]], Sequence[R | Exception]], most: int) -> None:
        self._make = make
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Call[A, R]] = deque()
        self._led = False

    def call(self, argument: A) -> R:
        """The answer for this argument."""
        mine: _Call[A, R] = _Call(argument)
        with self._lock:
            self._waiting.append(mine)
            mine.leads, self._led = not self._led, True
        if not mine.leads:
            mine.heard.wait()
        if not mine.over:  # it is this thread's turn to call for all
            self._lead()
        if isinstance(mine.answer, BaseException):
            raise mine.answer
        return mine.answer  # type: ignore[return-value]  # an answer was given

    def _lead(self) -> None:
        with self._lock:
            calls = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        try:
            answers: Sequence[R | BaseException] = self._make([call.argument for call in calls])
        except BaseException as error:  # noqa: BLE001 - each caller raises it
            answers = [error] * len(calls)
        with self._lock:
            for call, answer in zip(calls, answers, strict=True):
                call.answer, call.over = answer, True
            following = self._waiting[0] if self._waiting else None
            self._led = following is not None
        if following is not None:
            following.heard.set()
        for call in calls:
            call.heard.set()
