"""`python -m bench.chains`: bytes and read time of a growing chat stored as patches (docs/decisions/0003)."""

from __future__ import annotations

import random
import statistics
import time

from surgetank.encode import patch
from surgetank.encode.patch import Blob, Tip


def main(steps: int = 400) -> None:
    """Two messages of 600 bytes a step; prints what is stored and how long reading takes."""
    source, value = random.Random(1), b""
    tip: Tip | None = None
    blobs: list[Blob] = []
    for n in range(1, steps + 1):
        value += f"{source.getrandbits(4800):01200x}".encode()
        blob, tip = patch.extend(tip, n, value)
        blobs.append(blob)
    by_n = {b.n: b for b in blobs}
    times, depths = [], []
    for n in range(steps // 2, steps + 1):
        path = [by_n[n]]
        while path[-1].base_n is not None:
            path.append(by_n[path[-1].base_n])
        start = time.perf_counter()
        patch.decode_path(path[::-1])
        times.append((time.perf_counter() - start) * 1000)
        depths.append(len(path))
    whole = sum(b.raw_bytes for b in blobs)
    stored = sum(len(b.data) for b in blobs)
    print(
        f"{steps} steps, newest {len(value)} bytes: {stored} bytes stored, {whole / stored:.0f} x less than whole"
    )
    print(
        f"reading: {statistics.median(times):.2f} ms median, {max(times):.2f} ms at most, {max(depths)} blobs at most"
    )


if __name__ == "__main__":
    main()
