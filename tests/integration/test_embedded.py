"""The embedded PostgreSQL: shared by processes, left by the last one, none the worse for any
kill."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from support.guard import lives, wait
from support.savers import config, put
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.database import embedded
from surgetank.database.embedded import EmbeddedPostgres, start_embedded
from surgetank.exceptions import ConfigurationError, DatabaseUnavailable, MissingExtra


@pytest.fixture(scope="module")
def template() -> Iterator[Path]:
    """A home that was used once, to be copied: initdb is the slowest part."""
    home = Path(tempfile.mkdtemp(prefix="stk-"))
    start_embedded(home).stop()
    yield home
    shutil.rmtree(home)


@pytest.fixture
def home(template: Path) -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="stk-")).resolve()
    subprocess.run(["cp", "-a", f"{template}/.", home], check=True)
    yield home
    end(home)


def end(home: Path) -> None:
    EmbeddedPostgres(home).shut_down("immediate")
    shutil.rmtree(home)


def select(server: EmbeddedPostgres, query: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row and row[0]


def change(server: EmbeddedPostgres, statement: str) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement.encode())


def kill(pid: int | None, *, with_children: bool = True) -> None:
    assert pid is not None
    server = psutil.Process(pid)
    server.send_signal(signal.SIGSTOP)
    family = [*(server.children(recursive=True) if with_children else ()), server]
    for process in family:
        process.kill()
    assert not wait(family, timeout_s=10)


@functools.cache
def is_root() -> bool:
    return os.geteuid() == 0


# -- alone


def test_the_first_start_makes_a_durable_utf8_database_that_only_its_user_reaches(
    tmp_path: Path,
) -> None:
    server = start_embedded(tmp_path / "home")
    try:
        assert select(server, "SHOW fsync") == select(server, "SHOW full_page_writes") == "on"
        assert select(server, "SHOW server_encoding") == "UTF8"
        assert select(server, "SHOW listen_addresses") == ""
        assert select(server, "SHOW unix_socket_permissions") == "0700"
        assert (server.data.stat().st_mode & 0o777) == 0o700
    finally:
        server.stop()
    assert not server.is_running()
    assert server.pid is None
    server.stop()


def test_data_outlives_stop_and_start_of_the_same_object(home: Path) -> None:
    server = start_embedded(home)
    change(server, "CREATE TABLE kept AS SELECT 7 AS n")
    first = server.pid
    server.stop()
    assert not server.is_running()
    server.start()
    assert server.pid not in (first, None)
    assert select(server, "SELECT n FROM kept") == 7
    server.stop()


@pytest.mark.parametrize("with_children", [True, False], ids=["all of it", "the postmaster"])
def test_it_starts_again_after_kill_9_with_all_that_was_committed(
    home: Path, with_children: bool
) -> None:
    server = start_embedded(home)
    change(server, "CREATE TABLE kept AS SELECT 7 AS n")
    kill(server.pid, with_children=with_children)
    assert not server.is_running()
    server.start()
    assert select(server, "SELECT n FROM kept") == 7
    server.stop()
    assert not server.is_running()


def test_a_killed_servers_number_that_now_is_a_strangers_neither_misleads_nor_harms_it(
    home: Path,
) -> None:
    server = start_embedded(home)
    kill(server.pid)
    stranger = subprocess.Popen(["sleep", "60"])  # runs as we do
    try:
        pid_file = server.data / "postmaster.pid"
        pid_file.write_text(
            pid_file.read_text().replace(pid_file.read_text().split()[0], str(stranger.pid), 1)
        )
        assert not server.is_running()
        server.shut_down()
        server.start()
        assert select(server, "SELECT 1") == 1
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_an_initdb_that_was_killed_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "postgres.new" / "base").mkdir(parents=True)
    (tmp_path / "postgres.new" / "PG_VERSION").write_text("18\n")
    server = start_embedded(tmp_path)
    assert select(server, "SELECT 1") == 1
    server.stop()


def test_it_stops_when_the_interpreter_ends(home: Path) -> None:
    code = "import sys; from pathlib import Path; from surgetank.database.embedded import *; "
    code += "print(start_embedded(Path(sys.argv[1])).pid)"
    done = subprocess.run(
        [sys.executable, "-c", code, home], check=True, capture_output=True, text=True
    )
    assert not psutil.pid_exists(int(done.stdout)) or not lives(psutil.Process(int(done.stdout)))


# -- shared

_USER = """
import sys
from pathlib import Path
from surgetank.database.embedded import start_embedded
server = start_embedded(Path(sys.argv[1]))
print(server.pid, flush=True)
sys.stdin.readline()
server.stop()
"""


def use(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _USER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def used_pid(user: subprocess.Popen[str]) -> int:
    assert user.stdout is not None
    return int(user.stdout.readline())


def leave(user: subprocess.Popen[str]) -> None:
    user.communicate("\n", timeout=30)
    assert user.returncode == 0


def kill_user(user: subprocess.Popen[str]) -> None:
    user.kill()
    user.communicate()


def test_three_processes_share_one_server_and_a_killed_one_neither_stops_nor_holds_it(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"  # empty: they also agree on who makes the data folder
    users = [use(home) for _ in range(3)]
    assert len({used_pid(user) for user in users}) == 1, "they start at once and get one server"
    server = EmbeddedPostgres(home)
    killed, early, last = users
    kill_user(killed)
    assert select(server, "SELECT 1") == 1
    leave(early)
    assert select(server, "SELECT 1") == 1
    leave(last)
    assert not server.is_running(), "the killed one doesn't count any more"


def test_a_server_whose_only_user_was_killed_is_taken_over_and_then_stopped(home: Path) -> None:
    orphan = use(home)
    pid = used_pid(orphan)
    kill_user(orphan)
    server = start_embedded(home)
    assert server.pid == pid
    server.stop()
    assert not server.is_running()


def test_two_objects_of_one_process_count_as_two(home: Path) -> None:
    first, second = start_embedded(home), start_embedded(home)
    first.stop()
    assert select(second, "SELECT 1") == 1
    second.stop()
    assert not second.is_running()


def test_the_same_home_by_another_name_is_the_same_server(home: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(home)
    first, second = start_embedded(home), start_embedded(tmp_path / "link")
    assert first.pid == second.pid
    assert first.url == second.url
    first.stop()
    second.stop()
    assert not second.is_running()


def test_a_user_killed_while_the_server_starts_leaves_it_to_the_next(home: Path) -> None:
    server = start_embedded(home)
    change(server, "CREATE TABLE big AS SELECT generate_series(1, 300000) AS n")
    kill(server.pid)  # much to recover at the next start
    server.stop()
    starter = use(home)
    wait_until(server.is_running, "the server to come up")
    kill_user(starter)
    server.start()
    assert select(server, "SELECT count(*) FROM big") == 300000
    server.stop()


def test_a_failed_start_does_not_count_as_a_user(home: Path) -> None:
    broken, server = EmbeddedPostgres(home), EmbeddedPostgres(home)
    configuration = home / "postgres" / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "no_such_setting = 1\n")
    with pytest.raises(DatabaseUnavailable, match="no_such_setting") as caught:
        broken.start()
    assert str(broken.log_path) in caught.value.remedy
    configuration.write_text(good)
    server.start()
    server.stop()
    assert not server.is_running()


# -- folders


@pytest.mark.parametrize(
    "name",
    ["deep/" * 30 + "home", "a b", "it's", "50% & more #1", "a,b;c", "naïve-日本"],
    ids=lambda n: n[:12],
)
def test_any_ordinary_folder_will_do(template: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / name
    home.mkdir(parents=True)
    subprocess.run(["cp", "-a", f"{template}/.", home], check=True)
    server = start_embedded(home)
    assert server.pid is not None
    assert psutil.Process(server.pid).cwd() == str(server.data)
    assert is_root() or select(server, "SHOW data_directory") == str(server.data)
    server.stop()
    assert not server.is_running()


@pytest.mark.parametrize("name", ['say "hi"', "$HOME", "`id`", "back\\slash"])
def test_a_folder_that_pg_ctl_would_misread_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="name") as caught:
        start_embedded(tmp_path / name)
    assert "SURGETANK_HOME" in caught.value.remedy


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="can't be used") as caught:
        start_embedded(tmp_path / "file" / "home")
    assert isinstance(caught.value.__cause__, OSError)
    assert "SURGETANK_HOME" in caught.value.remedy


@pytest.mark.skipif(is_root(), reason="root may write everywhere")
def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    with pytest.raises(ConfigurationError, match="can't be used"):
        start_embedded(tmp_path / "home")


def test_data_of_another_major_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("13\n")
    with pytest.raises(ConfigurationError, match=r"PostgreSQL 13; .* has \d\d"):
        start_embedded(tmp_path)
    assert [file.name for file in (tmp_path / "postgres").iterdir()] == ["PG_VERSION"]


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "letters.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="not a PostgreSQL data directory"):
        start_embedded(tmp_path)
    assert (tmp_path / "postgres" / "letters.txt").read_text() == "mine"


@pytest.fixture
def far_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The temporary folder, in which the socket has a folder of its own, as for a deep home."""
    folder = Path(tempfile.mkdtemp(prefix="stk-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(embedded, "_SOCKET_BYTES", 1)
    yield folder
    shutil.rmtree(folder)


def test_a_socket_folder_of_somebody_else_is_refused(home: Path, far_socket: Path) -> None:
    first = start_embedded(home)
    (ours,) = far_socket.iterdir()
    first.stop()
    assert list(far_socket.iterdir()) == [], "nothing is left behind"
    ours.symlink_to(home)
    with pytest.raises(ConfigurationError, match="somebody else"):
        first.start()
    assert not first.is_running()


def test_processes_with_different_temporary_folders_find_one_another(
    home: Path, far_socket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_embedded(home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    second = start_embedded(home)
    assert select(second, "SELECT 1") == 1
    assert far_socket.name in second.url
    first.stop()
    second.stop()
    assert list(far_socket.iterdir()) == list(tmp_path.glob("surgetank*")) == []


def _none(*_: object) -> None:
    return None


def test_without_the_wheel_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", _none)
    with pytest.raises(MissingExtra, match=r"surgetank\[embedded\]"):
        start_embedded(tmp_path)


# -- signals, forks, and stops by others

_FORKS = """
import os, sys
from pathlib import Path
from surgetank.database.embedded import start_embedded
server = start_embedded(Path(sys.argv[1]))
child = os.fork()
if child == 0:
    if sys.argv[2] == "stop":
        server.stop()
    sys.exit(0)  # with everything that is registered with atexit
os.waitpid(child, 0)
print(server.is_running(), flush=True)
server.stop()
print(server.is_running(), flush=True)
"""


@pytest.mark.parametrize("how", ["exit", "stop"])
def test_a_forked_child_neither_stops_the_server_nor_counts_as_a_user(home: Path, how: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKS, str(home), how],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["True", "False"]


def test_a_child_that_outlives_a_killed_parent_does_not_hold_the_server(home: Path) -> None:
    code = _USER.replace(
        "print(server.pid",
        "import os, time\nif os.fork() == 0:\n    time.sleep(60)\nprint(server.pid",
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    used_pid(parent)
    (child,) = [
        c
        for c in psutil.Process(parent.pid).children()
        if c.cmdline()[:2] == [sys.executable, "-c"]
    ]
    parent.kill()
    parent.wait()
    server = start_embedded(home)
    server.stop()
    assert not server.is_running(), "nobody else uses it"
    child.kill()
    assert parent.stdin is not None
    assert parent.stdout is not None
    parent.stdin.close()
    parent.stdout.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_a_server_whose_only_user_was_ended_by_a_signal_is_stopped_by_its_owner(
    home: Path, how: signal.Signals
) -> None:
    code = _USER.replace(
        "server = ", "import surgetank.database.embedded as e; e.GRACE_S = 0.1\nserver = "
    )
    user = subprocess.Popen(
        [sys.executable, "-c", code, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    server = EmbeddedPostgres(home)
    assert used_pid(user) == server.pid
    user.send_signal(how)
    user.communicate()
    wait_until(lambda: not server.is_running(), "the owner to stop it")
    assert not server.crashed()


def test_the_owner_ends_with_the_server_and_there_is_one(home: Path) -> None:
    def owners() -> list[psutil.Process]:
        return [
            p
            for p in psutil.process_iter(["cmdline"])
            if str(home) in (p.info["cmdline"] or []) and "-S" in p.info["cmdline"]
        ]

    first, second = start_embedded(home), start_embedded(home)
    wait_until(lambda: len(owners()) == 1, "one owner")
    first.stop()
    second.stop()
    wait_until(lambda: owners() == [], "the owner to end")


def test_a_server_that_somebody_else_stopped_is_started_again_by_who_needs_it(home: Path) -> None:
    tank = Surgetank(home, flush_in_process=False, flush_on_close=False).open()
    try:
        saver = tank.checkpointer()
        put(saver, "t", {"n": 1})
        assert tank.flush().ok
        EmbeddedPostgres(home).shut_down()
        assert saver.get_tuple(config("t")) is not None, "a reader needs it"
        EmbeddedPostgres(home).shut_down()
        put(saver, "t", {"n": 2})
        tank.flush()  # a connection that was open may break first
        assert tank.flush().ok, "a flush needs it"
        embedded = tank.parts.embedded
        assert embedded is not None
        embedded.shut_down()
        assert not embedded.revive(), "what it stopped itself stays down"
    finally:
        tank.close()


_TANK_FORKS = """
import os, sys
from surgetank import Surgetank
with Surgetank(sys.argv[1]) as tank:
    tank.emit_log("before", thread_id="t")
    child = os.fork()
    if child == 0:
        if sys.argv[2] == "close":
            tank.close()
            tank.close()
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    tank.emit_log("after", thread_id="t")
    tank.wait_saved("t")
    print([line.message for line in tank.logs("t")])
"""


@pytest.mark.parametrize("how", ["exit", "close"])
def test_a_forked_child_that_closes_the_engine_closes_nothing_of_its_parents(
    home: Path, how: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TANK_FORKS, str(home), how],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['before', 'after']"
    assert "Traceback" not in done.stderr


def test_a_server_that_hangs_holds_up_nobody_who_leaves_and_its_owner_stops_it_later(
    home: Path,
) -> None:
    tank = Surgetank(home, shutdown_timeout=2.0, flush_in_process=False).open()
    tank.emit_log("accepted", thread_id="t")
    server = EmbeddedPostgres(home)
    hung = psutil.Process(server.pid)
    hung.suspend()
    try:
        started = time.monotonic()
        tank.close()
        assert time.monotonic() - started < 10.0, "shutdown_timeout, and pg_ctl's whole seconds"
        assert server.is_running()
    finally:
        hung.resume()
    wait_until(lambda: not server.is_running(), "the owner to stop it")
    with Surgetank(home, flush_in_process=False) as again:
        assert again.flush().ok
        assert [line.message for line in again.logs("t")] == ["accepted"]
