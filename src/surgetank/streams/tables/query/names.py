"""Which tables and columns a SELECT needs, from the syntax tree that DuckDB itself gives as JSON. Pure.

It names rather too much than too little: a column that is not needed costs some bytes, one that is missing fails
the query. What is read is decided by others; nothing here is a filter that has to hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# Schemas that DuckDB has itself: tables of ours in them get another schema, and the text is changed there.
OWN_SCHEMAS = frozenset({"system", "information_schema", "memory", "main", "temp", "pg_catalog"})
_NOWHERE = (1 << 64) - 1
_ALL_COLUMNS = frozenset({"POSITIONAL_REFERENCE", "PIVOT"})


@dataclass(frozen=True, slots=True)
class Reference:
    """A table that a query names. `columns` are the names, folded, that may be columns of it; with
    `every` it may need all the others too (but hidden ones). `equals` are conditions that each row
    has to meet. `optional` says that a part of the query has the name too."""

    schema: str | None
    name: str
    columns: frozenset[str] = frozenset()
    every: bool = True
    equals: tuple[Equal, ...] = ()
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Equal:
    """`column = value`. The value is a text or a number, or that of a parameter."""

    column: str
    value: str | int | None = None
    parameter: str | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """The tables and parameters that a query needs, and its text with our names for schemas of
    DuckDB's own. `shifts` are ends of such names, in bytes, and by how much they are longer."""

    tables: tuple[Reference, ...]
    parameters: tuple[str, ...]
    text: str
    shifts: tuple[tuple[int, int], ...] = ()

    def original(self, position: int) -> int:
        """Where a position of `text` is in the text as it was written."""
        return position - sum(by for end, by in self.shifts if end <= position)


@dataclass(slots=True)
class _Found:
    """What a walk collects."""

    tables: list[Mapping[str, Any]] = field(default_factory=list)
    equals: dict[int, tuple[Equal, ...]] = field(default_factory=dict)
    ctes: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)
    alone: set[str] = field(
        default_factory=set
    )  # last parts of names: may stand for a row of a table
    stars: set[str] = field(default_factory=set)
    everything: bool = False
    edits: dict[int, str] = field(default_factory=dict)  # schemas to rename, by their position


def schema_here(schema: str) -> str:
    """The schema in DuckDB that has the tables of this schema."""
    return f"surgetank {schema.casefold()}" if schema.casefold() in OWN_SCHEMAS else schema


def quoted(name: str) -> str:
    """An identifier of DuckDB's."""
    return '"' + name.replace('"', '""') + '"'


def needs(text: str, tree: Mapping[str, Any]) -> Needs:
    """What the statement of this syntax tree needs."""
    found = _Found()
    for node in _nodes(tree):
        _collect(node, found)
    merged: dict[tuple[str | None, str], Reference] = {}
    for table in found.tables:
        reference = _reference(table, found)
        key = (reference.schema and reference.schema.casefold(), reference.name.casefold())
        before = merged.get(key)
        merged[key] = reference if before is None else _union(before, reference)
    parameters = tuple(each["key"] for each in tree["statements"][0].get("named_param_map") or ())
    return Needs(tuple(merged.values()), parameters, *_edited(text, found.edits))


