"""Moving in from LangGraph's own savers and out again, by the command line, on real databases."""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite import SqliteSaver

from support.graphs import agent, delta_graph, nested
from support.savers import config, ids, listed, put, put_chain
from support.transfer import Done, Official, cli_in_process, postgres_official, sqlite_official
from surgetank.encode.equality import difference
from surgetank.streams.checkpoints.transfer.journal import Journal
from surgetank.streams.checkpoints.transfer.official_rows import parents_first


@pytest.fixture(params=["postgres", "sqlite"])
def official(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Official]:
    """One of LangGraph's savers on a database of the test's own."""
    if request.param == "postgres":
        with postgres_official(request.getfixturevalue("fresh_database")) as found:
            yield found
    else:
        with sqlite_official(tmp_path / "checkpoints.sqlite") as found:
            yield found


@pytest.fixture
def cli(tmp_path: Path, database_url: str) -> Any:
    """Runs `surgetank ARGS` on the test's home and database, or another; returns what it said."""

    def run(*arguments: str, home: Path = tmp_path / "home", url: str = database_url) -> Done:
        return cli_in_process(*arguments, home=home, url=url)

    return run


def report(done: Done, code: int = 0) -> dict[str, Any]:
    return done.report(code)


def live_in(saver: Any) -> list[str]:
    """Threads as real graphs leave them: paused with pending writes, forked, with subgraphs, with a
    DeltaChannel."""
    graph = agent(saver)
    on = {"configurable": {"thread_id": "paused"}}
    graph.invoke({"messages": [("user", "hi")]}, on)
    past = list(graph.get_state_history(on))[2]
    graph.update_state(past.config, {"approved": "forked"})
    nested(saver).invoke({"count": 0}, {"configurable": {"thread_id": "nested"}})
    delta = delta_graph(saver)
    for step in range(6):
        delta.invoke({"items": [f"step {step}"]}, {"configurable": {"thread_id": "delta"}})
    c = put(
        saver,
        "odd",
        {
            "deep": {"nan": [math.nan, 1e22, -0.0, {"k": b"\x00"}]},
            "n": None,
            "flag": True,
            "x": 1.0,
        },
    )
    saver.put_writes(c, [("a", 1), ("__error__", "x"), ("b", [2])], "task-2", "~1")
    saver.put_writes(c, [("a", math.nan)], "task-1", "~2")
    return ["delta", "nested", "odd", "paused"]


def seen(saver: Any, thread: str) -> list[Any]:
    """All that a saver says of a thread; namespaces of equal ids in one order."""
    tuples = {t.checkpoint["id"]: t for t in listed(saver, thread)}
    for t in tuples.values():
        # PostgresSaver shows a DeltaChannel's snapshot with each later checkpoint that names the
        # same version.
        values, versions = t.checkpoint["channel_values"], t.checkpoint["channel_versions"]
        parent = (
            tuples.get(t.parent_config["configurable"]["checkpoint_id"])
            if t.parent_config
            else None
        )
        for channel in [c for c, v in values.items() if isinstance(v, _DeltaSnapshot)]:
            if parent and parent.checkpoint["channel_versions"].get(channel) == versions[channel]:
                del values[channel]
    found = [
        (t.config, t.checkpoint, t.metadata, t.parent_config, t.pending_writes)
        for t in tuples.values()
    ]
    return sorted(found, key=lambda f: (f[0]["configurable"]["checkpoint_ns"], f[1]["id"]))


def test_everything_is_imported_and_every_value_is_the_same(cli, tank, official):
    threads = live_in(official.saver)
    rows = official.rows()

    told = report(cli("import", "--from", official.address, "--json"))

    assert official.rows() == rows, "the source is only read"
    assert told["threads"] == 4
    assert (
        told["verified"]
        == told["checkpoints"]
        == sum(len(listed(official.saver, t)) for t in threads)
    )
    assert told["skipped"] == []
    saver = tank.checkpointer()
    assert tank.status().buffer.entries == 0, "all is flushed"
    for thread in threads:
        assert difference(seen(official.saver, thread), seen(saver, thread)) is None, thread


