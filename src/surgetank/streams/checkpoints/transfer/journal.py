"""What an interrupted import or export had finished and verified: one line a thread, in a file
beside the buffer.

The truth of what was moved is the target itself: a checkpoint that is there is there as a whole.
The journal only spares comparing finished threads again, and shows that what lies in the target is
this export's own. It is written after a thread was verified, so it never promises too much; it is
removed when a run reaches its end.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType

import orjson

from surgetank.private import make_folder


class Journal:
    """The journal of one direction between our database and another. Use it with `with`."""

    def __init__(self, folder: Path, kind: str, ours: str, other: str) -> None:
        name = hashlib.blake2b(f"{kind}\0{ours}\0{other}".encode(), digest_size=10).hexdigest()
        self.path = folder / f"{kind}-{name}.jsonl"
        self._done: dict[str, str] = {}
        self.resumed = self.path.exists()
        if self.resumed:
            for line in self.path.read_bytes().split(b"\n")[
                :-1
            ]:  # a torn last line was never finished
                entry = orjson.loads(line)
                self._done[entry["thread"]] = entry["state"]
        self._file = None if not self.resumed else self._open()

    def _open(self) -> int:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # After a kill in the middle of a line the rest of it must not run into the next one.
        data = self.path.read_bytes()
        os.ftruncate(file, data.rfind(b"\n") + 1)
        return file

    def begin(self) -> None:
        """Note that the work has begun, before anything is written to the target."""
        if self._file is None:
            make_folder(self.path.parent)
            self._file = self._open()
            os.fsync(self._file)

    def is_done(self, thread_id: str, state: str) -> bool:
        """Whether this thread was verified when its source looked just as it does now."""
        return self._done.get(thread_id) == state

    def done(self, thread_id: str, state: str) -> None:
        """Note that the thread is moved and verified."""
        assert self._file is not None
        os.write(self._file, orjson.dumps({"thread": thread_id, "state": state}) + b"\n")
        os.fdatasync(self._file)

    def finish(self) -> None:
        """Nothing is left to be continued."""
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
