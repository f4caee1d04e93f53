"""The map that forgets, against a list that does the same slowly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from surgetank.bounded import BoundedMap

KEYS = st.integers(0, 9)
STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "use", "get", "del"]), KEYS, st.binary(max_size=6)),
    max_size=60,
)


@given(STEPS, st.none() | st.integers(0, 5), st.none() | st.integers(0, 12))
@settings(derandomize=True, database=None, deadline=None)
def test_it_keeps_what_was_set_or_used_last_within_both_limits(steps, most, most_weight) -> None:
    evicted: list[tuple[int, bytes]] = []
    kept = BoundedMap[int, bytes](
        most, most_weight=most_weight, weigh=len, on_evict=lambda k, v: evicted.append((k, v))
    )
    model: list[tuple[int, bytes]] = []
    gone: list[tuple[int, bytes]] = []
    for what, key, value in steps:
        held = dict(model)
        if what == "set":
            model = [(k, v) for k, v in model if k != key] + [(key, value)]
            if most_weight is not None and len(value) > most_weight:
                gone.append(model.pop())
            while (most is not None and len(model) > most) or (
                most_weight is not None and sum(len(v) for _, v in model) > most_weight
            ):
                gone.append(model.pop(0))
            kept[key] = value
        elif what == "use":
            assert kept.use(key) == held.get(key)
            if key in held:
                model = [(k, v) for k, v in model if k != key] + [(key, held[key])]
        elif what == "get":
            assert kept.get(key) == held.get(key)
            assert (key in kept) is (key in held)
        elif key in held:
            del kept[key]
            model = [(k, v) for k, v in model if k != key]
        assert list(kept.items()) == model
        assert list(reversed(kept)) == [k for k, _ in reversed(model)]
        assert kept.weight == sum(len(v) for _, v in model)
    assert evicted == gone


def test_a_value_that_weighs_too_much_is_not_kept_and_the_others_stay() -> None:
    kept = BoundedMap[str, bytes](most_weight=3, weigh=len)
    kept["a"] = b"12"
    kept["b"] = b"1234"
    assert dict(kept) == {"a": b"12"}
    kept["a"] = b"1234"
    assert dict(kept) == {}
    assert kept.weight == 0


def test_it_is_a_mapping() -> None:
    kept = BoundedMap[str, int](2)
    kept.update(a=1, b=2, c=3)
    assert dict(kept) == {"b": 2, "c": 3}
    assert kept.pop("b") == 2
    assert kept.pop("b", None) is None
    with pytest.raises(KeyError):
        del kept["b"]
    kept.clear()
    assert len(kept) == 0
