"""Values that unfold without end, and objects that do anything when they are looked at: bounded,
and told by name."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from surgetank.encode import jsonable, sanitize
from surgetank.encode.sanitize import dumps_jsonb, sanitize_for_json
from surgetank.streams.errors.groups import ErrorReport
from surgetank.streams.logs.line import LogLine


@pytest.fixture
def small_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitize, "MAX_NODES", 5000)
    monkeypatch.setattr(sanitize, "_MANY", 1000)


def doubled(levels: int) -> Any:
    value: Any = ["leaf"]
    for _ in range(levels):
        value = [value, value]
    return value


def laughs(kind: str) -> Any:
    value: Any = "lol"
    for _ in range(10):
        value = {
            "list": lambda v: [v] * 10, "dict": lambda v: {str(n): v for n in range(10)}, "tuple": lambda v: (v,) * 10
        }[kind](value)  # fmt: skip
    return value


UNFOLDING: dict[str, Any] = {
    "sixty lists of two": doubled(60),
    "ten lists of ten": laughs("list"),
    "ten objects of ten": laughs("dict"),
    "ten tuples of ten": laughs("tuple"),
    "one large flat object, a million times": [[{f"k{n}": n for n in range(1000)}] * 1000] * 1000,
    "beside much that is harmless": [{"n": n, "more": []} for n in range(300)]
    + [{"deep": doubled(60)}],
    "under numbers": [1.0] * 100 + [doubled(60)],
}


@pytest.mark.parametrize("name", UNFOLDING)
@pytest.mark.usefixtures("small_budget")
def test_shared_values_that_unfold_are_cut_and_told(name):
    value = {"value": UNFOLDING[name]}
    for clean, replaced in (
        (json.dumps(sanitize_for_json(value)), sanitize.sanitize(value).replacements),
        (dumps_jsonb(value)[0].decode(), dumps_jsonb(value)[1]),
    ):
        assert len(clean) < 200_000
        json.loads(clean)
        assert "more than 5000 values, shared ones counted each time" in " ".join(
            r.reason for r in replaced
        )


@pytest.mark.usefixtures("small_budget")
@pytest.mark.parametrize("holder", [lambda v: {"v": v}, lambda v: {"v": {"in": v}}, lambda v: (v,)])
def test_tuples_that_the_garbage_collector_does_not_track_are_counted_too(holder):
    unfolding = laughs("tuple")
    value = holder(unfolding)
    for _ in range(20):  # takes tuples of scalars off its list, then tuples of these
        gc.collect()
    assert not gc.is_tracked(unfolding)
    clean, replaced = dumps_jsonb(value)
    assert len(clean) < 200_000
    assert "more than 5000 values" in " ".join(r.reason for r in replaced)


def test_a_value_is_shown_without_writing_all_of_it():
    assert jsonable.show(laughs("tuple")).startswith("((((((((((")
    assert jsonable.show([1, (2,), {"a": {3}}, set(), "x"]) == "[1, (2,), {'a': {3}}, set(), 'x']"
    cycle: list[Any] = [1]
    cycle.append(cycle)
    assert jsonable.show(cycle).startswith("[1, [1, [1, ")
    assert jsonable.show([10**5000]) == "[<int of 16610 bits>]"
    assert jsonable.show("x" * 10**6) == "'" + "x" * 199


@pytest.mark.usefixtures("small_budget")
def test_what_is_shared_and_unfolds_to_little_is_not_touched():
    value = {"a": doubled(6), "b": [{"x": [1, 2]}] * 50}
    assert sanitize_for_json(value) is value
    assert dumps_jsonb(value)[1] == ()


def test_a_large_value_without_sharing_is_not_touched():
    value = [{"n": [n], "text": "x"} for n in range(60_000)]
    assert sanitize_for_json(value) is value


class Endless(Mapping[Any, Any]):
    """As many keys as one takes, each with another such mapping."""

    def __init__(self, width: float) -> None:
        self.width = width

    def __getitem__(self, key: Any) -> Any:
        return Endless(self.width)

    def __iter__(self) -> Iterator[int]:
        n = 0
        while n < self.width:
            yield n
            n += 1

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize("width", [1, 2, math.inf])
def test_a_mapping_without_end_is_cut_and_told(width, monkeypatch):
    monkeypatch.setattr(sanitize, "MAX_NODES", 3000)
    monkeypatch.setattr(jsonable, "MAX_ARRAY", 1000)
    for value in (Endless(width), {"a": Endless(width)}, [Endless(width)]):
        found = sanitize.sanitize(value)
        json.dumps(found.value, allow_nan=False)
        assert found.replacements


def test_log_lines_and_error_reports_with_a_mapping_without_end_can_be_packed(monkeypatch):
    monkeypatch.setattr(sanitize, "MAX_NODES", 3000)
    monkeypatch.setattr(jsonable, "MAX_ARRAY", 1000)
    assert LogLine("t", "x", fields=Endless(math.inf)).pack()
    assert ErrorReport("x", "y", context=Endless(math.inf)).pack()
    assert LogLine("t", "x", fields={"a": doubled(60)}).pack()


def hostile(name: str, error: type[BaseException]) -> Any:
    def raises(*_: Any, **__: Any) -> Any:
        raise error("on purpose")

    return type("Hostile", (), {name: raises, "__hash__": object.__hash__})()


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, ValueError, RecursionError])
@pytest.mark.parametrize(
    "name", ["__repr__", "__str__", "model_dump", "__getattr__", "_asdict", "__class_getitem__"]
)
def test_whatever_a_hostile_object_raises_becomes_a_marker(name, error):
    made = hostile(name, error)
    for value in (made, [made], {"a": made}, {"x": {made}}):
        found = sanitize.sanitize(value)
        json.dumps(found.value, allow_nan=False)
        assert found.replacements
    json.dumps(sanitize.sanitize({made: 1}).value)


@pytest.mark.parametrize("name", ["keys", "items", "__iter__", "__len__", "__getitem__"])
@pytest.mark.parametrize("error", [SystemExit, ValueError])
def test_a_hostile_mapping_ends_where_it_raises(name, error):
    def raises(*_: Any) -> Any:
        raise error("on purpose")

    kind = type(
        "HostileMapping",
        (Endless,),
        {name: raises, "__getitem__": lambda _, key: key} | {name: raises},
    )
    found = sanitize.sanitize({"a": kind(2), "b": 1})
    assert found.value["b"] == 1


def test_ctrl_c_stays_ctrl_c():
    with pytest.raises(KeyboardInterrupt):
        sanitize.sanitize([hostile("__repr__", KeyboardInterrupt)])


@pytest.mark.parametrize(
    "text",
    [
        "\x00",
        "\x00" * 3,
        "x\x00",
        "\x00" + "y" * 219,
        "\x00" + "y" * 221,
        "\x00" + "y" * 0xDBFF,
        "z" * 220 + "\x00",
    ],
)
@pytest.mark.parametrize("count", [1, 16, 17, 300])
def test_a_nul_is_found_beside_the_lengths_of_long_lists(text, count):
    """In msgpack the length of a list begins with a NUL byte, too."""
    for value in (
        [text, *["a"] * count],
        ["a" * 300] * count + [{"k": text}],
        {"k" * 220: [[text] * count]},
    ):
        assert "\x00" not in json.dumps(sanitize_for_json(value), ensure_ascii=False)
        assert b"\\u0000" not in dumps_jsonb(value)[0]


def test_the_garbage_collector_tracks_what_has_containers_in_it():
    """The count relies on it."""
    assert gc.is_tracked({"a": [1]})
    assert gc.is_tracked({"a": {"b": []}})
    assert gc.is_tracked([])
