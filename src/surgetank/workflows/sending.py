"""What the runs of a worker send goes into the stream log, that of all runs together.

A transaction costs about the same for one run as for fifty. Nobody waits for others: what comes
while a transaction is under way goes with the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from surgetank.events.streams import StreamGroup, StreamLog
from surgetank.exceptions import LeaseLost
from surgetank.offloop import LARGE, off_loop
from surgetank.workflows.runs import Run

_BEHIND = 200  # events of one run that wait: it goes on when they are written
_TOGETHER = 1000  # events of one transaction, about


class Sending:
    """Writes what senders have. For one event loop, on which it writes what takes no longer than a
    fraction of a millisecond."""

    def __init__(self, log: StreamLog | None) -> None:
        self._log = log
        self._ready: dict[Sender, None] = {}
        self._is_due = False
        self._writing: asyncio.Task[None] | None = None  # beside the loop

    def of(self, run: Run) -> Sender:
        """Who sends what this run says."""
        return Sender(self, run, kept=self._log is not None)

    def write_soon(self, sender: Sender) -> None:
        """The sender has something: it is written once the loop has seen to who else is ready."""
        self._ready[sender] = None
        if not self._is_due and self._writing is None:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._is_due = False
        while batch := self._take():
            if not self._write_here(batch):
                self._writing = asyncio.create_task(self._write_beside(batch))
                return

    def _take(self) -> _Batch:
        batch, count = _Batch(), 0
        while self._ready and count < _TOGETHER:
            sender = next(iter(self._ready))
            del self._ready[sender]
            if (group := sender.take()) is not None:
                batch[sender] = group
                count += len(group.events)
        return batch

    def _write_here(self, batch: _Batch) -> bool:
        """False where it would hold up the loop."""
        assert self._log is not None
        groups = list(batch.values())
        if sum(group.size for group in groups) > LARGE:
            return False
        try:
            written = self._log.try_append_all(groups)
        except Exception as error:  # noqa: BLE001 - raised by what each run does next
            _failed(batch, error)
            return True
        if written is None:
            return False
        _written(batch, written)
        return True

    async def _write_beside(self, batch: _Batch) -> None:
        assert self._log is not None
        try:
            while batch:
                try:
                    written = await off_loop(self._log.append_all, list(batch.values()))
                except Exception as error:  # noqa: BLE001 - raised by what each run does next
                    _failed(batch, error)
                else:
                    _written(batch, written)
                batch = self._take()
        finally:
            self._writing = None


def _written(batch: _Batch, lasts: Sequence[int | None]) -> None:
    for sender, last in zip(batch, lasts, strict=True):
        sender.written(last)


def _failed(batch: _Batch, error: Exception) -> None:
    for sender in batch:
        sender.failed(error)


class Sender:
    """Sends what one run says, in its order. The run waits only when the log falls far behind.

    `send` and `flush` raise what writing raised, and `LeaseLost` when a later attempt writes.
    """

    def __init__(self, sending: Sending, run: Run, *, kept: bool) -> None:
        self._sending = sending
        self._run = run
        self._kept = kept
        self._waiting: list[tuple[str, bytes]] = []
        self._all_written = asyncio.Event()
        self._all_written.set()
        self._error: BaseException | None = None

    async def send(self, event: str, data: bytes) -> None:
        """Send one event."""
        if not self._kept:
            return
        self._raise_error()
        self._waiting.append((event, data))
        self._all_written.clear()
        self._sending.write_soon(self)
        if len(self._waiting) > _BEHIND:
            await self.flush()

    async def flush(self) -> None:
        """Wait until everything is written."""
        await self._all_written.wait()
        self._raise_error()

    def take(self) -> StreamGroup | None:
        """What waits, to be written now."""
        if not self._waiting:
            return None
        events, self._waiting = self._waiting, []
        run = self._run
        return StreamGroup(run.thread_id, str(run.run_id), tuple(events), run.attempts)

    def written(self, last: int | None) -> None:
        """What was taken is written; `last` is None when it was not, for a later attempt writes."""
        if last is None:
            self.failed(
                LeaseLost(
                    f"The run {self._run.run_id} is not this worker's any more.",
                    remedy="nothing to do: whoever has it now goes on with it.",
                )
            )
        elif not self._waiting:
            self._all_written.set()

    def failed(self, error: BaseException) -> None:
        """It could not be written."""
        self._error = error
        self._waiting.clear()
        self._all_written.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


_Batch = dict[Sender, StreamGroup]
