"""The oldest PostgreSQL that the wheel brings: migrations, flush and reads work there too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support import postgres
from support.postgres import PostgresServer, make_template, running_server
from support.savers import config, listed, put_chain, stored
from surgetank import Surgetank


@pytest.fixture(scope="module")
def older_server() -> Iterator[PostgresServer]:
    newest = postgres.programs()
    oldest = min(
        newest.parents[1].glob("pginstall*/bin/postgres"), key=lambda path: len(str(path))
    ).parent
    if oldest == newest:
        pytest.skip("the wheel brings one PostgreSQL only")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(postgres, "programs", lambda: oldest)
        template = make_template()
        with running_server(template.path) as server:
            yield server
        template.close()


def test_an_older_postgresql_is_migrated_written_and_read(
    older_server: PostgresServer, tmp_path: Path
) -> None:
    with Surgetank(tmp_path, database_url=older_server.url, flush_in_process=False) as tank:
        assert tank.parts.database.ping().startswith("PostgreSQL 16")
        saver = tank.checkpointer()
        configs = put_chain(saver, "t", 20)
        saver.put_writes(configs[-1], [("a", 1), ("__interrupt__", float("nan"))], "task")
        job = tank.flush()
        assert job.ok, job.result
        assert [t.config for t in listed(saver, "t")] == configs[::-1]
        saver.prune(["t"])
        assert tank.flush().ok
        assert len(stored(saver, config("t")).checkpoint["channel_values"]["items"]) == 20
        saver.delete_thread("t")
        assert tank.flush().ok
        assert saver.get_tuple(config("t")) is None
