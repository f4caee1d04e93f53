"""Whatever is sent, the server answers as its OpenAPI document says, and never with 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from support.http import ADMIN_TOKEN, Server, running
from support.savers import put_chain
from support.torture import FEW_SEEDS


@pytest.fixture
def server(make_tank) -> Iterator[Server]:
    with running(make_tank(admin_token=ADMIN_TOKEN, failed_logins_per_minute=10**6)) as started:
        put_chain(started.tank.checkpointer(), "chat-7", 3, user_id="ada")
        yield started


def is_endless(path: str) -> bool:
    """Whether a good answer goes on until somebody hangs up."""
    return path.startswith(("/sse/", "/sql/live", "/threads/{thread_id}/stream"))


PARTS = 4  # of the operations, so that several processes have something to do
EXAMPLES = 12 * len(FEW_SEEDS)  # of each operation, always the same; `make torture` takes more


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_answered_with_5xx_or_otherwise_than_documented(server, mode, part):
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = list(document.get_all_operations())
    assert len(operations) > 80
    tried = 0
    for found in operations[part::PARTS]:
        assert isinstance(found, Ok), found
        operation = found.ok()

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True,
                  suppress_health_check=list(HealthCheck))  # fmt: skip
        def send(case: schemathesis.Case) -> None:
            nonlocal tried
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            tried += 1
            if is_endless(case.operation.path):  # its status is looked at
                parts = case.as_transport_kwargs(base_url=server.url, headers=headers)
                with requests.request(**parts, stream=True, timeout=20) as begun:
                    assert begun.status_code < 500, case.as_curl_command()
                return
            answer = case.call(headers=headers)
            assert answer.status_code < 500, f"{case.as_curl_command()}\n{answer.text}"
            # No document can say which text is a good cursor, and unknown parameters of a query are
            # let pass.
            case.validate_response(
                answer, excluded_checks=[positive_data_acceptance, negative_data_rejection]
            )

        with suppress(Unsatisfiable):  # there is nothing in the operation that could be wrong
            send()
    assert tried > 100
