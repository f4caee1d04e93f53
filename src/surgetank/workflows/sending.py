"""What the runs of a worker send goes into the stream log: that of all runs together, beside the
runs.

A transaction costs the same for one run as for fifty. Nobody waits for others: what comes while a
transaction is under way goes with the next one.
"""

from __future__ import annotations

import asyncio

from surgetank.events.streams import StreamGroup, StreamLog
from surgetank.exceptions import LeaseLost
from surgetank.offloop import off_loop
from surgetank.workflows.runs import Run

_BEHIND = 200  # events of one run that wait: it goes on when they are written
_TOGETHER = 1000  # events of one transaction, about


class Sending:
    """Writes what senders have. For one event loop."""

    def __init__(self, log: StreamLog | None) -> None:
        self._log = log
        self._ready: dict[Sender, None] = {}
        self._writing: asyncio.Task[None] | None = None

    def of(self, run: Run) -> Sender:
        """Who sends what this run says."""
        return Sender(self, run, kept=self._log is not None)

    def write_soon(self, sender: Sender) -> None:
        """The sender has something."""
        self._ready[sender] = None
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        assert self._log is not None
        while self._ready:
            senders, groups, count = list[Sender](), list[StreamGroup](), 0
            while self._ready and count < _TOGETHER:
                sender = next(iter(self._ready))
                del self._ready[sender]
                if (group := sender.take()) is not None:
                    senders.append(sender)
                    groups.append(group)
                    count += len(group.events)
            if not groups:
                return
            try:
                written = await off_loop(self._log.append_all, groups)
            except Exception as error:  # noqa: BLE001 - raised by what each run does next
                for sender in senders:
                    sender.failed(error)
            else:
                for sender, last in zip(senders, written, strict=True):
                    sender.written(last)


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
