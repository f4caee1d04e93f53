"""Ending a statement before its time, from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from surgetank.exceptions import Conflict


class Cancellation:
    """What a caller keeps of statements that run, to end them: `cancel` ends what is under way, and nothing more of
    the text is run. For any number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: list[Callable[[], None]] = []
        self._cancelled = False

    @property
    def cancelled(self) -> bool:
        """Whether it was asked for."""
        return self._cancelled

    def cancel(self) -> None:
        """End it. Idempotent."""
        with (
            self._lock
        ):  # held meanwhile: a process that was given back may be somebody else's already
            self._cancelled = True
            for end in self._ends:
                end()

    @contextmanager
    def ended_by(self, end: Callable[[], None]) -> Iterator[None]:
        """`end`, which may be called twice, ends what runs in here. Raises `Conflict` instead of beginning, and in
        the stead of what it raises, when it was cancelled."""
        with self._lock:
            self._ends.append(end)
        try:
            self.check()
            yield
        except Exception:
            self.check()
            raise
        finally:
            with self._lock:
                self._ends.remove(end)

    def check(self) -> None:
        """Raise `Conflict` when it was cancelled."""
        if self._cancelled:
            raise Conflict(
                "The statement was cancelled.", remedy="run it again when you want its answer."
            )
