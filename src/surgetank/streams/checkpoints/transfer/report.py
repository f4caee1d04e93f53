"""What a move did, as far as it has come. It needs no extra, unlike what moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from surgetank.exceptions import BrokenRow

REFS_SHOWN = 1000


@dataclass(slots=True)
class Report:
    """What a move did. `already_there` were found equal in the target; `skipped` says which and
    why."""

    kind: str
    source: str
    target: str
    dry_run: bool = False
    resumed: bool = False
    threads: int = 0
    threads_done_before: int = 0
    checkpoints: int = 0
    writes: int = 0
    bytes: int = 0
    already_there: int = 0
    verified: int = 0
    orphan_writes: int = 0
    skipped_count: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def skip(self, error: BrokenRow) -> None:
        """Note what could not be moved."""
        self.skipped_count += 1
        if len(self.skipped) < REFS_SHOWN:
            thread_id, ns, checkpoint_id = error.checkpoint
            self.skipped.append(
                {
                    "thread": thread_id,
                    "namespace": ns,
                    "checkpoint": checkpoint_id,
                    "reason": error.reason,
                }
            )