def _nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """All objects of the tree, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)


def _collect(node: Mapping[str, Any], found: _Found) -> None:
    kind = node.get("type")
    if kind == "BASE_TABLE" and "table_name" in node:
        _table(node, found)
    elif kind == "COLUMN_REF":
        _column(node, found)
    elif kind == "STAR":
        if node.get("relation_name"):
            found.stars.add(node["relation_name"].casefold())
        else:
            found.everything = True
    elif kind == "SELECT_NODE":
        _conditions(node, found)
    elif kind in _ALL_COLUMNS or node.get("ref_type") == "NATURAL":
        found.everything = True
    if isinstance(node.get("cte_map"), dict):
        found.ctes.update(each["key"].casefold() for each in node["cte_map"].get("map", ()))
    if isinstance(node.get("cte_name"), str):
        found.ctes.add(node["cte_name"].casefold())
    if isinstance(node.get("using_columns"), list):
        found.columns.update(
            each.casefold() for each in node["using_columns"] if isinstance(each, str)
        )


def _table(node: Mapping[str, Any], found: _Found) -> None:
    if node.get("catalog_name"):
        return  # no table of ours has a catalogue
    found.tables.append(node)
    if node.get("schema_name", "").casefold() in OWN_SCHEMAS:
        _edit(node, node["schema_name"], found)


def _column(node: Mapping[str, Any], found: _Found) -> None:
    parts: list[str] = node.get("column_names") or []
    found.columns.update(part.casefold() for part in parts)
    found.alone.update(part.casefold() for part in parts[-1:])
    if len(parts) > 2 and parts[0].casefold() in OWN_SCHEMAS:  # schema, table, column
        _edit(node, parts[0], found)


def _edit(node: Mapping[str, Any], schema: str, found: _Found) -> None:
    at = node.get("query_location", _NOWHERE)
    if at != _NOWHERE:
        found.edits[at] = schema


def _edited(text: str, edits: Mapping[int, str]) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The text with our names for these schemas, and how positions were moved by that."""
    data = text.encode()
    parts: list[bytes] = []
    shifts: list[tuple[int, int]] = []
    done = moved = 0
    for at in sorted(edits):
        schema = edits[at]
        for written in (schema, f'"{schema}"'):
            here = data[at : at + len(written.encode())]
            if here.decode(errors="replace").casefold() == written.casefold():
                replaced = quoted(schema_here(schema)).encode()
                parts += [data[done:at], replaced]
                done = at + len(here)
                by = len(replaced) - len(here)
                moved += by
                shifts.append((done + moved, by))
                break
    return b"".join([*parts, data[done:]]).decode(), tuple(shifts)


def _conditions(node: Mapping[str, Any], found: _Found) -> None:
    """`WHERE column = constant AND ...` over one table, and nothing that is sampled before."""
    table = node.get("from_table") or {}
    if table.get("type") != "BASE_TABLE" or table.get("sample") or node.get("sample"):
        return
    handle = (table.get("alias") or table.get("table_name") or "").casefold()
    equals = []
    for condition in _conjunction(node.get("where_clause")):
        if condition.get("type") == "COMPARE_EQUAL":
            sides = (condition.get("left") or {}, condition.get("right") or {})
            for column, value in (sides, sides[::-1]):
                made = _equal(column, value, handle)
                if made is not None:
                    equals.append(made)
                    break
    found.equals[id(table)] = tuple(equals)


def _conjunction(condition: Any) -> Iterator[Mapping[str, Any]]:
    waiting = [condition]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if node.get("type") == "CONJUNCTION_AND":
                waiting.extend(node.get("children") or ())
            else:
                yield node


def _equal(column: Mapping[str, Any], value: Mapping[str, Any], handle: str) -> Equal | None:
    if column.get("type") != "COLUMN_REF":
        return None
    parts = [part.casefold() for part in column.get("column_names") or ()]
    if not 1 <= len(parts) <= 2 or (len(parts) == 2 and parts[0] != handle):
        return None
    if value.get("type") == "VALUE_PARAMETER" and isinstance(value.get("identifier"), str):
        return Equal(parts[-1], parameter=value["identifier"])
    literal = value.get("literal") if value.get("type") == "VALUE_CONSTANT" else None
    if not isinstance(literal, dict) or not isinstance(literal.get("text"), str):
        return None
    if literal.get("kind") == "INTEGER" and literal["text"].isdecimal():
        return Equal(parts[-1], int(literal["text"]))
    return Equal(parts[-1], literal["text"]) if literal.get("kind") == "STRING" else None


def _reference(node: Mapping[str, Any], found: _Found) -> Reference:
    schema, name = node.get("schema_name") or None, node["table_name"]
    handles = {name.casefold(), (node.get("alias") or name).casefold()}
    tables = {(each.get("alias") or each["table_name"]).casefold() for each in found.tables}
    every = (
        found.everything
        or bool(handles & (found.stars | found.alone))
        or not found.stars <= tables  # `s.*` of a column, or of a part of the query
    )
    return Reference(
        schema,
        name,
        frozenset(found.columns),
        every,
        found.equals.get(id(node), ()),
        optional=schema is None and name.casefold() in found.ctes,
    )


def _union(one: Reference, other: Reference) -> Reference:
    every, optional = one.every or other.every, one.optional or other.optional
    return Reference(one.schema, one.name, one.columns | other.columns, every, optional=optional)
