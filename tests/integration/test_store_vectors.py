"""Search by meaning: scores, models that fail, a database without pgvector."""

from __future__ import annotations

import math
import threading
from typing import Any

import psycopg
import pytest

from support.stores import index_of
from surgetank import Surgetank
from surgetank.exceptions import (
    ConfigurationError,
    DatabaseRefused,
    VectorSearchUnavailable,
)


def asked(tank: Surgetank, query: str) -> list[tuple[Any, ...]]:
    """Ask the database itself."""
    assert tank.settings.database_url is not None
    url = tank.settings.database_url.get_secret_value()
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(query.encode())
        return cursor.fetchall() if cursor.description is not None else []


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
def test_each_distance_has_its_score(tank, distance):
    store = tank.store(
        index={"dims": 2, "embed": plain, "fields": ["v"], "distance_type": distance}
    )
    for key, vector in {"x": "3 0", "y": "0 2", "xy": "1 1"}.items():
        store.put(("a",), key, {"v": vector})
    found = {item.key: item.score for item in store.search((), query="1 0")}
    expected = {
        "cosine": {"x": 1.0, "xy": 1 / math.sqrt(2), "y": 0.0},
        "l2": {"xy": -1.0, "x": -2.0, "y": -math.sqrt(5)},
        "inner_product": {"x": 3.0, "xy": 1.0, "y": 0.0},
    }[distance]
    assert found == pytest.approx(expected, abs=1e-5)
    assert list(found) == list(expected), "the nearest first"


def plain(texts: list[str]) -> list[list[float]]:
    """The text is the vector."""
    return [[float(number) for number in text.split()] for text in texts]


def test_a_vector_without_length_is_far_and_no_error(tank):
    store = tank.store(index={"dims": 2, "embed": plain, "fields": ["v"]})
    store.put(("a",), "zero", {"v": "0 0"})
    store.put(("a",), "near", {"v": "1 0"})
    assert [(i.key, i.score) for i in store.search((), query="1 0")] == [
        ("near", 1.0),
        ("zero", 0.0),
    ]
    assert [i.score for i in store.search((), query="0 0")] == [0.0, 0.0]


def test_vectors_are_those_of_the_newest_value(tank):
    store = tank.store(index=index_of())
    store.put(("a",), "k", {"text": "zebra"})
    store.put(("a",), "k", {"text": "zebra"}, index=False)
    assert store.search((), query="zebra") == []
    store.put(("a",), "k", {"text": "zebra"})
    store.delete(("a",), "k")
    assert asked(tank, "SELECT count(*) FROM surgetank.store_vectors") == [(0,)]


def test_two_models_may_share_the_tables(tank):
    letters, counts = (
        tank.store(index=index_of()),
        tank.store(index={"dims": 2, "embed": plain, "fields": ["v"]}),
    )
    letters.put(("a",), "letters", {"v": "1 0"})
    counts.put(("a",), "counts", {"v": "1 0"})
    assert [i.key for i in letters.search((), query="1 0")] == ["letters"]
    assert [i.key for i in counts.search((), query="1 0")] == ["counts"]


@pytest.mark.parametrize(
    "index",
    [
        {"embed": plain}, {"dims": 0, "embed": plain}, {"dims": 99_999, "embed": plain}, {"dims": 2},
        {"dims": 2, "embed": plain, "x": 1},
        {"dims": 2, "embed": plain, "distance_type": "near"}, {"dims": 2, "embed": "no:provider"},
    ],
)  # fmt: skip
def test_an_index_that_cannot_be_used_is_refused_at_once(tank, index):
    with pytest.raises(ConfigurationError):
        tank.store(index=index)


@pytest.mark.parametrize("vector", ["1 2 3", "nan 1", "inf 1", "1e300 1"])
def test_a_model_that_gives_no_vector_is_told_and_nothing_is_stored(tank, vector):
    store = tank.store(index={"dims": 2, "embed": plain, "fields": ["v"]})
    with pytest.raises(ConfigurationError):
        store.put(("a",), "k", {"v": vector})
    assert store.get(("a",), "k") is None


def test_without_pgvector_all_but_a_query_works(make_tank, postgres_server, migrated_template):
    name = postgres_server.create_database(migrated_template)
    with psycopg.connect(postgres_server.url_of(name), autocommit=True) as connection:
        connection.execute("DROP EXTENSION IF EXISTS vector")
        connection.execute("DROP ROLE IF EXISTS plain_user")
        connection.execute("CREATE ROLE plain_user LOGIN PASSWORD 'x'")
        connection.execute("GRANT ALL ON SCHEMA surgetank TO plain_user")
        connection.execute("GRANT ALL ON ALL TABLES IN SCHEMA surgetank TO plain_user")
        connection.execute("GRANT ALL ON ALL SEQUENCES IN SCHEMA surgetank TO plain_user")
    url = postgres_server.url_of(name)
    tank = make_tank(database_url=url.replace("postgres@", "plain_user:x@"))
    store = tank.store(index=index_of())
    store.put(("a",), "k", {"text": "zebra"})
    assert store.get(("a",), "k") is not None
    assert len(store.search((), filter={"text": "zebra"})) == 1
    for _ in range(2):
        with pytest.raises(VectorSearchUnavailable) as caught:
            store.search((), query="zebra")
    assert "CREATE EXTENSION vector" in str(caught.value)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA far_away")
        connection.execute("GRANT USAGE ON SCHEMA far_away TO plain_user")
        connection.execute("CREATE EXTENSION vector SCHEMA far_away")
    assert [i.key for i in store.search((), query="zebra")] == ["k"], "wherever it is installed"
    tank.close()


def test_pgvector_that_moved_is_found_again(tank):
    store = tank.store(index=index_of())
    store.put(("a",), "k", {"text": "zebra"})
    assert len(store.search((), query="zebra")) == 1
    asked(tank, "CREATE SCHEMA elsewhere")
    asked(tank, "ALTER EXTENSION vector SET SCHEMA elsewhere")
    with pytest.raises(DatabaseRefused):
        store.search((), query="zebra")
    assert len(store.search((), query="zebra")) == 1


def test_racing_puts_of_one_item_leave_the_vectors_of_one(make_tank):
    tank = make_tank(database_connections=6)
    store = tank.store(index={"dims": 2, "embed": plain, "fields": ["v[*]"]})
    start = threading.Barrier(6)
    problems: list[BaseException] = []

    def work(me: int) -> None:
        start.wait()
        try:
            for n in range(25):
                store.put(("a",), "k", {"v": [f"{me + 1} {part}" for part in range(n % 3 + 1)]})
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(me,)) for me in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    item = store.get(("a",), "k")
    assert item is not None
    rows = asked(tank, "SELECT embedding FROM surgetank.store_vectors ORDER BY position")
    assert [list(row[0]) for row in rows] == plain(item.value["v"])
