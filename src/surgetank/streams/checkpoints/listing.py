"""The checkpoints of a listing: hot ones and pages of cold ones, merged, newest first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from surgetank.streams.checkpoints.refs import CheckpointRef


@dataclass(slots=True)
class Listing:
    """References of checkpoints, newest first, out of the hot ones and pages of cold ones."""

    thread_id: str | None
    ns: str | None
    before: str | None
    known_cold: bool
    hot: list[tuple[str, str, str]] = field(default_factory=list)  # id, thread, namespace
    deleted: set[str] = field(default_factory=set)
    last_cold: CheckpointRef | None = None
    is_hot: bool = False
    _cold: list[tuple[str, str, str]] = field(default_factory=list)
    _hot_at: int = 0
    _cold_at: int = 0
    _complete: bool = False

    @property
    def needs_page(self) -> bool:
        """True when the next place can't be told without another cold page."""
        return not self._complete and self._cold_at >= len(self._cold)

    def take(self, page: Sequence[CheckpointRef], *, last: bool) -> None:
        """Add a cold page."""
        self._cold = [(cid, thread, ns) for thread, ns, cid in page if thread not in self.deleted]
        self._cold_at = 0
        self._complete = last
        if page:
            self.last_cold = page[-1]

    def upcoming(self, thread_id: str, ns: str, count: int) -> list[str]:
        """Ids of the next cold places of this thread and namespace, as far as they are known."""
        ahead = self._cold[self._cold_at : self._cold_at + count]
        return [cid for cid, *where in ahead if where == [thread_id, ns]]

    def pop(self) -> CheckpointRef | None:
        """The next place, and `is_hot` says of which kind it is; None at the end."""
        hot = self.hot[self._hot_at] if self._hot_at < len(self.hot) else None
        cold = self._cold[self._cold_at] if self._cold_at < len(self._cold) else None
        if hot is None and cold is None:
            return None
        if cold is None or (hot is not None and hot >= cold):
            chosen = hot
            self._hot_at += 1
            self._cold_at += hot == cold  # flushed meanwhile: both have it
        else:
            chosen = cold
            self._cold_at += 1
        assert chosen is not None
        checkpoint_id, thread, ns = chosen
        self.is_hot = chosen is hot
        return CheckpointRef(thread, ns, checkpoint_id)
