"""State classes change between deploys: what was stored comes back at least as usable as from
LangGraph's serializer.

Each case is a module before and after a deploy. Both serializers store what the old one made and
read it with the new one in the same process.
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import ormsgpack
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pydantic import BaseModel

from surgetank.encode import codes
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.serde import types as serde_types
from surgetank.streams.checkpoints.serde.changes import ClassChange, noticing
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer

NAME = "state_classes_of_a_test"
# On the allowlist in strict mode, as a graph's schema puts them there.
ALLOWED = [(NAME, letter) for letter in "MNDPELSX"]
HEAD = """
from __future__ import annotations
import collections, dataclasses, datetime, enum, typing
import pydantic, pydantic.dataclasses, pydantic.v1
from pydantic import BaseModel, Field, PrivateAttr
from typing import Any, NamedTuple, Optional, TypedDict
"""


class Case(NamedTuple):
    """`expected` is what has to come back, as `shown` writes it; `told` a part of what is noticed
    ("": nothing)."""

    before: str
    made: str
    after: str
    expected: Any
    told: str


CASES: dict[str, Case] = {
    "a model with a new field that has a default": Case(
        "class M(BaseModel):\n    a: int",
        "M(a=1)",
        "class M(BaseModel):\n    a: int\n    b: list[int] = Field(default_factory=lambda: [7])",
        ("M", {"a": 1, "b": [7]}),
        "changed",
    ),
    "a model with a new required field": Case(
        "class M(BaseModel):\n    a: int",
        "M(a=1)",
        "class M(BaseModel):\n    a: int\n    b: str",
        ("M", {"a": 1, "b": None}),
        "requires 'b'",
    ),
    "a model with a stricter type that the stored value fits": Case(
        "class M(BaseModel):\n    a: Any\n    day: str",
        "M(a='5', day='2026-01-02')",
        "class M(BaseModel):\n    a: int\n    day: datetime.date",
        ("M", {"a": 5, "day": "datetime.date(2026, 1, 2)"}),
        "changed",
    ),
    "a model with a stricter type that the stored value does not fit": Case(
        "class M(BaseModel):\n    a: Any",
        "M(a='many')",
        "class M(BaseModel):\n    a: int\n    b: int = 2",
        ("M", {"a": "many", "b": 2}),
        "refuses",
    ),
    "a model without one of its fields": Case(
        "class M(BaseModel):\n    a: int\n    old: int = 0",
        "M(a=1, old=2)",
        "class M(BaseModel):\n    a: int",
        ("M", {"a": 1}),
        "no 'old' any more",
    ),
    "a model that forbids the field it lost": Case(
        "class M(BaseModel):\n    a: int\n    old: int = 0",
        "M(a=1, old=2)",
        "class M(BaseModel):\n    model_config = {'extra': 'forbid'}\n    a: int",
        ("M", {"a": 1}),
        "no 'old' any more",
    ),
    "a model whose fields have an alias": Case(
        "class M(BaseModel):\n    a: int = Field(alias='A')",
        "M(A=1)",
        "class M(BaseModel):\n    a: int = Field(alias='A')\n    b: int = 2",
        ("M", {"a": 1, "b": 2}),
        "changed",
    ),
    "a model that moves old fields to new ones by itself": Case(
        "class M(BaseModel):\n    old: int",
        "M(old=1)",
        "class M(BaseModel):\n    new: int\n    @pydantic.model_validator(mode='before')\n    "
        "@classmethod\n"
        "    def move(cls, data):\n        return {'new': data['old']} if 'old' in data else data",
        ("M", {"new": 1}),
        "'old'",
    ),
    "a model within a model, with a new required field": Case(
        "class N(BaseModel):\n    a: int\nclass M(BaseModel):\n    inner: N",
        "M(inner=N(a=1))",
        "class N(BaseModel):\n    a: int\n    b: int\nclass M(BaseModel):\n    inner: N",
        ("M", {"inner": ("N", {"a": 1, "b": None})}),
        "requires 'b'",
    ),
    "a model whose constructor raises SystemExit": Case(
        "class M(BaseModel):\n    a: int",
        "M(a=1)",
        "class M(BaseModel):\n    a: int\n    b: int = 2\n    def __init__(self, **data):\n        "
        "raise SystemExit(3)",
        ("M", {"a": 1, "b": 2}),
        "refuses",
    ),
    "a removed model": Case(
        "class N(BaseModel):\n    b: tuple\nclass M(BaseModel):\n    a: int\n    inner: N",
        "M(a=1, inner=N(b=(1, 2)))",
        "class N(BaseModel):\n    b: tuple",
        {"a": 1, "inner": {"b": (1, 2)}},
        "can't be imported",
    ),
    "a moved model whose old name is kept": Case(
        "class M(BaseModel):\n    a: int",
        "M(a=1)",
        "class Moved(BaseModel):\n    a: int\nMoved.__module__ = 'elsewhere'\nM = Moved",
        ("Moved", {"a": 1}),
        "",
    ),
    "a model that became a dataclass": Case(
        "class M(BaseModel):\n    a: int",
        "M(a=1)",
        "@dataclasses.dataclass\nclass M:\n    a: int\n    b: int = 2",
        ("M", {"a": 1, "b": 2}),
        "changed",
    ),
    "a dataclass that became a model": Case(
        "@dataclasses.dataclass\nclass M:\n    a: int",
        "M(1)",
        "class M(BaseModel):\n    a: int\n    b: int = 2",
        ("M", {"a": 1, "b": 2}),
        "changed",
    ),
    "a model that became a TypedDict": Case(
        "class M(BaseModel):\n    a: int", "M(a=1)", "class M(TypedDict):\n    a: int", {"a": 1}, "another kind"
    ),
    "a model that became a function": Case(
        "class M(BaseModel):\n    a: int", "M(a=1)", "def M(**data): return data", {"a": 1}, "can't be imported"
    ),
    "a model of pydantic 1 with a new required field": Case(
        "class M(pydantic.v1.BaseModel):\n    a: int",
        "M(a=1)",
        "class M(pydantic.v1.BaseModel):\n    a: int\n    b: str\n    c: int = 3",
        ("M", {"a": 1, "b": None, "c": 3}),
        "requires 'b'",
    ),
    "a removed model of pydantic 1": Case(
        "class M(pydantic.v1.BaseModel):\n    a: int", "M(a=1)", "", {"a": 1}, "can't be imported"
    ),
    "a removed enum member": Case(
        "class E(enum.Enum):\n    A = 'a'\n    B = 'b'", "E.B", "class E(enum.Enum):\n    A = 'a'", "b", "no member 'B'"
    ),
    "an enum member that changed its value": Case(
        "class E(enum.Enum):\n    A = 1", "E.A", "class E(enum.Enum):\n    A = 10", "<E.A: 10>", ""
    ),
    "a renamed enum member": Case(
        "class E(enum.Enum):\n    A = 1", "E.A", "class E(enum.Enum):\n    Z = 1", "<E.Z: 1>", ""
    ),
    "a removed enum": Case("class E(enum.Enum):\n    A = 'a'", "[E.A]", "", ["a"], "can't be imported"),
    "a dataclass with a new default": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int",
        "D(1)",
        "@dataclasses.dataclass\nclass D:\n    a: int\n    b: int = 2\n"
        "    c: list = dataclasses.field(default_factory=list)",
        ("D", {"a": 1, "b": 2, "c": []}),
        "defaults",
    ),
    "a dataclass with slots and a new default": Case(
        "@dataclasses.dataclass(slots=True, frozen=True)\nclass D:\n    a: int",
        "D(1)",
        "@dataclasses.dataclass(slots=True, frozen=True)\nclass D:\n    a: int\n    b: int = 2",
        ("D", {"a": 1, "b": 2}),
        "defaults",
    ),
    "a dataclass that computes a new field": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int",
        "D(1)",
        "@dataclasses.dataclass\nclass D:\n    a: int\n    b: int = dataclasses.field(init=False)\n"
        "    def __post_init__(self):\n        self.b = self.a + 1",
        ("D", {"a": 1, "b": 2}),
        "defaults",
    ),
    "a dataclass whose constructor refuses": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int",
        "D(-1)",
        "@dataclasses.dataclass\nclass D:\n    a: int\n    b: int = 2\n"
        "    def __post_init__(self):\n        assert self.a > 0",
        ("D", {"a": -1, "b": 2}),
        "defaults",
    ),
    "a dataclass with a new required field": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int",
        "D(1)",
        "@dataclasses.dataclass\nclass D:\n    a: int\n    b: int",
        {"a": 1},
        "requires 'b'",
    ),
    "a dataclass without one of its fields": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int\n    old: int = 0",
        "D(1, 5)",
        "@dataclasses.dataclass\nclass D:\n    a: int",
        ("D", {"a": 1}),
        "defaults",
    ),
    "a dataclass with slots without one of its fields": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int\n    old: int = 0",
        "D(1, 5)",
        "@dataclasses.dataclass(slots=True)\nclass D:\n    a: int",
        ("D", {"a": 1}),
        "no 'old' any more",
    ),
    "a removed dataclass": Case(
        "@dataclasses.dataclass\nclass D:\n    a: tuple", "{'d': D((1,))}", "", {"d": {"a": (1,)}}, "can't be imported"
    ),
    "a dataclass that became a plain class": Case(
        "@dataclasses.dataclass\nclass D:\n    a: int",
        "D(1)",
        "class D:\n    def __init__(self, a): self.a = a",
        {"a": 1},
        "another kind",
    ),
    "a pydantic dataclass with a stricter type": Case(
        "@pydantic.dataclasses.dataclass\nclass D:\n    a: str",
        "D('5')",
        "@pydantic.dataclasses.dataclass\nclass D:\n    a: int\n    b: int = 2",
        ("D", {"a": 5, "b": 2}),
        "defaults",
    ),
    "a NamedTuple with a new default": Case(
        "class P(NamedTuple):\n    a: int\n    b: int",
        "P(1, 2)",
        "class P(NamedTuple):\n    z: int = 0\n    a: int = 9\n    b: int = 9",
        ("P", {"z": 0, "a": 1, "b": 2}),
        "defaults",
    ),
    "a NamedTuple with a new required field": Case(
        "class P(NamedTuple):\n    a: int", "P(1)", "class P(NamedTuple):\n    a: int\n    b: int", {"a": 1}, "requires"
    ),
    "a NamedTuple without one of its fields": Case(
        "class P(NamedTuple):\n    a: int\n    b: int",
        "P(1, 2)",
        "class P(NamedTuple):\n    b: int",
        ("P", {"b": 2}),
        "no 'a' any more",
    ),
    "a removed NamedTuple": Case("class P(NamedTuple):\n    a: int", "P(1)", "", {"a": 1}, "can't be imported"),
    "a TypedDict with a new field": Case(
        "class T(TypedDict):\n    a: int", "T(a=1)", "class T(TypedDict):\n    a: int\n    b: int", {"a": 1}, ""
    ),
    "a removed subclass of list": Case("class L(list): pass", "L([1, (2,)])", "", [1, (2,)], "can't be imported"),
    "a removed subclass of str": Case("class S(str): pass", "[S('x')]", "", ["x"], "can't be imported"),
    "a removed subclass of dict": Case("class X(dict): pass", "X(a=(1,))", "", {"a": (1,)}, "can't be imported"),
    "a subclass of list that became something else": Case(
        "class L(list): pass", "L([1])", "class L:\n    def __init__(self, *a): raise "
        "AssertionError", [1], "no list"
    ),
    "a class that was defined again and is the same": Case(
        "class M(BaseModel):\n    a: int", "M(a=1)", "class M(BaseModel):\n    a: int", ("M", {"a": 1}), ""
    ),
    "a module that can't be imported any more": Case(
        "class M(BaseModel):\n    a: int", "M(a=1)", "raise RuntimeError('broken')", {"a": 1}, "can't be imported"
    ),
}  # fmt: skip


# What isn't a model, a dataclass or an Enum any more is not called with stored data.
NOT_CALLED = ("a dataclass that became a plain class",)


def ours(allowed: Any = ALLOWED) -> FaithfulSerializer:
    """Our serializer as a graph would use it."""
    return FaithfulSerializer().with_msgpack_allowlist(allowed)


def theirs() -> JsonPlusSerializer:
    """LangGraph's."""
    return JsonPlusSerializer().with_msgpack_allowlist(ALLOWED)


