"""Whether answers are what the server's own OpenAPI document says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import jsonschema_rs


class Answers:
    """Compares answers with a document (`/openapi.json`)."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._components = {"components": document["components"]}
        self._paths = [
            (re.compile("".join(_part(p) for p in re.split(r"(\{[^}]*\})", path)) + "$"), methods)
            for path, methods in document["paths"].items()
        ]
        # fixed names before parameters
        self._paths.sort(key=lambda found: found[0].pattern.count("[^/]+"))
        self._validator = cache(self._compiled)
        self.compared = 0

    def check(self, method: str, url: str, status: int, body: bytes | str) -> None:
        """Raises `AssertionError` for an answer that is not described, or not as described."""
        path = urlsplit(url).path
        found = [m[method.lower()] for p, m in self._paths if p.match(path) and method.lower() in m]
        assert found, f"{method} {path} is not in the document"
        answer = found[0]["responses"].get(str(status))
        assert answer is not None, (
            f"{method} {path} answered {status}, which is not in the document"
        )
        content = answer.get("content", {})
        kind = "application/json" if status < 400 else "application/problem+json"
        schema = content.get(kind, {}).get("schema")
        if schema is None:
            return
        if "$ref" in answer:
            return
        validator = self._validator(json.dumps(schema))
        errors = [str(error) for error in validator.iter_errors(json.loads(body))]
        assert not errors, f"{method} {path} {status}: {errors[0]}\n{str(body)[:2000]}"
        self.compared += 1

    def check_lines(self, lines: Iterable[str]) -> None:
        """Answers that another process wrote down, as JSON."""
        for line in lines:
            each = json.loads(line)
            self.check(each["method"], each["url"], each["status"], each["body"].strip())

    def _compiled(self, schema: str) -> Any:
        return jsonschema_rs.validator_for({**self._components, **json.loads(schema)})


def _part(text: str) -> str:
    return "[^/]+" if text.startswith("{") else re.escape(text)
