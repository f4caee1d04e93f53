"""Bytes and read time of a growing value stored as patches (docs/decisions/0003), without any
database.

Whole versions are what a saver without patches stores.
"""

from __future__ import annotations

import random
import time

from bench.harness import BenchError, Recorder, Scene
from surgetank.encode.differences import patch
from surgetank.encode.differences.patch import Blob, Tip

TITLE = "Patch chains"
CHAIN = "patch chain"
FULL = "whole versions"


def run(scene: Scene) -> Recorder:
    """1,200 random hexadecimal digits a step: all that can be saved is what was there before, and
    half of the rest."""
    recorder, steps = Recorder("chains"), scene.scale.storage_steps[-1]
    source, value = random.Random(1), b""
    tip: Tip | None = None
    blobs: dict[int, Blob] = {}
    encode: list[float] = []
    for n in range(1, steps + 1):
        value += source.randbytes(600).hex().encode()
        start = time.perf_counter()
        blob, tip = patch.extend(tip, n, value)
        encode.append((time.perf_counter() - start) * 1000)
        blobs[blob.n] = blob
    decode, depths = _decode(blobs, steps, value)
    stored, whole = (
        sum(len(b.data) for b in blobs.values()),
        sum(b.raw_bytes for b in blobs.values()),
    )
    label = f"{steps} versions of a growing value"
    recorder.add(1, CHAIN, "bytes", stored / 1e6, label=label, unit="MB")
    recorder.add(1, FULL, "bytes", whole / 1e6, label=label, unit="MB")
    recorder.add(1, CHAIN, "encode", encode, label="encode a version")
    recorder.add(1, CHAIN, "decode", decode, label="decode a version of the later half")
    recorder.add(
        1, CHAIN, "depth", float(max(depths)), label="blobs behind a version, at most", unit="blobs"
    )
    return recorder


def _decode(blobs: dict[int, Blob], steps: int, newest: bytes) -> tuple[list[float], list[int]]:
    times, depths = [], []
    value: Tip | None = None
    for n in range(steps // 2, steps + 1):
        path = [blobs[n]]
        while (base := path[-1].base_n) is not None:
            path.append(blobs[base])
        start = time.perf_counter()
        value = patch.decode_path(path[::-1])
        times.append((time.perf_counter() - start) * 1000)
        depths.append(len(path))
    if value is None or value.raw != newest:
        raise BenchError("the chain gave another value than was stored")
    return times, depths