def test_a_graph_goes_on_where_it_stood(cli, tank, official):
    from langgraph.types import Command

    live_in(official.saver)
    on = {"configurable": {"thread_id": "delta"}}
    before = delta_graph(official.saver).get_state(on).values
    report(cli("import", "--from", official.address, "--json"))
    saver = tank.checkpointer()
    assert delta_graph(saver).get_state(on).values == before
    assert len(before["items"]) == 6
    delta_graph(saver).invoke({"items": ["more"]}, on)
    assert delta_graph(saver).get_state(on).values["items"] == [*before["items"], "more"]
    forked = {"configurable": {"thread_id": "paused"}}
    agent(saver).invoke(Command(resume="yes"), forked)
    assert agent(saver).get_state(forked).values["approved"]


def test_a_second_import_finds_all_there_and_adds_what_is_new(cli, tank, official):
    chain = put_chain(official.saver, "t", 3)
    report(cli("import", "--from", official.address, "--json"))
    again = report(cli("import", "--from", official.address, "--json"))
    assert (again["checkpoints"], again["already_there"], again["resumed"]) == (0, 3, False)
    assert again["verified"] == 3
    put(official.saver, "t", {"step": 9}, parent=chain[-1], step=9)
    more = report(cli("import", "--from", official.address, "--json"))
    assert (more["checkpoints"], more["already_there"]) == (1, 3)
    assert difference(seen(official.saver, "t"), seen(tank.checkpointer(), "t")) is None


def test_one_thread_is_imported_and_a_missing_one_is_named(cli, tank, official):
    put_chain(official.saver, "a", 2)
    put_chain(official.saver, "b", 2)
    assert (
        report(cli("import", "--from", official.address, "--thread", "b", "--json"))["checkpoints"]
        == 2
    )
    assert listed(tank.checkpointer(), "a") == []
    missing = cli("import", "--from", official.address, "--thread", "c")
    assert missing.returncode == 2
    assert "no thread 'c'" in missing.stderr


def test_a_dry_run_writes_nothing_and_finds_what_is_broken(cli, tank, official):
    break_second(official, put_chain(official.saver, "t", 3))
    done = report(
        cli("import", "--from", official.address, "--dry-run", "--on-error", "skip", "--json"), 3
    )
    assert (done["checkpoints"], done["skipped_count"], done["dry_run"]) == (2, 1, True)
    assert listed(tank.checkpointer(), "t") == []
    assert tank.status().buffer.entries == 0


def break_second(official: Official, chain: list[Any]) -> str:
    broken: str = ids(chain)[1]
    if isinstance(official.saver, SqliteSaver):
        official.saver.conn.execute(
            "UPDATE checkpoints SET checkpoint = substr(checkpoint, 1, 40) WHERE checkpoint_id = ?",
            (broken,),
        )
        official.saver.conn.commit()
    else:
        version = official.saver.get_tuple(chain[1]).checkpoint["channel_versions"]["items"]
        with psycopg.connect(official.address) as connection:
            query = "UPDATE checkpoint_blobs SET blob = substr(blob, 1, 3) WHERE channel = 'items' AND version = %s"
            connection.execute(query, (version,))
    return broken


