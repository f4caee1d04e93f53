"""Whatever is put in, what comes out of `sanitize` is JSON; nothing raises and nothing hangs."""

from __future__ import annotations

import collections.abc
import datetime as dt
import json
import math
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings

from support.values import VALUES, Disguised, Several, Words
from surgetank import sanitize_for_json
from surgetank.encode.sanitize import dumps_jsonb, sanitize


def check(value: Any) -> Any:
    """What `sanitize` makes of a value, after all that it promises of it was looked at."""
    clean = sanitize(value)
    text = json.dumps(clean.value, allow_nan=False)
    assert "\\u0000" not in json.dumps(_without_backslashes(clean.value))
    text.encode()
    assert json.loads(text) == clean.value
    assert sanitize(clean.value).value is clean.value or sanitize(clean.value).value == clean.value
    assert sanitize(clean.value).count == 0
    encoded, _ = dumps_jsonb(value)
    assert json.loads(encoded) is not None or clean.value is None
    encoded.decode()
    return clean.value


def _without_backslashes(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_backslashes(k): _without_backslashes(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_without_backslashes(v) for v in value]
    return value.replace("\\", "") if isinstance(value, str) else value


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_what_comes_out_is_json_whatever_went_in(value: Any) -> None:
    check(value)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_what_json_carries_as_it_is_comes_out_unchanged(value: Any) -> None:
    clean = sanitize_for_json(value)
    assert sanitize_for_json(clean) == clean
    assert json.loads(dumps_jsonb(clean)[0]) == json.loads(json.dumps(clean))


class BadZone(dt.tzinfo):
    """Answers twice, and then no more."""

    asked = 0

    def utcoffset(self, _: dt.datetime | None) -> dt.timedelta | None:
        BadZone.asked += 1
        if BadZone.asked > 2:
            raise RuntimeError
        return None


class Day(dt.date):
    def isoformat(self) -> str:
        return "x\x00\ud800"


class Strange(dt.date):
    def isoformat(self) -> Any:
        return object()


class Span(dt.timedelta):
    def total_seconds(self) -> float:
        return math.nan


class Mute(uuid.UUID):
    def __str__(self) -> str:
        raise RuntimeError


class Nameless(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


class Nobody(metaclass=Nameless):
    def __repr__(self) -> str:
        raise RuntimeError


class Threes(dict[Any, Any]):
    def items(self) -> Any:
        return [(1, 2, 3)]


class Endless(list[Any]):
    def __iter__(self) -> Iterator[Any]:
        while True:
            yield 1


class Triples(collections.abc.Mapping[Any, Any]):
    """A mapping that is no dict, and gives back what no mapping gives."""

    def __getitem__(self, key: Any) -> Any:
        return key

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Any]:
        return iter([1])

    def items(self) -> Any:
        return [(1, 2, 3)]


class Liar(Words):
    def __str__(self) -> str:
        return "\x00"

    def __repr__(self) -> str:
        return "\ud800"


class Dumps:
    """Its `model_dump` gives another one, for ever."""

    def model_dump(self) -> Any:
        return Dumps()


HOSTILE: dict[str, Callable[[], Any]] = {
    "a text whose value is a number, as key": lambda: {Disguised.A: 1},
    "a key that can't be shown": lambda: {Mute(int=1): 1},
    "a key of odd text": lambda: {Day(2026, 1, 1): 1},
    "a key of no text": lambda: {Strange(2026, 1, 1): 1},
    "a date of odd text": lambda: [Day(2026, 1, 1), Strange(2026, 1, 1)],
    "a span of NaN": lambda: Span(1),
    "a zone that fails": lambda: {dt.datetime(2026, 1, 1, tzinfo=cast("Any", BadZone)()): 1},
    "a class without a name": lambda: [Nobody(), {Nobody(): 1}],
    "items that are no pairs": lambda: [Threes(a=1), Triples()],
    "a list without an end": lambda: Endless([1]),
    "a text that lies": lambda: {Liar("a"): Liar("b")},
    "a dump of dumps": Dumps,
    "keys that are all NaN": lambda: {float("nan"): 1 for _ in range(20_000)},
    "integers at the limit": lambda: [10**4213, 10**4214, -(10**4300), 1 << 100_000],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_object_becomes_a_marker(name: str) -> None:
    check(HOSTILE[name]())


def test_a_root_model_is_shown_as_what_it_holds() -> None:
    assert check({"m": Several([1, (2,)])}) == {"m": [1, [2]]}


DEEP = {"lists": "lambda v: [v]", "dicts": "lambda v: {'a': v}", "tuples": "lambda v: (v,)"}


@pytest.mark.parametrize("kind", DEEP)
def test_a_hundred_thousand_levels_end_neither_the_call_nor_the_process(kind: str) -> None:
    # In a process of its own: orjson used up the stack on nested tuples, which kills whoever asked
    # it.
    program = (
        "import json\nfrom surgetank.encode.sanitize import dumps_jsonb, sanitize\n"
        f"wrap, value = {DEEP[kind]}, 0\n"
        "for _ in range(100_000): value = wrap(value)\n"
        "json.dumps(sanitize(value).value); json.loads(dumps_jsonb({'v': value})[0]); "
        "print('alive')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "alive\n", (done.returncode, done.stderr[-500:])
