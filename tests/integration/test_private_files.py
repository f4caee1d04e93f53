"""What Surgetank keeps is its owner's alone, whatever the umask says, and no folder above the home
is opened for it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from support.savers import config, put
from support.spilling import spill
from support.tanks import MakeTank
from surgetank.database import as_root
from surgetank.database.embedded import EmbeddedPostgres, _programs, start_embedded
from surgetank.exceptions import ConfigurationError
from surgetank.private import make_home, open_file
from surgetank.streams.checkpoints.transfer.journal import Journal

as_root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root has another user run PostgreSQL"
)


@pytest.fixture
def no_umask() -> Iterator[None]:
    """Everything that nobody takes care of is open to everybody."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short name that only its owner enters."""
    made = Path(tempfile.mkdtemp(prefix="stk-")).resolve()
    yield made
    shutil.rmtree(made)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def open_to_others(folder: Path) -> list[str]:
    """What others could read or enter if they came into the folder."""
    return [f"{path} {mode(path):o}" for path in (folder, *folder.rglob("*")) if mode(path) & 0o077]


@pytest.mark.usefixtures("no_umask")
def test_home_buffer_events_alerts_spill_files_and_journals_are_their_owners_alone(
    make_tank: MakeTank, tmp_path: Path
) -> None:
    home, fallback = tmp_path / "home", tmp_path / "fallback"
    tank = make_tank(fallback_url=str(fallback), debug_originals=True)
    tank.parts.reporting.alerts.keep_running()
    saver = tank.checkpointer()
    for number in range(30):
        put(saver, "t", {"x": "é" * 3000 + str(number)}, step=number, score=float("nan"))
    assert spill(tank) > 0
    put(saver, "t", {"x": "after"}, step=99, score=float("nan"))
    tank.flush()
    with Journal(home / "transfers", "import", "a", "b") as journal:
        journal.begin()
    assert {"buffer.db", "buffer.db-wal", "buffer.db-shm", "buffer-events.db", "transfers"} <= {
        path.name for path in home.iterdir()
    }
    assert open_to_others(home) == open_to_others(fallback) == []


def test_a_home_that_an_older_version_left_open_is_closed_and_goes_on(
    make_tank: MakeTank, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    first = make_tank()
    put(first.checkpointer(), "t", {"x": "kept"})
    for path in (home, *home.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    second = make_tank()
    found = second.checkpointer().get_tuple(config("t"))
    assert found is not None
    assert found.checkpoint["channel_values"] == {"x": "kept"}
    assert open_to_others(home) == []


def test_a_folder_with_other_things_in_it_stays_readable_but_what_is_ours_does_not(
    make_tank: MakeTank, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    (home / "index.html").touch(mode=0o644)
    make_tank()
    assert mode(home) == 0o755
    assert [line.split()[0] for line in open_to_others(home)] == [
        str(home),
        str(home / "index.html"),
    ]


def test_a_folder_that_everybody_shares_is_never_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    assert not make_home(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_file_of_another_program_keeps_its_mode(make_tank: MakeTank, tmp_path: Path) -> None:
    import sqlite3

    (tmp_path / "home").mkdir()
    stranger = tmp_path / "home" / "buffer.db"
    with sqlite3.connect(stranger) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    stranger.chmod(0o644)
    with pytest.raises(Exception, match="another program"):
        make_tank()
    assert mode(stranger) == 0o644


# -- the embedded database


@pytest.mark.usefixtures("no_umask")
def test_the_embedded_database_is_its_owners_alone_and_opens_no_folder_above(folder: Path) -> None:
    above, home = folder / "above", folder / "above" / "home"
    above.mkdir(mode=0o700)
    server = start_embedded(home)
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
        sockets = [path for path in home.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]
        assert len(sockets) == 1
        assert open_to_others(folder) == []
    finally:
        server.stop()


@as_root_only
def test_as_root_no_other_user_reads_the_state_and_postgres_itself_is_not_root(
    folder: Path,
) -> None:
    server = start_embedded(folder / "home")
    try:
        user = as_root.account()
        assert server.data.stat().st_uid == user.uid
        status = Path(f"/proc/{server.pid}/status").read_text()
        ids = {
            line.split()[0]: line.split()[1:]
            for line in status.splitlines()
            if line.startswith(("Uid", "Gid", "Gro"))
        }
        assert set(ids["Uid:"]) == {str(user.uid)}
        assert set(ids["Gid:"]) == {str(user.gid)}
        assert "0" not in ids["Groups:"]
        for who in (user.uid, 65534):
            seen = subprocess.run(
                ["ls", server.home],
                user=who,
                group=65534,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
            assert seen.returncode, "neither the server's user nor nobody gets into the home"
    finally:
        server.stop()


@as_root_only
def test_as_root_a_released_home_is_closed_and_goes_on_with_its_data(folder: Path) -> None:
    home = folder / "home"
    start_embedded(home).stop()
    user = as_root.account()
    for above in (folder, home):
        above.chmod(0o711)  # as the released version did
    os.chown(home / "postgres.log", user.uid, user.gid)
    (home / "postgres.log").chmod(0o644)
    for path in (home / "postgres").rglob("*"):
        os.chown(path, user.uid, 0)  # and the group was root's
    server = start_embedded(home)
    try:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS n")
            connection.execute("CHECKPOINT")
        assert mode(folder) == 0o711, "folders above are as they were"
        assert open_to_others(home) == []
        assert EmbeddedPostgres(home).pid == server.pid
    finally:
        server.stop()


@as_root_only
def test_as_root_programs_in_a_folder_of_roots_own_are_copied_where_the_servers_user_may_run_them(
    folder: Path,
) -> None:
    user, state = as_root.account(), folder / "state"
    real = folder / "real"
    shutil.copytree(
        _programs().parent, real / "pginstall18", symlinks=True, ignore=as_root._NOT_NEEDED
    )
    real.chmod(0o700)
    folder.chmod(0o755)
    found = as_root.reachable(real / "pginstall18" / "bin", user, state)
    assert found.is_relative_to(state)
    assert mode(real) == 0o700, "nothing was opened"
    assert as_root.reachable(real / "pginstall18" / "bin", user, state) == found
    state.chmod(0o777)  # anybody might have put something there
    with pytest.raises(ConfigurationError, match="may not enter") as caught:
        as_root.reachable(real / "pginstall18" / "bin", user, state)
    assert "/opt" in caught.value.remedy


def test_a_file_opened_for_writing_is_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with open_file(tmp_path / "new", "xb") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == 0o600
    with pytest.raises(FileExistsError):
        open_file(tmp_path / "new", "xb")
