"""Random operations: our store gives what LangGraph's `InMemoryStore` gives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from support.stores import Letters, index_of

LABELS = st.sampled_from(["a", "b", "ab", "a-", "*"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["k", "l", "m"])
VALUES = st.fixed_dictionaries(
    {"n": st.integers(-3, 3) | st.sampled_from([0.5, 2.5]), "s": st.sampled_from(["x", "y", ""]),
     "o": st.fixed_dictionaries({"p": st.integers(0, 2), "q": st.sampled_from([[], [1], [1, 2]])})}
)  # fmt: skip
OPERATORS = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]),
    st.integers(-3, 3),
    min_size=1,
    max_size=2,
)
FILTERS = st.none() | st.fixed_dictionaries(
    {}, optional={"n": st.integers(-3, 3) | OPERATORS, "s": st.sampled_from(["x", "y"]),
                  "o": st.fixed_dictionaries({}, optional={"p": st.integers(0, 2) | OPERATORS,
                                                           "q": st.sampled_from([[], [1], [1, 2]])})}
)  # fmt: skip
PATTERNS = st.lists(
    st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), NAMESPACES), max_size=2
).map(tuple)  # fmt: skip
OPS = st.one_of(
    st.tuples(NAMESPACES, KEYS, VALUES).map(lambda t: PutOp(*t)),
    st.tuples(NAMESPACES, KEYS, VALUES).map(lambda t: PutOp(*t)),
    st.tuples(NAMESPACES, KEYS, st.none()).map(lambda t: PutOp(*t)),
    st.tuples(NAMESPACES, KEYS).map(lambda t: GetOp(*t)),
    st.tuples(NAMESPACES | st.just(()), FILTERS, st.just(1000)).map(lambda t: SearchOp(*t)),
    st.tuples(PATTERNS, st.none() | st.integers(0, 3), st.integers(1, 50), st.integers(0, 3)).map(
        lambda t: ListNamespacesOp(*t)
    ),
)


def seen(result: Any) -> Any:
    """What a result says, whatever its order and times."""
    if isinstance(result, Item):
        return result.namespace, result.key, result.value
    if isinstance(result, list) and result and isinstance(result[0], Item):
        return sorted(map(seen, result), key=repr)
    return result


def live(reference: InMemoryStore) -> InMemoryStore:
    """The reference with the namespaces that hold something: it lists those that it was only asked
    for as well."""
    copy = InMemoryStore()
    copy.batch([PutOp(i.namespace, i.key, i.value) for i in reference.search((), limit=10_000)])
    return copy


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(batches=st.lists(st.lists(OPS, min_size=1, max_size=6), min_size=1, max_size=6))
def test_random_batches_have_the_results_of_the_reference(tank, batches):
    store, reference = tank.store(), InMemoryStore()
    store.batch([PutOp(i.namespace, i.key, None) for i in store.search((), limit=10_000)])
    for ops in batches:
        before = live(reference)
        expected = before.batch([op for op in ops if isinstance(op, ListNamespacesOp)])
        results = reference.batch(ops)
        for at, op in enumerate(ops):
            if isinstance(op, ListNamespacesOp):
                results[at] = expected.pop(0)
        assert [seen(result) for result in store.batch(ops)] == [seen(result) for result in results]


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    texts=st.dictionaries(
        st.sampled_from("abcdefgh"), st.text("abcz ", min_size=1, max_size=6), min_size=1
    ),
    query=st.text("abcz ", min_size=1, max_size=6),
)
def test_the_nearest_of_the_reference_is_the_nearest_here(tank, texts, query):
    store, reference = tank.store(index=index_of()), InMemoryStore(index=index_of())
    store.batch([PutOp(i.namespace, i.key, None) for i in store.search((), limit=10_000)])
    for each in (store, reference):
        for key, text in texts.items():  # one text twice in a batch is too much for the reference
            each.put(("t",), key, {"text": text}, index=["text"])
    scores = [
        {item.key: item.score for item in each.search(("t",), query=query, limit=100)}
        for each in (store, reference)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert Letters().embed_query(query)


ODD = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([1.0, 0.5, "", "a", "ü", "😀", "\ue000", 'q"', [], [1]])
)
NAMES = st.sampled_from(["k", 'q"uote', "back\\slash", "v$0", "a b", "😀", ".", "0", "*"])


def expected_of(value: dict[str, Any], name: str, op: str, wanted: Any) -> bool:
    """What a filter says, in words of ours: `PostgresStore`'s rules, with numbers as numbers."""
    if name not in value:
        return False
    found = value[name]
    equal = seen_as(found) == seen_as(wanted)
    if op in ("$eq", "$ne"):
        return equal == (op == "$eq")
    numbers = all(type(each) in (int, float) for each in (found, wanted))
    if not numbers and not all(isinstance(each, str) for each in (found, wanted)):
        return False
    return {
        "$gt": found > wanted, "$gte": found >= wanted, "$lt": found < wanted, "$lte": found <= wanted,
    }[op]  # fmt: skip


def seen_as(value: Any) -> Any:
    """Numbers are equal by their value, and nothing equals something of another kind."""
    return ("number", float(value)) if type(value) in (int, float) else (type(value), value)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(st.dictionaries(NAMES, ODD, max_size=3), min_size=1, max_size=6),
    name=NAMES, op=st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte"]), wanted=ODD, deep=st.booleans(),
)  # fmt: skip
def test_a_filter_says_what_it_says_of_any_values(tank, values, name, op, wanted, deep):
    store = tank.store()
    store.batch([PutOp(i.namespace, i.key, None) for i in store.search((), limit=10_000)])
    stored = [{"in": value} if deep else value for value in values]
    store.batch([PutOp(("t",), str(at), value) for at, value in enumerate(stored)])
    asked: dict[str, Any] = {name: {op: wanted}}
    found = store.search(("t",), filter={"in": asked} if deep else asked, limit=100)
    expected = {str(at) for at, value in enumerate(values) if expected_of(value, name, op, wanted)}
    assert {item.key for item in found} == expected


ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
ANY_NAME = ANY_TEXT.filter(lambda text: not text.startswith("$"))
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(path=st.lists(ANY_NAME, min_size=1, max_size=4), value=ANY_TEXT | NUMBERS | st.booleans())
def test_any_name_and_any_value_may_be_asked_for(tank, path, value):
    store = tank.store()
    nested: Any = value
    for name in reversed(path):
        nested = {name: nested}
    store.put(("t",), "k", nested)
    assert len(store.search((), filter=nested)) == 1
    assert len(store.search((), filter={**nested, "never there": 1})) == 0
