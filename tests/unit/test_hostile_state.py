"""What somebody who can write to the database puts into a stored value: nothing is called, nothing
grows."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langgraph.checkpoint.serde._msgpack import STRICT_MSGPACK_ENABLED

from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.serde.changes import noticing
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer, ValueRefused


def stored(code: int, payload: Any) -> tuple[str, bytes]:
    return "msgpack", ormsgpack.packb({"v": [ormsgpack.Ext(code, ormsgpack.packb(payload))]})


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "called"


def command(marker: Path) -> list[str]:
    return ["touch", str(marker)]


@pytest.mark.parametrize(
    ("code", "payload"),
    [
        (codes.COLLECTION, lambda c: ["subprocess", "Popen", "deque", c, 5]),
        (codes.COLLECTION, lambda c: ["subprocess", "Popen", "list", c, None]),
        (codes.COLLECTION, lambda c: ["subprocess", "Popen", "call", [c], None]),
        (codes.COLLECTION, lambda c: ["subprocess", "Popen", "str", c, None]),
        (codes.ENUM, lambda c: ["subprocess", "Popen", None, c]),
        (codes.OBJECT, lambda c: ["subprocess", "Popen", "fields", {"args": c}, None]),
        (codes.OBJECT, lambda c: ["subprocess", "Popen", "model", {"args": c}, []]),
        (codes.OBJECT, lambda c: ["subprocess", "Popen", "model1", {"args": c}, []]),
        (
            codes.OBJECT,
            lambda c: ["subprocess", "Popen", "named", {"": [c], "names": ["args"]}, None],
        ),
    ],
)
def test_no_class_is_called_because_stored_data_says_so(marker, code, payload, monkeypatch):
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(subprocess.Popen, "__init__", never)
    with noticing() as noticed:
        found = FaithfulSerializer().loads_typed(stored(code, payload(command(marker))))
    assert "subprocess.Popen" in str(noticed.changes[0])
    assert type(found["v"][0]) in (list, dict, str, collections.deque)
    assert not marker.exists()


def test_no_object_is_made_of_a_class_whose_end_would_do_harm(marker):
    """`tempfile._TemporaryFileCloser` deletes the file that its attribute names when it goes."""
    marker.write_text("precious")
    closer = ["tempfile", "_TemporaryFileCloser", "fields"]
    attributes = {
        "name": str(marker),
        "delete": True,
        "delete_on_close": True,
        "close_called": False,
        "file": None,
    }
    assert hasattr(tempfile, "_TemporaryFileCloser")
    found = FaithfulSerializer().loads_typed(stored(codes.OBJECT, [*closer, attributes, None]))
    assert found == {"v": [attributes]}
    del found
    assert marker.exists()


@pytest.mark.parametrize(
    "factory",
    [["builtins", "breakpoint"], ["builtins", "exit"], ["os", "getcwd"], ["builtins", "x"]],
)
def test_the_factory_of_a_defaultdict_is_one_of_a_few_types(factory):
    payload = ["collections", "defaultdict", "defaultdict", [["a", 1]], factory]
    with noticing() as noticed:
        found = FaithfulSerializer().loads_typed(stored(codes.COLLECTION, payload))["v"][0]
    assert type(found) is collections.defaultdict
    assert (dict(found), found.default_factory) == ({"a": 1}, None)
    assert factory[1] in str(noticed.changes[0])


@pytest.mark.parametrize(
    "payload",
    [
        [],
        ["a"],
        [1, 2, 3, 4, 5],
        ["os", "path", "fields", 5, None],
        ["m", "n", "model", {}, None],
        None,
        "x",
    ],
)
@pytest.mark.parametrize("code", [*range(7), *range(80, 93)])
def test_a_payload_of_another_form_is_refused_or_read_but_never_raises_something_else(
    code, payload
):
    for made in (payload, [payload] * 3, [payload] * 5):
        with contextlib.suppress(StateCorrupt):
            FaithfulSerializer().loads_typed(stored(code, made))


def test_values_within_values_without_end_are_state_corrupt():
    data = b"\xc0"
    for _ in range(5000):
        data = ormsgpack.packb(ormsgpack.Ext(codes.TUPLE, data))
    with pytest.raises(StateCorrupt):
        FaithfulSerializer().loads_typed(("msgpack", data))


def test_a_class_that_is_not_on_the_allowlist_comes_back_as_plain_data_and_is_not_imported():
    serde = FaithfulSerializer(allowed_msgpack_modules=[("somewhere", "Else")])
    payload = ["antigravity", "Anything", "fields", {"a": 1}, None]
    with noticing() as noticed:
        assert serde.loads_typed(stored(codes.OBJECT, payload)) == {"v": [{"a": 1}]}
    assert "allowlist" in str(noticed.changes[0])
    assert "antigravity" not in sys.modules


@dataclasses.dataclass
class Own:
    a: int


def test_a_serializer_without_an_allowlist_is_as_strict_as_langgraphs():
    """`make test` runs this with LANGGRAPH_STRICT_MSGPACK=true as well."""
    payload = stored(codes.OBJECT, [__name__, "Own", "fields", {"a": 1}, None])
    serde = FaithfulSerializer()
    if STRICT_MSGPACK_ENABLED:
        with pytest.raises(ValueRefused, match="allowlist"):
            serde.dumps_typed(Own(1))
        assert serde.loads_typed(payload) == {"v": [{"a": 1}]}
    else:
        assert serde.loads_typed(serde.dumps_typed(Own(1))) == Own(1)
        assert serde.loads_typed(payload) == {"v": [Own(1)]}
