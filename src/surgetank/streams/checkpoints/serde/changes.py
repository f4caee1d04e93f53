"""What the serializer noticed of classes that are not what they were: collected while values are
read or written.

The serializer knows no thread and tells nobody; who calls it opens `noticing()` and gets what there
was to notice. One thread's calls don't see those of another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from surgetank.bounded import BoundedMap

# Thread, level of the log line, and the sentence.
Tell = Callable[[str, str, str], None]
_MOST_KEPT = 20_000
_MOST_NOTICED = 100  # in one call


@dataclass(frozen=True, slots=True)
class ClassChange:
    """One class, and what became of its objects. `level` is a log level: `info` where nothing is
    missing."""

    class_name: str
    what: str
    level: str = "warning"

    def __str__(self) -> str:
        return f"State class {self.class_name}: {self.what}"


class _Open(threading.local):
    noticed: list[ClassChange] | None = None


_open = _Open()


def notice(class_name: str, what: str, level: str = "warning") -> None:
    """Say that objects of a class did not come back, or will not, as they are. Nobody has to
    listen."""
    if _open.noticed is not None and len(_open.noticed) < _MOST_NOTICED:
        change = ClassChange(class_name, what, level)
        if change not in _open.noticed:
            _open.noticed.append(change)


class noticing:  # noqa: N801 - used as a `with` statement reads
    """Collects what is noticed on this thread inside the block, in `changes`."""

    __slots__ = ("_before", "changes")

    def __enter__(self) -> noticing:
        self._before = _open.noticed
        self.changes: list[ClassChange] = []
        _open.noticed = self.changes
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _open.noticed = self._before


class OncePerClass:
    """Passes changes on to a thread's log, each once per thread and class, as long as it is
    remembered."""

    def __init__(self, tell: Tell | None) -> None:
        self._tell = tell
        self._known = BoundedMap[tuple[str, str, str], None](_MOST_KEPT)
        self._lock = threading.Lock()

    def pass_on(self, thread_id: str, changes: list[ClassChange]) -> None:
        """Tell what is new of these."""
        for change in changes:
            key = (thread_id, change.class_name, change.level)
            with self._lock:
                if key in self._known:
                    continue
                self._known[key] = None
            if self._tell is not None:
                self._tell(thread_id, change.level, str(change))
