"""What a Redis server's settings mean for what we promise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from surgetank.exceptions import ConfigurationError
from surgetank.redis.facts import ServerFacts, advices, confirmation
from surgetank.redis.server import Confirmation

GIB = 1024**3
GOOD = ServerFacts(
    version=(7, 4), max_memory=0, eviction="noeviction", has_file=True, file_sync="always", snapshots="",
    replicas=1,
)  # fmt: skip


def test_a_server_that_is_set_well_needs_no_advice() -> None:
    assert advices(GOOD, 4 * GIB) == []
    assert advices(replace(GOOD, max_memory=8 * GIB), 4 * GIB) == []
    assert advices(ServerFacts(version=(7, 4)), GIB) == [], "what can't be asked is not guessed"


@pytest.mark.parametrize(
    ("facts", "what", "remedy"),
    [
        (replace(GOOD, eviction="allkeys-lru"), "drops keys", "noeviction"),
        (replace(GOOD, has_file=False), "lost when it restarts", "appendonly yes"),
        (replace(GOOD, has_file=False, snapshots="60 1"), "last snapshot", "appendonly yes"),
        (replace(GOOD, max_memory=GIB), "full first", "SURGETANK_BUFFER_MAX_BYTES=715827882"),
        (replace(GOOD, version=(5, 0)), "older than 6.2", "6.2"),
    ],
)
def test_each_danger_is_said_with_its_way_out(facts: ServerFacts, what: str, remedy: str) -> None:
    (advice,) = advices(facts, 4 * GIB)
    assert what in advice.what
    assert remedy in advice.remedy


def test_what_an_append_waits_for() -> None:
    assert confirmation(GOOD, "process") is None
    assert confirmation(GOOD, "power") is None, "the server writes before it answers"
    second = replace(GOOD, file_sync="everysec")
    assert confirmation(second, "power") == Confirmation(in_file=True)
    assert confirmation(replace(GOOD, file_sync=None), "power") == Confirmation(in_file=True)
    assert confirmation(GOOD, "replicated") == Confirmation(replicas=1)


@pytest.mark.parametrize(
    ("facts", "durability"),
    [
        (replace(GOOD, has_file=False), "power"),
        (replace(GOOD, file_sync="everysec", version=(6, 2)), "power"),
        (replace(GOOD, file_sync=None, version=(7, 0)), "power"),
        (replace(GOOD, replicas=0), "replicated"),
    ],
)
def test_a_level_that_the_server_can_not_give_is_refused_at_start(
    facts: ServerFacts, durability: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        confirmation(facts, durability)  # type: ignore[arg-type]
    assert "SURGETANK_DURABILITY=process" in caught.value.remedy
