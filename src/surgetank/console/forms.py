"""Forms for what graphs ask people: from the content that is offered, or from the schema that an answer must
match, to fields, and from what was typed back to values. Pure.

Text stays text, numbers stay numbers: what nobody touched comes back as it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from surgetank.exceptions import InvalidRequest

_LONG = 80
_TYPES = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean"}
_MOST_FIELDS = 100
_UNTYPABLE = re.compile(r"[\x00-\x08\x0b-\x1f]")  # a browser would change it


class FormRefused(InvalidRequest):
    """What was typed into a field can't be its value."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field. `kind`: `text`, `long`, `integer`, `number`, `boolean`, `choice`, `json`, or `message` (what a person
    says in a conversation); `value` is
    what stands in it at first, `key` its property (None: it is all there is)."""

    name: str
    label: str
    kind: str
    value: str = ""
    choices: tuple[str, ...] = ()
    optional: bool = False
    hint: str = ""
    key: str | None = None

    def read(self, text: str) -> Any:
        """What was typed, as a value. Raises `FormRefused`."""
        text = text.replace("\r\n", "\n")  # as browsers send the end of a line
        try:
            if self.kind == "integer":
                return int(text)
            if self.kind == "number":
                return json.loads(text)
            if self.kind == "json":
                return json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            wanted = {"integer": "a whole number", "number": "a number"}.get(self.kind, "JSON")
            raise FormRefused(
                f"{self.label}: this is not {wanted}.", remedy="mend it, then send it again."
            ) from error
        if self.kind == "message":
            return [{"role": "user", "content": text}]
        return text in ("true", "on") if self.kind == "boolean" else text


def _refuse(name: str) -> Any:
    raise ValueError(name)


def plain_json(value: Any) -> str:
    """A value as JSON. Raises `TypeError`, `ValueError` or `RecursionError` for one that JSON has no form
    for."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def shown_json(value: Any) -> str:
    """A value as people can edit it."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def of_content(prefix: str, content: Any) -> tuple[Field, ...]:
    """Fields for content that may be edited: one for each part of an object, else one for all."""
    if isinstance(content, Mapping) and 0 < len(content) <= _MOST_FIELDS:
        return tuple(
            _of_value(f"{prefix}.{number}", key, value, key)
            for number, (key, value) in enumerate(content.items())
        )
    return (_of_value(prefix, "Content", content, None),)


def _of_value(name: str, label: str, value: Any, key: str | None) -> Field:
    kind, text = "json", shown_json(value)
    if isinstance(value, str) and not _UNTYPABLE.search(value):
        kind, text = "long" if len(value) > _LONG or "\n" in value else "text", value
    elif isinstance(value, bool):
        kind, text = "boolean", "true" if value else "false"
    elif isinstance(value, int):
        kind = "integer"
    elif isinstance(value, float):
        kind = "number"
    return Field(name, label, kind, text, key=key)


def of_schema(prefix: str, schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Fields for an answer that must match a schema: one for each property of a plain object, else one
    for JSON."""
    properties = schema.get("properties")
    needed = schema.get("required") or ()
    if not isinstance(properties, Mapping) or not 0 < len(properties) <= _MOST_FIELDS:
        return (Field(prefix, "Answer, as JSON", "json"),)
    return tuple(
        _of_property(f"{prefix}.{number}", str(key), rule, key in needed)
        for number, (key, rule) in enumerate(properties.items())
        if isinstance(rule, Mapping)
    )


def of_input(prefix: str, schema: Mapping[str, Any]) -> tuple[Field, ...]:
    """Fields for what a graph takes. A conversation is what a person says next in it."""
    fields = of_schema(prefix, schema)
    if fields[0].key is None:
        return (Field(prefix, "Input, as JSON", "json", "{}"),)
    return tuple(
        replace(field, kind="message", label="Message", value="")
        if field.key == "messages" and _is_list(schema["properties"]["messages"])
        else field
        for field in fields
    )


def _is_list(rule: Any) -> bool:
    return isinstance(rule, Mapping) and rule.get("type") == "array"


def _without_null(rule: Mapping[str, Any]) -> Mapping[str, Any]:
    """The only type beside null, with what else the rule says."""
    kinds = [
        each
        for each in rule.get("anyOf") or ()
        if isinstance(each, Mapping) and each.get("type") != "null"
    ]
    return {**kinds[0], **rule} if len(kinds) == 1 else rule


def _of_property(name: str, key: str, rule: Mapping[str, Any], needed: bool) -> Field:
    rule = _without_null(rule)
    label = str(rule.get("title") or key)
    hint = str(rule.get("description") or "")[:500]
    enum = rule.get("enum")
    if isinstance(enum, list) and enum and all(isinstance(each, str) for each in enum):
        return Field(
            name, label, "choice", choices=tuple(enum), optional=not needed, hint=hint, key=key
        )
    kind = _TYPES.get(str(rule.get("type")), "json")
    if kind == "text" and int(rule.get("maxLength") or 0) > _LONG:
        kind = "long"
    value = rule.get("default")
    text = "" if value is None else value if isinstance(value, str) else shown_json(value)
    return Field(name, label, kind, text, optional=not needed, hint=hint, key=key)


def read(fields: Sequence[Field], form: Mapping[str, str]) -> Any:
    """The value that was typed: an object, or what the only field without a key has. What is
    optional and was left empty is left out. Raises `FormRefused`."""
    if len(fields) == 1 and fields[0].key is None:
        return fields[0].read(form.get(fields[0].name, ""))
    found: dict[str, Any] = {}
    for field in fields:
        text = form.get(field.name, "")
        if text == "" and field.optional:
            continue
        found[str(field.key)] = field.read(text)
    return found
