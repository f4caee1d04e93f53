"""To which database a buffer belongs: the judgement in every case, and what counts before the first
contact."""

from __future__ import annotations

import pytest

from surgetank.buffer.binding import Binding
from surgetank.database.identity import Identity, destination_of
from surgetank.flush.belonging import Bond, judge_bond

ID, OTHER = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
HERE = "db:5432/a"
BOUND = Binding(HERE, ID, "sys", 5)
MET = Identity(has_schema=True, database_id=ID, system_id="sys", oid=5)


@pytest.mark.parametrize(
    ("binding", "found", "destination", "waiting", "bond"),
    [
        (None, MET, HERE, True, Bond.NEW),
        (Binding(HERE), MET, HERE, True, Bond.NEW),
        (Binding(HERE), MET, "db:5432/b", True, Bond.ELSEWHERE),
        (Binding(HERE), MET, "db:5432/b", False, Bond.NEW),
        (BOUND, MET, HERE, True, Bond.SAME),
        (BOUND, MET, "renamed:6432/a", True, Bond.SAME),
        (BOUND, MET._replace(system_id=None), HERE, True, Bond.SAME),
        (BOUND._replace(system_id=None), MET, HERE, True, Bond.SAME),
        (BOUND, MET._replace(system_id="other"), HERE, True, Bond.MOVED),
        (BOUND, MET._replace(oid=6), HERE, True, Bond.MOVED),
        (BOUND, MET._replace(database_id=OTHER), HERE, False, Bond.OTHER),
        (BOUND, MET._replace(database_id=OTHER, system_id="other", oid=9), HERE, True, Bond.OTHER),
        # A schema of the released version, which has no id: ours had one.
        (BOUND, MET._replace(database_id=None), HERE, True, Bond.OTHER),
        (BOUND, MET._replace(database_id=None, has_schema=False), HERE, True, Bond.GONE),
        (None, MET._replace(database_id=None, has_schema=False), HERE, True, Bond.NEW),
    ],
)
def test_what_a_database_is_to_a_buffer(
    binding: Binding | None, found: Identity, destination: str, waiting: bool, bond: Bond
) -> None:
    assert judge_bond(binding, found, destination, waiting=waiting) is bond


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("postgresql://me:secret@db.example:6432/shop?sslmode=require", "db.example:6432/shop"),
        ("postgresql://db.example/shop", "db.example:5432/shop"),
        ("postgresql://me@/shop?host=/run/postgresql", "/run/postgresql:5432/shop"),
        ("host=a,b dbname=shop user=me", "a,b:5432/shop"),
        ("postgresql://me@localhost", "localhost:5432/me"),
    ],
)
def test_before_the_first_contact_host_port_and_name_count_and_no_secret(
    url: str, destination: str
) -> None:
    assert destination_of(url) == destination
