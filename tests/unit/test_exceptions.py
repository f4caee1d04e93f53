"""What the family of errors says of itself: the server's answer and a command's exit code are class
data."""

from __future__ import annotations

from http import HTTPStatus

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
