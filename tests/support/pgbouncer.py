"""A real PgBouncer in transaction mode in front of a test server."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from support.postgres import PostgresServer
from support.servers import ServerFolder, give_to_server_user, server_user
from support.waiting import wait_until


def find_pgbouncer() -> str | None:
    """The program, when it is installed (Debian puts it into /usr/sbin)."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def running_pgbouncer(program: str, server: PostgresServer, database: str) -> Iterator[str]:
    """URL of the database through a PgBouncer that has two server connections to share out."""
    folder = ServerFolder()
    try:
        config = folder.path / "pgbouncer.ini"
        config.write_text(_config(folder.path, server), encoding="utf-8")
        process = subprocess.Popen(
            [program, "--quiet", str(config)], user=server_user(), cwd="/", start_new_session=True
        )
        url = f"postgresql://postgres@/{database}?host={folder.path}&port=6432"
        try:
            wait_until(lambda: process.poll() is None and _answers(url), "PgBouncer to answer")
            yield url
        finally:
            process.terminate()
            process.wait(timeout=10)
    finally:
        folder.close()


@contextmanager
def running_tls_pgbouncer(
    program: str, server: PostgresServer, certificate: Path, key: Path
) -> Iterator[int]:
    """Port on localhost of a PgBouncer that only speaks TLS, with this certificate."""
    folder = ServerFolder()
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        for file in (certificate, key):
            copy = folder.path / file.name
            copy.write_bytes(file.read_bytes())
            give_to_server_user(copy)
        tls = f"""
listen_addr = 127.0.0.1
listen_port = {port}
client_tls_sslmode = require
client_tls_cert_file = {folder.path / certificate.name}
client_tls_key_file = {folder.path / key.name}
"""
        config = folder.path / "pgbouncer.ini"
        plain = _config(folder.path, server).replace("listen_addr =\nlisten_port = 6432\n", tls)
        config.write_text(plain, encoding="utf-8")
        process = subprocess.Popen(
            [program, "--quiet", str(config)], user=server_user(), cwd="/", start_new_session=True
        )
        url = f"postgresql://postgres@localhost:{port}/postgres?sslmode=require"
        try:
            wait_until(lambda: process.poll() is None and _answers(url), "PgBouncer to answer")
            yield port
        finally:
            process.terminate()
            process.wait(timeout=10)
    finally:
        folder.close()


def _config(folder: Path, server: PostgresServer) -> str:
    return f"""
[databases]
* = host={server.folder} user=postgres
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
unix_socket_mode = 0777
auth_type = any
pool_mode = transaction
default_pool_size = 2
max_client_conn = 100
logfile = {folder}/pgbouncer.log

"""


def _answers(url: str) -> bool:
    try:
        with psycopg.connect(url, prepare_threshold=None) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True
