"""The shapes of the store's requests and answers: those of LangGraph's clients."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_ITEM: dict[str, Any] = {
    "namespace": ["notes"],
    "key": "n-1",
    "value": {"text": "likes tea"},
    "created_at": "2026-11-21T09:00:00+00:00",
    "updated_at": "2026-11-21T09:00:00+00:00",
}
_TEXT = r"^[^\x00]+$"
Label = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^.\x00]+$")]
Labels = Annotated[list[Label], Field(max_length=100)]
Key = Annotated[str, Field(min_length=1, max_length=1024, pattern=_TEXT)]
Page = Annotated[int, Field(ge=1, le=1000, description="Most of them in one answer.")]
Skip = Annotated[int, Field(ge=0, le=2**31 - 1, description="How many to leave out.")]
IndexPath = Annotated[str, Field(min_length=1, max_length=1024, pattern=_TEXT)]


class PutItem(BaseModel):
    """An item to be stored."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"namespace": ["notes"], "key": "n-1", "value": {"text": "likes tea"}}]
        }
    )

    namespace: Labels = Field(min_length=1)
    key: Key
    value: dict[str, Any]
    index: Literal[False] | Annotated[list[IndexPath], Field(max_length=100)] | None = Field(
        None, description="Which of its texts are embedded; false: none; none: as the store does."
    )
    ttl: float | None = Field(
        None,
        gt=0,
        le=50_000_000,
        allow_inf_nan=False,
        description="Minutes after which it expires, unless it is read; none: the store's default.",
    )


class NamedItem(BaseModel):
    """Which item."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"namespace": ["notes"], "key": "n-1"}]}
    )

    namespace: Labels = Field(min_length=1)
    key: Key


class SearchItems(BaseModel):
    """What to search for."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"namespace_prefix": ["notes"], "filter": {"kind": "fact"}}]
        }
    )

    namespace_prefix: Labels = []
    filter: dict[str, Any] | None = None
    limit: Page = 10
    offset: Skip = 0
    query: Annotated[str, Field(max_length=100_000)] | None = None
    refresh_ttl: bool | None = None


class ListNamespaces(BaseModel):
    """Which namespaces; `*` stands for any label."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prefix": ["notes"], "max_depth": 2}]}
    )

    prefix: Labels | None = None
    suffix: Labels | None = None
    max_depth: Annotated[int, Field(ge=1, le=100)] | None = None
    limit: Page = 100
    offset: Skip = 0


class StoredItem(BaseModel):
    """An item."""

    model_config = ConfigDict(json_schema_extra={"examples": [_ITEM]})

    namespace: list[str]
    key: str
    value: dict[str, Any] = Field(
        description="What JSON can't carry is replaced; the store has it as it was put."
    )
    created_at: str
    updated_at: str


class FoundItem(StoredItem):
    """An item that a search found."""

    score: float | None = Field(None, description="Larger is nearer; only for a `query`.")


class FoundItems(BaseModel):
    """What a search found."""

    items: list[FoundItem]


class Namespaces(BaseModel):
    """Namespaces, in order."""

    namespaces: list[list[str]]
