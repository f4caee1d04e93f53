"""Buffers and databases that go back in time: copies of a buffer's files, and what all streams can
show of it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support.savers import config, put
from surgetank import Surgetank


def copy_home(home: Path, to: Path) -> Path:
    """The buffer as it is at this moment, as a backup or a copied image has it. The original may be
    in use."""
    to.mkdir(parents=True, exist_ok=True)
    for name in ("buffer.db", "buffer-events.db"):
        with (
            closing(sqlite3.connect(home / name)) as source,
            closing(sqlite3.connect(to / name)) as target,
        ):
            source.backup(target)
    return to


def set_back(home: Path, copy: Path) -> None:
    """Put a copy in the place of the buffer that was closed."""
    for name in ("buffer.db", "buffer-events.db"):
        for suffix in ("-wal", "-shm"):
            (home / f"{name}{suffix}").unlink(missing_ok=True)
        shutil.copy(copy / name, home / name)


class Life:
    """What happens to one thread through all three streams, and what can be read of it
    afterwards."""

    def __init__(self, thread: str = "t") -> None:
        self.thread = thread
        self.steps: list[tuple[str, str]] = []  # checkpoint id and what it holds
        self._parent: Any = None

    def step(self, tank: Surgetank, text: str) -> None:
        """One checkpoint, one log line, one error."""
        self.put(tank, text)
        tank.emit_log(text, thread_id=self.thread)
        tank.log_system_error(
            "test_error", "the same each time", thread_id=self.thread, context={"text": text}
        )

    def put(self, tank: Surgetank, text: str) -> None:
        """One checkpoint."""
        talk = [text for _, text in self.steps] + [text]
        values = {"text": text, "talk": talk, "padding": "".join(talk) * 300}
        self._parent = put(
            tank.checkpointer(), self.thread, values, parent=self._parent, step=len(self.steps)
        )
        self.steps.append((self._parent["configurable"]["checkpoint_id"], text))


def flush_all(tank: Surgetank) -> None:
    """Flush until nothing waits; every job must go through."""
    for stream in tank.parts.flushers:
        job = tank.flush(stream)
        assert job.ok, job.result
    # What flushing told travels the same way.
    for stream in tank.parts.flushers:
        assert tank.flush(stream).ok


def checkpoints(tank: Surgetank, thread: str = "t") -> dict[str, Any]:
    """What the saver gives for each checkpoint of the thread."""
    found = tank.checkpointer().list(config(thread))
    return {t.checkpoint["id"]: t.checkpoint["channel_values"]["text"] for t in found}


def lines(tank: Surgetank, thread: str = "t") -> list[str]:
    """Messages of the application's lines in the thread's log."""
    return [line.message for line in tank.logs(thread, limit=1000) if line.level == "info"]


def occurrences(tank: Surgetank) -> int:
    """How often the test's own error is counted."""
    groups = [group for group in tank.errors.find().errors if group.error_type == "test_error"]
    return sum(group.occurrences for group in groups)


def told(tank: Surgetank, error_type: str) -> list[Any]:
    """System errors of a type."""
    return [group for group in tank.errors.find().errors if group.error_type == error_type]
