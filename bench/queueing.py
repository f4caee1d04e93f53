"""How far the database is behind when so many workers flush: `python -m bench.queueing`

A simulation. Each worker takes what waits in its shards, at most a batch, and commits it:
a fixed time and one for each entry. What arrives meanwhile waits for the next batch. So load makes
batches larger before it makes the lag longer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

COMMIT_S = 0.020  # of one transaction, whatever is in it
ENTRY_S = 0.000_12  # of one entry: the worker's part and the database's
BATCH = 2000
SECONDS = 20.0


@dataclass(frozen=True)
class Outcome:
    """Lag of entries when they are committed, and how full batches were."""

    p50_s: float
    p99_s: float
    mean_batch: float
    left: int


def simulate(per_second: float, workers: int, *, seed: int = 1) -> Outcome:
    """One run: arrivals of a Poisson process, spread evenly over the workers' shards."""
    rng = random.Random(seed)
    lags: list[tuple[float, int]] = []
    batches = committed = left = 0
    rate = per_second / workers
    for _ in range(workers):
        now, oldest, waiting = rng.uniform(0, COMMIT_S), 0.0, 0.0
        while now < SECONDS:
            waiting = rate * (now - oldest)  # what came since the last entry that was taken
            taken = min(BATCH, max(1, round(waiting)))
            took = rng.expovariate(1 / COMMIT_S) + taken * ENTRY_S
            lags.append((now + took - oldest - taken / rate / 2, taken))
            oldest, now = oldest + taken / rate, now + took
            batches, committed = batches + 1, committed + taken
        left += round(rate * max(0.0, now - oldest))
    lags.sort()
    return Outcome(_share(lags, 0.5), _share(lags, 0.99), committed / batches, left)


def _share(lags: list[tuple[float, int]], share: float) -> float:
    wanted, passed = share * sum(count for _, count in lags), 0
    for lag, count in lags:
        passed += count
        if passed >= wanted:
            return lag
    return lags[-1][0]


def main() -> None:
    """Print a table: puts a second, workers, lag, batch."""
    print("| puts a second | workers | lag p50 | lag p99 | entries a commit |")
    print("|---:|---:|---:|---:|---:|")
    for per_second, workers in (
        (1e3, 1),
        (5e3, 1),
        (9e3, 2),
        (2e4, 4),
        (1e5, 12),
        (1e5, 16),
        (1e5, 24),
    ):
        done = simulate(per_second, workers)
        lag = f"{done.p50_s * 1000:.0f} ms | {done.p99_s * 1000:.0f} ms"
        print(f"| {per_second:,.0f} | {workers} | {lag} | {done.mean_batch:.0f} |")


if __name__ == "__main__":
    main()
