"""Every kind of buffer, for the suite that each must pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.buffers import KINDS, BufferHouse, FakeClock
from surgetank.buffer.protocol import Buffer


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BufferHouse]:
    """A home for a buffer's contents. At the end what was opened in it is closed, and all that the
    buffer counts is counted again."""
    house = BufferHouse(request.param, tmp_path)
    yield house
    house.close()
    assert house.miscounted() == []


@pytest.fixture
def buffer(house: BufferHouse) -> Buffer:
    """A new, empty buffer."""
    return house.open()


@pytest.fixture
def clock(house: BufferHouse) -> FakeClock:
    """The clock of the house's buffers."""
    return house.clock
