"""`tank.recovery`: what was spilled to a fallback location comes back into the buffer, and is
flushed."""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial

from surgetank.app.assembly import Parts
from surgetank.exceptions import ConfigurationError
from surgetank.model import FlushJob
from surgetank.spilling.recovery import Progress, Recovery
from surgetank.streams.checkpoints.cold.deleted import deleted_at
from surgetank.streams.checkpoints.envelope import STREAM as CHECKPOINTS


class Recoveries:
    """Recovers from a location in three steps: `tank.recovery(...).take_over(...)`, `flush()`,
    `clean()`. `flush` is how an engine flushes what waits."""

    def __init__(self, parts: Parts, flush: Callable[[], FlushJob]) -> None:
        self._parts = parts
        self._flush = flush

    def __call__(
        self,
        url: str | None = None,
        *,
        lost: Collection[str] = (),
        progress: Progress = lambda *_: None,
    ) -> Recovery:
        """A look through a fallback location (by default the configured one), to recover what no
        buffer has any more.

        `lost` are ids of buffers that are gone for good, or "all". Raises `ConfigurationError`
        without a location, `MissingExtra`.
        """
        buffer, database = self._parts.buffer, self._parts.database
        if url is None and buffer.files.address is None:
            raise ConfigurationError(
                "There is no fallback location to recover from.",
                remedy="name it with `--from`, or set SURGETANK_FALLBACK_URL.",
            )
        store = buffer.files.open(url) if url is not None else buffer.files.store()
        deletions = {CHECKPOINTS: partial(deleted_at, buffer, database)}
        return Recovery(buffer, store, database, deletions, lost=lost, progress=progress)

    def flush(self) -> FlushJob | None:
        """Flush what waits, postponed partitions included; None when nothing waits."""
        if not self._parts.buffer.depth().entries:
            return None
        self._parts.buffer.retry_now()
        return self._flush()

    def clean(self) -> None:
        """Delete the files in the location of which nothing waits any more. Raises
        `FallbackUnavailable`."""
        self._parts.spills.clean()
