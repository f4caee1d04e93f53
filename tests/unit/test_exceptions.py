"""What the family of errors says of itself: the server's answer and a command's exit code are class
data."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import pytest

from surgetank import exceptions
from surgetank.exceptions import SurgetankError

FAMILY = [
    kind
    for kind in vars(exceptions).values()
    if isinstance(kind, type) and issubclass(kind, SurgetankError)
]


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_problem_code_and_an_exit_code(kind):
    assert 400 <= HTTPStatus(kind.http_status) < 600
    assert kind.problem == kind.problem.lower()
    assert kind.exit_code in (1, 2)


def test_a_refusal_of_the_database_is_an_outage_for_callers_and_a_setting_for_operators():
    refused = exceptions.DatabaseRefused
    assert (refused.http_status, refused.problem, refused.exit_code) == (
        503,
        "database-unavailable",
        2,
    )
    assert exceptions.UnknownName.http_status == 422
    assert exceptions.JobNotRetryable.http_status == 409


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


@pytest.mark.parametrize("kind", FAMILY, ids=lambda kind: kind.__name__)
def test_the_table_of_errors_says_what_the_classes_say(kind):
    cause = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).rstrip(".")
    bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
    (line,) = [
        line
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith(f"| `{kind.__name__}` |")
    ]
    cells = [cell.strip() for cell in line.strip("|").split(" | ")]
    assert cells[1:3] == [bases, cause]
    assert len(cells[3]) > 5, "a way out"
    assert cells[4:] == [str(kind.http_status), f"`{kind.problem}`", str(kind.exit_code)]


def test_settings_requests_and_refusals_are_different_errors():
    settings, request, refusal = (
        exceptions.ConfigurationError, exceptions.InvalidRequest, exceptions.DatabaseRefused,
    )  # fmt: skip
    for one in (settings, request, refusal):
        assert not any(
            issubclass(one, other) for other in (settings, request, refusal) if other is not one
        )