def module(source: str) -> types.ModuleType:
    """The test's module as a deploy has it."""
    made = types.ModuleType(NAME)
    sys.modules[NAME] = made
    try:
        exec(compile(HEAD + source, NAME, "exec", dont_inherit=True), made.__dict__)
    except RuntimeError:
        del sys.modules[NAME]
    return made


@pytest.fixture(autouse=True)
def _no_module_left() -> Iterator[None]:
    yield
    sys.modules.pop(NAME, None)


def shown(value: Any) -> Any:
    """A value as the cases write it: objects as their class's name and fields."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return type(value).__name__, {k: shown(v) for k, v in value._asdict().items()}
    if isinstance(value, BaseModel) or hasattr(value, "__fields__"):
        return type(value).__name__, {name: shown(getattr(value, name)) for name in _fields(value)}
    if dataclasses.is_dataclass(value):
        return type(value).__name__, {
            f.name: shown(getattr(value, f.name)) for f in dataclasses.fields(value)
        }
    if type(value) is dict:
        return {k: shown(v) for k, v in value.items()}
    if type(value) is list:
        return [shown(v) for v in value]
    return value if type(value) in (str, int, tuple, type(None)) else repr(value)


def _fields(model: Any) -> Any:
    return type(model).model_fields if isinstance(model, BaseModel) else model.__fields__


def redeployed(case: Case) -> tuple[Any, list[ClassChange], Any]:
    """What our serializer gives back after the deploy, what it noticed, and what LangGraph's gives
    back."""
    us, them = ours(), theirs()
    value = eval(case.made, module(case.before).__dict__)
    stored, peers = us.dumps_typed(value), them.dumps_typed(value)
    module(case.after)
    with noticing() as noticed:
        found = us.loads_typed(stored)
    try:
        return found, noticed.changes, them.loads_typed(peers)
    except ValueError:  # its hook failed
        return found, noticed.changes, None


@pytest.mark.parametrize("name", CASES)
def test_state_of_a_class_that_changed_comes_back_usable_and_the_change_is_noticed(name):
    case = CASES[name]
    found, changes, _ = redeployed(case)
    assert shown(found) == case.expected
    texts = [str(change) for change in changes]
    assert any(case.told in text and NAME in text for text in texts) if case.told else not texts, (
        texts
    )


@pytest.mark.parametrize("name", CASES)
def test_it_is_as_usable_as_what_langgraphs_serializer_gives_back(name):
    """What LangGraph's gives an object of a class, ours does; what has fields there has them
    here."""
    found, _, peers = redeployed(CASES[name])
    their_fields, our_fields = _as_fields(peers), _as_fields(found)
    if their_fields is not None:
        if isinstance(peers, dict) and type(found).__name__ in ("P", "D"):
            return  # an object of today's class, where LangGraph's gives up and returns a dict
        assert our_fields is not None
        assert their_fields.keys() <= our_fields.keys()
        if not isinstance(peers, dict) and name not in NOT_CALLED:
            assert type(found) is type(peers)


def _as_fields(value: Any) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    return (
        vars(value) if hasattr(value, "__dict__") and not isinstance(value, (str, list)) else None
    )


def test_all_that_langgraphs_serializer_leaves_out_of_a_model_is_there_here():
    """Read from what LangGraph's serializer itself stored: its objects lack a new required
    field."""
    case = CASES["a model with a new required field"]
    value = eval(case.made, module(case.before).__dict__)
    stored = theirs().dumps_typed(value)
    module(case.after)
    assert not hasattr(theirs().loads_typed(stored), "b")
    with noticing() as noticed:
        assert shown(ours().loads_typed(stored)) == case.expected
    assert "requires 'b'" in str(noticed.changes[0])


def test_private_values_and_which_fields_were_set_survive_a_change():
    before = (
        "class M(BaseModel):\n    a: int = 0\n    b: int = 0\n    _p: int = PrivateAttr(default=1)"
    )
    value = eval("M(a=1)", module(before).__dict__)
    value._p = 5
    stored = ours().dumps_typed(value)
    module(before + "\n    c: int = 3\n    _q: int = PrivateAttr(default=7)")
    found = ours().loads_typed(stored)
    assert (found.a, found.b, found.c, found._p, found._q) == (1, 0, 3, 5, 7)
    assert found.model_fields_set == {"a"}


def test_state_that_a_version_without_marks_stored_is_read_as_before():
    m = module(
        "class M(BaseModel):\n    a: int\nclass P(NamedTuple):\n    a: int\n    b: int = 2"
    ).__dict__
    serde = ours()

    def as_then(*parts: Any) -> tuple[str, bytes]:
        return "msgpack", ormsgpack.packb(ormsgpack.Ext(codes.OBJECT, ormsgpack.packb(parts)))

    assert serde.loads_typed(as_then(NAME, "M", "model", {"a": 1}, ["a"])) == m["M"](a=1)
    assert serde.loads_typed(as_then(NAME, "P", "named", {"": [1, 5]}, None)) == m["P"](1, 5)
    assert serde.loads_typed(as_then(NAME, "P", "named", {"": [1]}, None)) == m["P"](1, 2)
    assert serde.loads_typed(as_then(NAME, "P", "named", {"": [1, 2, 3]}, None)) == (1, 2, 3)


def test_an_object_of_a_class_that_was_defined_again_is_taken_and_comes_back_as_the_new_one():
    """A notebook: an object is kept from before its cell ran again."""
    serde = ours()
    for source, made in (
        ("class M(BaseModel):\n    a: int", "M(a=1)"),
        ("@dataclasses.dataclass\nclass M:\n    a: int", "M(1)"),
        ("class M(NamedTuple):\n    a: int", "M(1)"),
        ("class M(enum.Enum):\n    a = 1", "M.a"),
        ("class M(list): pass", "M([1])"),
    ):
        value = eval(made, module(source).__dict__)
        serde.loads_typed(serde.dumps_typed(value))  # whatever is remembered of the class is now
        new = module(source).M
        assert type(value) is not new
        assert type(serde.loads_typed(serde.dumps_typed(value))) is new, source


def test_a_class_made_inside_a_function_is_taken_and_comes_back_and_elsewhere_as_its_fields():
    def local() -> Any:
        class Local(BaseModel):
            x: int

        return Local(x=1)

    allowed = [(__name__, "Local")]
    value, serde = local(), ours(allowed)
    with noticing() as noticed:
        stored = serde.dumps_typed({"v": value})
    assert "another process" in str(noticed.changes[0])
    assert serde.loads_typed(stored) == {"v": value}
    serde_types._unfindable.clear()  # as in a process that never had the class
    assert ours(allowed).loads_typed(stored) == {"v": {"x": 1}}


def test_classes_made_by_calls_are_not_all_remembered(monkeypatch):
    monkeypatch.setattr(serde_types, "_MOST_CLASSES", 20)
    serde = ours([("types", "Made"), (__name__, "Made")])
    for number in range(200):
        kind = dataclasses.make_dataclass("Made", ["x"])
        assert serde.loads_typed(serde.dumps_typed(kind(number))) == kind(number)
    assert len(serde._registry._how) <= 20


def test_an_error_in_reading_says_what_it_was_and_what_to_do():
    serde = ours()
    type_, stored = serde.dumps_typed({"a": [(1, 2**70)]})
    with pytest.raises(StateCorrupt, match="can't be read") as raised:
        serde.loads_typed((type_, stored[:-3]))
    assert raised.value.remedy
    with pytest.raises(StateCorrupt, match="unknown extension code 99"):
        serde.loads_typed(("msgpack", ormsgpack.packb({"a": [ormsgpack.Ext(99, b"\xc0")]})))


@pytest.mark.parametrize("deep", [0, 3])
def test_ctrl_c_while_an_object_is_read_or_written_is_no_error_of_the_data(deep):
    """ormsgpack swallows whatever its hooks raise."""
    source = (
        "class M(BaseModel):\n    a: int\n    b: int = 1\n"
        "    def __init__(self, **data):\n        raise KeyboardInterrupt"
    )
    value = eval("M(a=1)", module("class M(BaseModel):\n    a: int").__dict__)
    for _ in range(deep):
        value = (value,)
    stored = ours().dumps_typed(value)
    module(source)
    with pytest.raises(KeyboardInterrupt):
        ours().loads_typed(stored)

    class Interrupting(list):
        @property
        def __dict__(self) -> Any:  # type: ignore[override]
            raise KeyboardInterrupt

    value = Interrupting([1])
    for _ in range(deep):
        value = (value,)
    with pytest.raises(KeyboardInterrupt):
        ours([(__name__, "Interrupting")]).dumps_typed({"a": value})
