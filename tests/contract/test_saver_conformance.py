"""LangGraph's own conformance suite, through the async and the sync methods, with the data at every
temperature."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from support.savers import TEMPERATURES, settings_for, tempered, through_sync


@pytest.mark.parametrize("methods", ["async", "sync"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
async def test_every_capability_of_the_conformance_suite_is_passed(make_tank, temperature, methods):
    tank = make_tank(**settings_for(temperature))

    @checkpointer_test(name=f"surgetank {temperature} {methods}")
    async def factory():
        saver = tempered(tank, temperature)
        yield through_sync(saver) if methods == "sync" else saver

    report = await validate(factory)

    assert report.passed_all_base()
    for capability in Capability:
        result = report.results[capability.value]
        assert result.detected, capability
        assert result.passed is True, (capability, result.failures)
        assert result.tests_passed > 0
    job = tank.flush()
    assert job.ok, job.result
    assert tank.parked() == []
