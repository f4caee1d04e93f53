"""Texts of SQL are taken apart without changing a character of what DuckDB gets."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgetank.exceptions import InvalidRequest
from surgetank.streams.tables.query.texts import change, statements

TEXTS = (
    "SELECT 1", "SELECT 1;", ";;SELECT 1;;\n;SELECT 2 -- ; not this\n;", "SELECT ';' ; SELECT \"a;b\" ; SELECT $$;$$",
    "SELECT $tag$ ; $$ ; $tag$; SELECT 2", "SELECT E'it\\';s'; SELECT 'it'';s'",
    "/* ; /* nested ; */ ; */ SELECT 1; SELECT 2",
    "SELECT [1;2]", "SELECT $1+$2; SELECT $name", "", " -- nothing", "SELECT 'é;', 1; SELECT 2",
)  # fmt: skip


@pytest.mark.parametrize("text", [text for text in TEXTS if "[1;2]" not in text])
def test_statements_are_split_where_duckdb_splits_them(text):
    ours = [each.text for each in statements(text)]
    theirs = [each.query.strip().rstrip(";").strip() for each in duckdb.extract_statements(text)]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one in other or other in one


def test_a_statement_knows_where_it_stands():
    text = " SELECT 1 ;\n  UPDATE t SET a = 1"
    found = statements(text)
    assert [(each.number, each.verb, text[each.start : each.start + 3]) for each in found] == [
        (1, "SELECT", "SEL"), (2, "UPDATE", "UPD"),
    ]  # fmt: skip


@given(st.text(alphabet="'\"$;ab-/*\\E()[]? \n", max_size=40))
def test_any_text_can_be_taken_apart_and_nothing_is_lost(text):
    found = statements(text)
    assert all(each.text == text[each.start : each.start + len(each.text)] for each in found)


def only(text: str):
    (statement,) = statements(text)
    return change(statement)


def test_an_update_is_taken_apart():
    made = only(
        'UPDATE "My".t AS x SET a = CASE WHEN b THEN 1 ELSE 2 END, "B," = f(x, \',\') + $n -- why\n'
        " , c = (SELECT max(d) FROM u WHERE e = 1) WHERE a IS DISTINCT FROM 5 AND b IN (SELECT 1 FROM v)"
    )
    assert (made.schema, made.name, made.alias) == ("My", "t", "x")
    assert made.assignments == (
        ("a", "CASE WHEN b THEN 1 ELSE 2 END"), ("B,", "f(x, ',') + $n"), ("c", "(SELECT max(d) FROM u WHERE e = 1)"),
    )  # fmt: skip
    assert made.where == "a IS DISTINCT FROM 5 AND b IN (SELECT 1 FROM v)"


def test_a_delete_is_taken_apart():
    assert only("DELETE FROM t") == only("delete from t;")
    made = only("DELETE FROM app.t x WHERE x.a = ?  AND b = '?' AND c = ?")
    assert (made.schema, made.name, made.alias) == ("app", "t", "x")
    assert made.where == "x.a = $1  AND b = '?' AND c = $2"


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE t SET a = 1 FROM u", "UPDATE t SET a = 1 RETURNING *", "DELETE FROM t USING u", "UPDATE t SET",
        "UPDATE t",
        "UPDATE SET a = 1", "DELETE t", "DELETE FROM", "DELETE FROM t WHERE", "UPDATE a.b.c SET d = 1",
        "UPDATE t SET a",
        "UPDATE t SET (a, b) = (1, 2)", "UPDATE t SET a = 1, WHERE b", "DELETE FROM t a b c", "UPDATE t SET a = ",
        "DELETE FROM t LIMIT 1", "UPDATE t WHERE a SET b = 1",
    ],
)  # fmt: skip
def test_other_forms_are_refused(text):
    with pytest.raises(InvalidRequest):
        only(text)