def test_a_broken_row_stops_the_import_or_is_listed_as_asked(cli, tank, official):
    chain = put_chain(official.saver, "t", 4)
    put_chain(official.saver, "z", 2)
    broken = break_second(official, chain)

    stopped = cli("import", "--from", official.address)
    assert stopped.returncode == 1
    assert broken in stopped.stderr
    assert "damaged" in stopped.stderr
    assert "--on-error skip" in stopped.stderr
    assert len(listed(tank.checkpointer(), "t")) == 1, "what came before it is kept"
    told = report(cli("import", "--from", official.address, "--json"), 1)
    assert (told["stopped"], told["error"]["type"], told["already_there"]) == (
        True,
        "TransferStopped",
        1,
    )

    told = report(cli("import", "--from", official.address, "--on-error", "skip", "--json"), 3)
    assert [s["checkpoint"] for s in told["skipped"]] == [broken]
    assert told["resumed"]
    saver = tank.checkpointer()
    assert ids([t.config for t in listed(saver, "t")]) == [
        i for i in ids(chain)[::-1] if i != broken
    ]
    assert saver.get_tuple(chain[3]).checkpoint == official.saver.get_tuple(chain[3]).checkpoint
    assert len(listed(saver, "z")) == 2


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("type", "pickle", "pickled"),
        ("type", "what", "unknown type"),
        ("metadata", b"{", "metadata"),
        ("metadata", b"[]", "metadata"),
    ],
)
def test_every_kind_of_broken_row_is_told(cli, tank, tmp_path, column, value, reason):
    with sqlite_official(tmp_path / "x.sqlite") as official:
        put(official.saver, "t", {"a": 1})
        official.saver.conn.execute(f"UPDATE checkpoints SET {column} = ?", (value,))
        official.saver.conn.commit()
    done = cli("import", "--from", f"sqlite:///{tmp_path / 'x.sqlite'}")
    assert done.returncode == 1
    assert reason in done.stderr


def test_what_is_here_already_but_different_is_never_overwritten_unless_asked(cli, tank, official):
    chain = put_chain(official.saver, "t", 2)
    report(cli("import", "--from", official.address, "--json"))
    with_other = official.saver.get_tuple(chain[0])
    official.saver.put(
        config("t"), with_other.checkpoint, {**with_other.metadata, "source": "fork"}, {}
    )
    refused = cli("import", "--from", official.address)
    assert refused.returncode == 1
    assert "$.metadata.source" in refused.stderr
    assert "--force" in refused.stderr
    assert tank.checkpointer().get_tuple(chain[0]).metadata["source"] == "loop"
    report(cli("import", "--from", official.address, "--force", "--json"))
    assert difference(seen(official.saver, "t"), seen(tank.checkpointer(), "t")) is None
    assert len(listed(tank.checkpointer(), "t")) == 2


def test_encrypted_values_are_carried_as_they_are(cli, tank, fresh_database):
    serde = EncryptedSerializer.from_pycryptodome_aes(key=b"0123456789abcdef")
    with postgres_official(fresh_database) as official:
        official.saver.serde = serde
        c = put(official.saver, "t", {"secret": ["word"]})
        report(cli("import", "--from", official.address, "--json"))
        found = tank.checkpointer(serde=serde).get_tuple(c)
        assert found.checkpoint == official.saver.get_tuple(c).checkpoint
    with tank.parts.database.connection() as connection:
        assert (
            b"word"
            not in connection.execute("SELECT data FROM surgetank.checkpoint_blobs").fetchone()[0]
        )


def test_writes_of_no_checkpoint_are_counted_and_left(cli, tank, official):
    put(official.saver, "t", {"a": 1})
    official.saver.put_writes(config("t", "", "gone"), [("a", 1)], "task")
    told = report(cli("import", "--from", official.address, "--json"))
    assert (told["orphan_writes"], told["writes"], told["skipped_count"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("postgresql://nobody@127.0.0.1:1/x", "can't be read"),
        ("/nowhere/at.sqlite", "no file"),
        ("mysql://x/y", "scheme 'mysql'"),
        ("HERE/empty.sqlite", "no checkpoint database"),
        ("HERE/text.sqlite", "SQLite database"),
        ("HERE/old.sqlite", "older schema"),
        ("OURS", "no checkpoint database"),
    ],
)
def test_a_source_that_can_not_be_used_is_named_with_a_way_out(
    cli, tmp_path, database_url, address, told
):
    with closing(sqlite3.connect(tmp_path / "empty.sqlite")) as connection:
        connection.execute("CREATE TABLE other (x)")
    (tmp_path / "text.sqlite").write_text("no database at all " * 100)
    with sqlite_official(tmp_path / "old.sqlite") as old:
        old.saver.conn.execute("ALTER TABLE writes DROP COLUMN task_path")
    done = cli(
        "import", "--from", address.replace("HERE", str(tmp_path)).replace("OURS", database_url)
    )
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "way out:" in done.stderr
    assert "Traceback" not in done.stderr


