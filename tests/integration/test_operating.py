"""What `docs/how-to/operate.md` tells operators to do, done as it is written there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from support.pgbouncer import find_pgbouncer, running_tls_pgbouncer
from support.postgres import PostgresServer, programs
from support.savers import config, listed, put_chain
from support.waiting import wait_until
from surgetank import Surgetank

PAGE = (Path(__file__).parents[2] / "docs/how-to/operate.md").read_text(encoding="utf-8")


def block(heading: str, language: str, number: int = 0) -> str:
    """A block of the page, below a heading."""
    section = PAGE.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[number]


def shell(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a block of the page as a person would, with the `surgetank` of these tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-ec", script], env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True,
        timeout=100, check=False,
    )  # fmt: skip


def test_two_roles_are_enough_and_the_application_can_change_no_table(
    private_postgres: PostgresServer, tmp_path: Path
) -> None:
    roles = "Database roles with least privilege"
    with private_postgres.admin() as admin:
        admin.execute(block(roles, "sql"))
    owner, app, reader = (
        private_postgres.url_of("postgres", user=f"surgetank_{name}")
        for name in ("owner", "app", "reader")
    )
    done = shell(block(roles, "sh"), OWNER_URL=owner, SURGETANK_HOME=str(tmp_path / "owner"))
    assert done.returncode == 0, done.stderr
    with Surgetank(tmp_path / "home", database_url=app, flush_in_process=False) as tank:
        saver = tank.checkpointer()
        configs = put_chain(saver, "t", 5)
        tank.emit_log("hello", thread_id="t")
        tank.log_system_error("test", "an error")
        assert tank.flush().ok
        saver.prune(["t"])
        assert tank.flush().ok
        assert [t.config for t in listed(saver, "t")] == configs[-1:]
        saver.delete_thread("t")
        assert tank.flush().ok
        assert saver.get_tuple(config("t")) is None
        assert not [n for n in tank.status(ping=True).notices if n.severity == "critical"]
    with psycopg.connect(app) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("DROP TABLE surgetank.threads")
    with private_postgres.admin() as admin:
        admin.execute(block(roles, "sql", 1))
    with psycopg.connect(reader) as connection:
        assert connection.execute("SELECT count(*) FROM surgetank.system_errors").fetchone() == (1,)
    with psycopg.connect(reader) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM surgetank.checkpoint_blobs")


@contextmanager
def certificates(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Two authorities; the first one has signed the certificate of `localhost` in `server.pem`."""
    for name in ("right", "wrong"):
        openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
        )  # fmt: skip
    openssl(
        "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=localhost",
        "-keyout", str(folder / "server.key"), "-out", str(folder / "server.csr"),
    )  # fmt: skip
    (folder / "names").write_text("subjectAltName=DNS:localhost\n", encoding="utf-8")
    openssl(
        "x509", "-req", "-in", str(folder / "server.csr"), "-CA", str(folder / "right.pem"), "-CAkey",
        str(folder / "right.key"), "-CAcreateserial", "-days", "2", "-extfile", str(folder / "names"),
        "-out", str(folder / "server.pem"),
    )  # fmt: skip
    yield folder / "right.pem", folder / "wrong.pem"


def openssl(*arguments: str) -> None:
    """Run openssl."""
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)


def test_tls_checks_the_certificate_and_says_when_it_is_the_wrong_one(
    postgres_server: PostgresServer, database_url: str, tmp_path: Path
) -> None:
    program = find_pgbouncer()
    if program is None or shutil.which("openssl") is None:
        pytest.skip(
            "pgbouncer or openssl is not installed: the wheel's PostgreSQL has no TLS, PgBouncer "
            "does it"
        )
    with (
        certificates(tmp_path) as (right, wrong),
        running_tls_pgbouncer(
            program, postgres_server, tmp_path / "server.pem", tmp_path / "server.key"
        ) as port,
    ):
        name = database_url.split("?")[0].rsplit("/", 1)[1]
        said = block("TLS to PostgreSQL", "sh")

        def migrate(authority: Path) -> subprocess.CompletedProcess[str]:
            script = said.replace(
                "surgetank_app@db.example.com/app", f"postgres@localhost:{port}/{name}"
            )
            assert f"localhost:{port}" in script
            script = script.replace("/etc/ssl/db-ca.pem", str(authority))
            return shell(script, SURGETANK_HOME=str(tmp_path / authority.stem))

        good, bad = migrate(right), migrate(wrong)
    assert good.returncode == 0, good.stdout + good.stderr
    assert bad.returncode in (1, 2)
    assert "certificate" in bad.stderr


def test_a_database_that_was_restored_from_a_dump_gets_back_what_was_saved_after_the_dump(
    postgres_server: PostgresServer, database_url: str, tmp_path: Path
) -> None:
    page, backup, home = "Back up and restore", tmp_path / "dump", tmp_path / "home"
    tools = {"PATH": f"{programs()}{os.pathsep}{os.environ['PATH']}", "BACKUP": str(backup)}
    with Surgetank(home, database_url=database_url, flush_in_process=False) as tank:
        configs = put_chain(tank.checkpointer(), "t", 5)
        assert tank.flush().ok
        dumped = shell(block(page, "sh"), DATABASE_URL=database_url, **tools)
        assert dumped.returncode == 0, dumped.stderr
        configs += put_chain(tank.checkpointer(), "u", 5)
        assert tank.flush().ok
    name = postgres_server.create_database()
    restored = postgres_server.url_of(name)
    done = shell(block(page, "sh", 1), DATABASE_URL=restored, **tools)
    assert done.returncode == 0, done.stderr
    with Surgetank(home, database_url=restored) as tank:
        saver = tank.checkpointer()
        configs += put_chain(saver, "v", 5)
        tank.wait_saved("v", timeout=60)
        with psycopg.connect(restored) as connection:
            wait_until(
                lambda: (
                    connection.execute(
                        "SELECT count(*) FROM surgetank.checkpoint_history"
                    ).fetchone()
                    == (15,)
                ),
                "what was saved after the dump to be saved again",
            )
        assert {
            t.config["configurable"]["checkpoint_id"] for name in "tuv" for t in listed(saver, name)
        } == {c["configurable"]["checkpoint_id"] for c in configs}
    postgres_server.drop_database(name)


def test_a_copied_home_goes_on_with_what_waited(database_url: str, tmp_path: Path) -> None:
    home, copy, backup = tmp_path / "home", tmp_path / "copy", tmp_path / "home.tar"
    with Surgetank(home, database_url=database_url, flush_in_process=False) as tank:
        put_chain(tank.checkpointer(), "t", 3)
    done = shell(
        block("Back up and restore", "sh", 2),
        SURGETANK_HOME=str(home), SURGETANK_DATABASE_URL=database_url, BACKUP=str(backup),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    copy.mkdir()
    subprocess.run(["tar", "-C", str(copy), "-xf", str(backup)], check=True)
    with Surgetank(copy, database_url=database_url, flush_in_process=False) as tank:
        saver = tank.checkpointer()
        assert len(listed(saver, "t")) == 3
        put_chain(saver, "u", 3)
        assert tank.flush().ok
        assert len(listed(saver, "u")) == 3


def test_the_storage_format_is_raised_by_one_command(database_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    with Surgetank(home, database_url=database_url, flush_in_process=False):
        pass
    done = shell(
        block("Upgrade", "sh"), SURGETANK_HOME=str(home), SURGETANK_DATABASE_URL=database_url
    )
    assert done.returncode == 0, done.stdout + done.stderr
