"""A failure as it is stored: JSON. Pure."""

from __future__ import annotations

from dataclasses import asdict

from surgetank.encode import jsontext
from surgetank.model import Failure, FailureKind


def failure_json(failure: Failure) -> str:
    """A failure as it is stored."""
    return jsontext.dumps(asdict(failure)).decode()


def failure_of(text: str) -> Failure:
    try:
        body = jsontext.loads(text)
        return Failure(**{**body, "kind": FailureKind(body["kind"])})
    except (
        TypeError,
        ValueError,
        KeyError,
    ) as error:  # another version's: what it belongs to stays visible
        message = f"the reason can't be read ({error}): {jsontext.preview(text.encode())}"
        return Failure(FailureKind.REJECTED, message, "Unreadable")
