"""A mark of a class's fields: stored with its objects, it tells whether the fields' types are what
they were.

Only names and types of the fields count, so that a mark is the same in every process. It stands
among the names of the fields that were set (or, for a pydantic dataclass, among the attributes),
where versions that don't know it ignore it.
"""

from __future__ import annotations

import base64
import dataclasses
import types
import zlib
from collections.abc import Iterable
from typing import Annotated, Any, ForwardRef, Literal, TypeVar, Union, get_args, get_origin

MARK = "\x00"
_MOST_CLASSES = 4096
_marks: dict[type, str] = {}


def mark_of(kind: Any) -> str:
    """The mark of a pydantic class (model or dataclass) as it is now."""
    mark = _marks.get(kind)
    if mark is None:
        text = ";".join(
            sorted(f"{name}:{_text(annotation)}" for name, annotation in _annotations(kind))
        )
        mark = (
            MARK
            + base64.b85encode(
                zlib.crc32(text.encode(errors="replace")).to_bytes(4, "big")
            ).decode()
        )
        if getattr(kind, "__pydantic_complete__", True):
            if len(_marks) >= _MOST_CLASSES:
                _marks.clear()
            _marks[kind] = mark
    return mark


def split_mark(names: list[str]) -> tuple[str | None, list[str]]:
    """The mark among names of fields, and the names."""
    if names and names[0][:1] == MARK:
        return names[0], names[1:]
    marks = [
        name for name in names if name[:1] == MARK
    ]  # sorted in by a version that doesn't know marks
    return (marks[0], [n for n in names if n[:1] != MARK]) if marks else (None, names)


def _annotations(kind: Any) -> Iterable[tuple[str, Any]]:
    if not getattr(kind, "__pydantic_complete__", True) and hasattr(kind, "model_rebuild"):
        kind.model_rebuild(raise_errors=False)
    fields = getattr(kind, "__pydantic_fields__", None)
    if fields is not None:
        return [(name, field.annotation) for name, field in fields.items()]
    if dataclasses.is_dataclass(kind):
        return [(f.name, f.type) for f in dataclasses.fields(kind)]
    return [(name, field.outer_type_) for name, field in kind.__fields__.items()]


def _text(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _text(get_args(annotation)[0])
    if origin is Literal:
        return f"Literal[{','.join(sorted(map(repr, get_args(annotation))))}]"
    if origin is not None:
        name = "Union" if origin in (Union, types.UnionType) else _text(origin)
        return f"{name}[{','.join(map(_text, get_args(annotation)))}]"
    if isinstance(annotation, type):
        return f"{annotation.__module__}.{annotation.__qualname__}"
    if isinstance(annotation, (list, tuple)):  # the arguments of a Callable
        return f"[{','.join(map(_text, annotation))}]"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, TypeVar):
        return annotation.__name__
    return "..." if annotation is ... else f"{type(annotation).__qualname__}"
