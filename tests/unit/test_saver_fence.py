"""A saver's sink remembers the leases of many partitions, and longest of those that go on."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from surgetank.exceptions import LeaseLost
from surgetank.model import Lease
from surgetank.sinks.protocol import Slice
from surgetank.streams.checkpoints.any_saver import sink as module
from surgetank.streams.checkpoints.any_saver.sink import SaverSink


def test_a_partition_that_goes_on_keeps_its_fence_when_many_others_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_THREADS_KNOWN", 3)
    saver = InMemorySaver()
    sink = SaverSink(saver, saver.serde, Mock())

    def flush(partition: str, token: int) -> None:
        sink.write([Slice(Lease("checkpoints", partition, token, "w", 0.0), [])], buffer_id="b")

    for n in range(2, 12):
        flush("busy", n)
        flush(f"other-{n}", 1)
        with pytest.raises(LeaseLost):
            flush("busy", n - 1)
