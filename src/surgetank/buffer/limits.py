"""How much a buffer holds, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """How much may wait, and what `append` does at the limit.

    `when_full="block"` waits up to `block_timeout_s` for space, `"reject"` raises at once.
    """

    max_bytes: int = 4 * 1024**3
    max_entries: int = 5_000_000
    when_full: Literal["block", "reject"] = "block"
    block_timeout_s: float = 30.0