# -- export


def test_everything_is_exported_and_every_value_is_the_same(cli, tank, official):
    saver = tank.checkpointer()
    graph = agent(saver)
    on = {"configurable": {"thread_id": "paused"}}
    graph.invoke({"messages": [{"role": "user", "content": "hi"}]}, on)
    delta = delta_graph(saver)
    for step in range(6):
        delta.invoke({"items": [f"step {step}"]}, {"configurable": {"thread_id": "delta"}})
    nested(saver).invoke({"count": 0}, {"configurable": {"thread_id": "nested"}})
    assert tank.flush("checkpoints", "delta").ok  # one cold, the others hot

    told = report(cli("export", "--to", official.address, "--json"))

    assert told["skipped"] == []
    assert told["verified"] == told["checkpoints"] > 15
    for thread in ("paused", "delta", "nested"):
        ours = seen(saver, thread)
        theirs = seen(official.saver, thread)
        # LangGraph's serializer makes a list of the tuple that interrupts are written as.
        ours = [
            (*o[:4], [(t, c, list(v) if c == "__interrupt__" else v) for t, c, v in o[4]])
            for o in ours
        ]
        assert difference(ours, theirs, json_like=True) is None, thread
    there: Any = {"configurable": {"thread_id": "delta"}}
    assert delta_graph(official.saver).get_state(there).values == delta.get_state(there).values
    assert agent(official.saver).get_state(on).interrupts


def test_out_and_in_again_gives_the_same(
    cli, tank, official, tmp_path, postgres_server, migrated_template
):
    put_chain(tank.checkpointer(), "t", 5)
    report(cli("export", "--to", official.address, "--json"))
    name = postgres_server.create_database(migrated_template)
    other = {"home": tmp_path / "other", "url": postgres_server.url_of(name)}
    report(cli("import", "--from", official.address, "--json", **other))
    again = report(cli("import", "--from", official.address, "--json"))
    assert again["already_there"] == 5, "what came back is what is here"
    postgres_server.drop_database(name)


def test_a_target_with_threads_is_refused_unless_asked(cli, tank, official):
    chain = put_chain(tank.checkpointer(), "t", 2)
    foreign = put(official.saver, "foreign", {"a": 1})
    refused = cli("export", "--to", official.address)
    assert refused.returncode == 2
    assert "--merge" in refused.stderr
    assert listed(official.saver, "t") == []
    report(cli("export", "--to", official.address, "--merge", "--json"))
    again = report(cli("export", "--to", official.address, "--merge", "--json"))
    assert (again["checkpoints"], again["already_there"]) == (0, 2)
    put(official.saver, "t", {"a": "theirs"})
    report(cli("export", "--to", official.address, "--force", "--json"))
    assert ids([t.config for t in listed(official.saver, "t")]) == ids(chain[::-1])
    assert official.saver.get_tuple(foreign) is not None


