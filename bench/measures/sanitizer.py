"""The sanitizer beside a bare `orjson.dumps`, on data that is clean and on data that is not.

`sanitize_for_json` gives a value that must still be encoded; `dumps_jsonb` is what the flush uses
for projections and encodes on the way. On dirty data orjson is no real peer: it turns NaN into null
without a word, and PostgreSQL refuses the NUL that it lets through.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from typing import Any

import orjson

from bench import chat
from bench.harness import Recorder, Scene
from surgetank.encode.sanitize import dumps_jsonb, sanitize_for_json

TITLE = "Sanitizing for jsonb"
ORJSON = "orjson.dumps"
SANITIZE = "sanitize_for_json + orjson.dumps"
DUMPS = "dumps_jsonb"
_BATCHES = 5


def run(scene: Scene) -> Recorder:
    """Each encoder on each value."""
    recorder = Recorder("sanitizer")
    encoders: list[tuple[str, Callable[[Any], Any]]] = [
        (ORJSON, orjson.dumps), (SANITIZE, lambda v: orjson.dumps(sanitize_for_json(v))), (DUMPS, dumps_jsonb),
    ]  # fmt: skip
    for key, (label, value) in _values().items():
        for number, (who, encode) in scene.turns(encoders):
            recorder.add(
                number,
                who,
                key,
                _microseconds(encode, value, scene.scale.batch_ms),
                label=label,
                unit="us",
            )
    return recorder


def _microseconds(encode: Callable[[Any], Any], value: Any, batch_ms: float) -> list[float]:
    """Time of one call, from batches long enough for the clock."""
    calls = 1
    while _batch(encode, value, calls) * 1000 < batch_ms and calls < 1_000_000:
        calls *= 2
    return [_batch(encode, value, calls) / calls * 1e6 for _ in range(_BATCHES)]


def _batch(encode: Callable[[Any], Any], value: Any, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        encode(value)
    return time.perf_counter() - start


def _values() -> dict[str, tuple[str, Any]]:
    source = random.Random(1)
    said = [m.model_dump() for m in chat.messages(50, seed=1)]
    # As an embedding has them: single precision. One of the odd ones has a NaN's packed bytes
    # inside.
    numbers = {
        "scores": [
            struct.unpack("f", struct.pack("f", source.uniform(0.5, 1)))[0] for _ in range(5000)
        ]
    }
    looks_odd = {
        "scores": [
            *numbers["scores"][1:],
            struct.unpack(">d", bytes.fromhex("3fe0cb7ff0000000"))[0],
        ]
    }
    metadata = {
        "source": "loop",
        "step": 7,
        "parents": {},
        "run_id": "1f0c0000",
        "user": {"id": 12, "name": "Ann"},
    }
    return {
        "clean chat": ("clean: 100 messages", said),
        "clean numbers": ("clean: 5,000 floats", numbers),
        "clean odd numbers": ("clean: 5,000 floats, one with the bytes of a NaN inside", looks_odd),
        "clean metadata": ("clean: metadata of a checkpoint", metadata),
        "dirty chat": (
            "dirty: a NUL in one of 100 messages",
            [*said[:-1], {**said[-1], "content": "a\x00b"}],
        ),
        "dirty numbers": (
            "dirty: 50 NaN in 5,000 floats",
            {"scores": [*numbers["scores"][50:], *[float("nan")] * 50]},
        ),
        "dirty metadata": ("dirty: metadata with NaN", {**metadata, "score": float("nan")}),
    }
