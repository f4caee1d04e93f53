"""Whatever is put into the serializer comes back equal in value and type, or is refused."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings

from support.strict import widened
from support.values import VALUES, same
from surgetank.encode.plain import to_plain
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer, ValueRefused

SERDE = widened(FaithfulSerializer(), "support.values")


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_a_value_comes_back_the_same_or_is_refused(value: Any) -> None:
    try:
        type_, data = SERDE.dumps_typed(value)
    except ValueRefused:
        return
    assert same(SERDE.loads_typed((type_, data)), value)
    dumps_jsonb(to_plain(type_, data))