def test_what_the_saver_can_not_hold_is_named_skipped_or_altered_as_asked(cli, tank, official):
    saver = tank.checkpointer()
    put(saver, "good", {"a": 1})
    bad = put(saver, "tuple", {"pair": {"in": (1, 2)}})
    stopped = cli("export", "--to", official.address)
    assert stopped.returncode == 1
    assert "$.channel_values.pair.in: list instead of tuple" in stopped.stderr
    told = report(cli("export", "--to", official.address, "--on-error", "skip", "--json"), 3)
    assert [s["thread"] for s in told["skipped"]] == ["tuple"]
    assert listed(official.saver, "tuple") == []
    told = report(cli("export", "--to", official.address, "--merge", "--lossy", "--json"), 3)
    assert len(told["altered"]) == 1
    assert official.saver.get_tuple(bad).checkpoint["channel_values"] == {"pair": {"in": [1, 2]}}


def test_nan_in_a_top_level_channel_is_refused_by_postgres_only(
    cli, tank, fresh_database, tmp_path
):
    put(tank.checkpointer(), "t", {"score": math.nan})
    with postgres_official(fresh_database) as official:
        done = cli("export", "--to", official.address)
        assert done.returncode == 1
        assert "NaN" in done.stderr
        assert listed(official.saver, "t") == []
    told = report(cli("export", "--to", str(tmp_path / "new.sqlite"), "--json"))
    assert told["verified"] == 1


def test_a_dry_export_writes_nothing(cli, tank, official):
    put_chain(tank.checkpointer(), "t", 3)
    told = report(cli("export", "--to", official.address, "--dry-run", "--json"))
    assert told["checkpoints"] == 3
    assert listed(official.saver, "t") == []


@pytest.mark.parametrize(
    ("target", "package"),
    [
        ("postgresql://x@127.0.0.1:1/x", "langgraph-checkpoint-postgres"),
        ("x.sqlite", "langgraph-checkpoint-sqlite"),
    ],
)
def test_a_missing_package_is_named(cli, tank, monkeypatch, target, package):
    monkeypatch.setitem(
        sys.modules, package.replace("langgraph-checkpoint-", "langgraph.checkpoint."), None
    )
    done = cli("export", "--to", target)
    assert done.returncode == 2
    assert f"pip install {package}" in done.stderr


def test_parents_come_first_even_when_ids_do_not_grow():
    rows = [("", "a", "z"), ("", "z", None), ("s", "b", "c"), ("s", "c", "b"), ("", "m", "gone")]
    places = parents_first(rows)
    assert sorted(places, key=repr) == sorted(rows, key=repr)
    assert places.index(("", "z", None)) < places.index(("", "a", "z"))


def test_a_journal_that_was_torn_in_the_middle_of_a_line_goes_on_after_the_last_whole_one(tmp_path):
    with Journal(tmp_path, "import", "a", "b") as journal:
        assert not journal.resumed
        journal.begin()
        journal.done("one", "x")
    with journal.path.open("ab") as file:
        file.write(b'{"thread": "two", "sta')
    with Journal(tmp_path, "import", "a", "b") as again:
        assert again.resumed
        assert again.is_done("one", "x")
        assert not again.is_done("one", "another state")
        assert not again.is_done("two", "x")
        again.done("three", "y")
    with Journal(tmp_path, "import", "a", "b") as third:
        assert third.is_done("three", "y")
        third.finish()
    assert not Journal(tmp_path, "import", "a", "b").resumed
    assert not Journal(tmp_path, "export", "a", "b").resumed


def test_a_thread_of_ours_that_the_database_refuses_stops_the_import_but_not_somebody_elses(
    cli, tank, official, database_url
):
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE surgetank.checkpoints ADD CONSTRAINT refuse CHECK (metadata ->> 'about' "
            "<> 'refused')"
        )
    put(tank.checkpointer(), "foreign", {"a": 1}, about="refused")
    put(official.saver, "t", {"a": 1}, about="fine")
    report(cli("import", "--from", official.address, "--json"))
    put(official.saver, "u", {"a": 1}, about="refused")
    stopped = cli("import", "--from", official.address)
    assert stopped.returncode == 1
    assert "parked" in stopped.stderr
    assert len(tank.parked()) == 2
