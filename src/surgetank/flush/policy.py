"""When to flush, and when to try again. Pure: values in, a decision out.

Backoff is exponential with full jitter over its upper half, so that many partitions that failed
together don't come back together (the "decorrelated" idea of the AWS architecture blog on backoff
and jitter).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from surgetank.model import Failure, FailureKind


@dataclass(frozen=True, slots=True)
class StreamPolicy:
    """When a partition of a stream is due (any of the three), and how much is written at once.

    Partitions share a batch: each gives at least `share_entries` and `share_bytes` if it has them,
    more when there is room. A scheduled job ends after `job_s`, once each of its partitions has had
    a turn.
    """

    entries: int = 1000
    bytes: int = 4 * 1024**2
    age_s: float = 1.0
    batch_entries: int = 2000
    batch_bytes: int = 8 * 1024**2
    batch_partitions: int = 2000
    share_entries: int = 64
    share_bytes: int = 256 * 1024
    job_s: float = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait after a failure: `base_s * 2**(attempt-1)`, at most `max_s`; `fatal_s` after
    a fatal one."""

    base_s: float = 0.5
    max_s: float = 60.0
    fatal_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """The decision after a failure: how many attempts there were, and when the next one is due."""

    attempts: int
    next_at: float


@dataclass(frozen=True, slots=True)
class SpillPolicy:
    """When entries are spilled: what waits for `after_s` because its partition fails; and, from a
    share `fill` of the buffer's bytes on, the largest partitions until it is down to three quarters
    of that.
    """

    after_s: float = 3600.0
    fill: float = 0.8
    file_bytes: int = 32 * 1024**2
    step_s: float = 2.0  # longest work at a time, but for the file that is being written
    pause_s: float = 30.0  # after the location could not be used
    silent_s: float = 3600.0  # a file that nobody has gone on writing for so long is given up


def is_relieving(policy: SpillPolicy, fill: float, *, before: bool) -> bool:
    """Whether the buffer is to be relieved, now that it is so full. `before`: whether it was being
    relieved."""
    return fill >= policy.fill or (before and fill > 0.75 * policy.fill)


def next_attempt(
    failure: Failure,
    attempts_before: int,
    now: float,
    policy: RetryPolicy,
    random: Callable[[], float],
) -> Attempt:
    """Decide when to try again. `random` gives floats in [0, 1)."""
    attempts = attempts_before + 1
    if failure.kind is FailureKind.FATAL:
        wait = policy.fatal_s
    else:
        wait = min(policy.max_s, policy.base_s * 2.0 ** min(attempts - 1, 60))
    return Attempt(attempts, now + wait * (0.5 + random() / 2))
