"""Tenants take turns at being leased: a flood of one delays another by a bounded number of leases."""

from __future__ import annotations

from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint

from support.buffers import BufferHouse, FakeClock, names, put, take
from surgetank.buffer.coordination import Ack, Due
from surgetank.buffer.protocol import Buffer
from surgetank.model import Record
from surgetank.streams.checkpoints.saver import SurgetankSaver

FLOOD = 120


def put_for(buffer: Buffer, tenant: str, partition: str) -> int:
    return buffer.append("s", partition, [Record(b"k", b"v")], tenant=tenant)


@pytest.fixture
def flooded(buffer: Buffer, clock: FakeClock) -> Buffer:
    """Much of one tenant has waited for longer than what another one put after it."""
    for number in range(FLOOD):
        put_for(buffer, "loud", f"loud-{number}")
    clock.advance(1)
    for number in range(3):
        put_for(buffer, "quiet", f"quiet-{number}")
    return buffer


def lease_names(buffer: Buffer, due: Due) -> list[str]:
    return names(buffer.lease("s", due, owner="w", ttl_s=15))


def test_a_tenant_is_leased_beside_the_flood_of_another_although_that_has_waited_longer(
    flooded: Buffer,
) -> None:
    leased = lease_names(flooded, Due(limit=10))
    assert len(leased) == 10
    assert {"quiet-0", "quiet-1", "quiet-2"} < set(leased)


def test_a_flood_delays_another_tenant_by_five_leases_at_most(flooded: Buffer) -> None:
    due = Due(entries=1, enough_entries=10)
    leases = [lease_names(flooded, due) for _ in range(5)]
    assert all(10 <= len(leased) <= 12 for leased in leases)
    assert {"quiet-0", "quiet-1", "quiet-2"} < {name for leased in leases for name in leased}


def test_what_is_enough_counts_of_each_partition_its_share_at_most(buffer: Buffer) -> None:
    for partition in ("p", "q", "r"):
        for number in range(20):
            put(buffer, partition, b"%d" % number)
    assert len(lease_names(buffer, Due(enough_entries=20))) == 1
    assert len(lease_names(buffer, Due(enough_entries=20, share_entries=10))) == 2


def test_a_partition_goes_to_the_tenant_that_was_named_last_and_stays_with_it(
    house: BufferHouse, clock: FakeClock
) -> None:
    buffer = house.open()
    for number in range(FLOOD):
        put_for(buffer, "loud", f"loud-{number}")
    clock.advance(1)
    put_for(buffer, "loud", "moved")
    put_for(buffer, "quiet", "moved")
    assert "moved" in lease_names(house.open(), Due(limit=2))
    clock.advance(60)
    leased = take(buffer, partition="moved")
    entries = buffer.read(leased.lease, max_entries=10, max_bytes=1000)
    buffer.ack([Ack(leased.lease, entries, release=True)])
    put(buffer, "moved")  # without saying whose it is
    assert "moved" in lease_names(buffer, Due(limit=2))
    assert house.miscounted() == []


def test_names_of_tenants_are_never_taken_apart(buffer: Buffer, clock: FakeClock) -> None:
    hostile = ["", ":", "a:b", "{0}", "*", "\u00e9\U0001f600", "' OR 1=1 --", "x" * 200]
    for tenant in hostile:
        for number in range(20):
            put_for(buffer, tenant, f"{hostile.index(tenant)}-{number}")
    leased = lease_names(buffer, Due(limit=2 * len(hostile)))
    assert sorted(name.split("-")[0] for name in leased) == sorted("01234567" * 2)


@pytest.mark.parametrize("where", ["configurable", "metadata", "of the put"])
def test_a_setting_names_the_key_of_a_config_that_names_the_tenant(
    buffer: Buffer, clock: FakeClock, where: str
) -> None:
    no_cold: Any = None  # nothing is read
    saver = SurgetankSaver(buffer, no_cold, tenant_key="customer")

    def put_checkpoint(thread: str, customer: object) -> None:
        config: Any = {"configurable": {"thread_id": thread, "checkpoint_ns": ""}, "metadata": {}}
        metadata: Any = {"source": "loop", "step": 0, "parents": {}}
        target = metadata if where == "of the put" else config[where]
        target["customer"] = customer
        stored = saver.put(config, empty_checkpoint(), metadata, {})
        saver.put_writes(stored, [("channel", 1)], "task")  # says nothing of a tenant

    for number in range(20):
        put_checkpoint(f"loud-{number}", "loud")
    clock.advance(1)
    for number, customer in enumerate(["quiet", 7, "\ud800\0", "x" * 1000]):
        put_checkpoint(f"quiet-{number}", customer)
    for number, customer in enumerate([None, "", 1.5, ["loud"], {}]):
        put_checkpoint(f"nobody-{number}", customer)
    due = Due(limit=6)
    leased = {x.lease.partition for x in buffer.lease("checkpoints", due, owner="w", ttl_s=15)}
    assert {"quiet-0", "quiet-1", "quiet-2", "quiet-3"} < leased
    assert sum(name.startswith("nobody") for name in leased) == 1
