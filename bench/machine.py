"""The machine and the versions that figures come from, without which a figure means nothing. No
names, no paths."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

_PACKAGES = (
    "surgetank", "langgraph", "langgraph-checkpoint", "langgraph-checkpoint-postgres", "langgraph-checkpoint-sqlite",
    "psycopg", "orjson", "ormsgpack", "zstandard",
)  # fmt: skip


def describe(home: Path) -> dict[str, Any]:
    """Processor, memory, system, and what a durable write to the folder costs."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "file_system": _file_system(home),
        "fdatasync_us": round(_fdatasync_us(home)),
        "load_at_start": round(os.getloadavg()[0], 1),
        "packages": {name: version(name) for name in _PACKAGES},
    }


def is_busy(machine: dict[str, Any]) -> bool:
    """Whether something else ran when the measurements began."""
    return bool(machine["load_at_start"] > machine["cores"] / 2)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _file_system(home: Path) -> str:
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "unknown file system"
    fields = [line.split() for line in mounts.read_text().splitlines()]
    return max((f for f in fields if home.is_relative_to(f[1])), key=lambda f: len(f[1]))[2]


def _fdatasync_us(home: Path, times: int = 50) -> float:
    """Median time to append 4 KB durably. Tens of microseconds tell of a cache that is backed, or
    of one that lies."""
    taken = []
    with (home / "probe").open("wb", buffering=0) as file:
        for _ in range(times):
            start = time.perf_counter()
            file.write(bytes(4096))
            getattr(os, "fdatasync", os.fsync)(file.fileno())
            taken.append(time.perf_counter() - start)
    (home / "probe").unlink()
    return sorted(taken)[times // 2] * 1e6
