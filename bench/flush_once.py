"""`python -m bench.flush_once HOME URL`: flush what waits, and say how much memory this process
took for it.

A program of its own, because the peak that the kernel keeps is that of a whole process; it imports
nothing else.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from surgetank import Surgetank
from surgetank.streams.checkpoints.envelope import STREAM as CHECKPOINTS


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss would count the parent's memory before this program was loaded
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(home: str, url: str) -> None:
    """Flush, and print one line of JSON."""
    with Surgetank(home, database_url=url, flush_in_process=False, flush_on_close=False) as tank:
        with tank.parts.database.connection():
            before = peak_bytes()
        start = time.perf_counter()
        job = tank.flush()
        took = time.perf_counter() - start
        left = tank.parts.buffer.last_seq(CHECKPOINTS)
        print(
            json.dumps(
                {"ok": job.ok and not left, "before": before, "peak": peak_bytes(), "seconds": took}
            )
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
