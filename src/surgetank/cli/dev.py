"""`surgetank dev`: an agent server for development, started anew when the project changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from surgetank.cli.output import INTERRUPTED, Home, StopSignals, announce
from surgetank.exceptions import ConfigurationError
from surgetank.workflows.graphs.config import load

_WATCHED = (".py", ".json", ".toml", ".env", ".md", ".txt", ".yaml", ".yml")
_LEFT_OUT = {"node_modules", "__pycache__", "venv", "site-packages"}
_POLL_S = 0.5
_FILES = 20_000
_DEFAULT_ORIGINS = ("http://localhost:3000", "http://localhost:5173")


def dev(
    config: Annotated[
        Path, typer.Option("--config", "-c", help="The project's langgraph.json.")
    ] = Path("langgraph.json"),
    home: Home = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 2024,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="Origins whose pages may use the server; http://localhost:3000 and :5173 by default.",
            show_default=False,
        ),
    ] = None,
    reload: Annotated[
        bool, typer.Option(help="Start the server anew when a file of the project changes.")
    ] = True,
) -> int:
    """Run the graphs of a langgraph.json on this machine, for development.

    Everything is embedded, nobody needs a token, and only this machine is served. Browser pages of
    other origins are refused, except for --allow-origin. When a file of the project changes the
    server is started anew: accepted runs, threads and questions to people stay.

    Point clients at http://127.0.0.1:2024, for instance
    `langgraph_sdk.get_client(url="http://127.0.0.1:2024")`.
    """
    project = load(config)  # said at once, before anything is started
    origins = ",".join(allow_origin or _DEFAULT_ORIGINS)
    environment = {**os.environ, "SURGETANK_CORS_ORIGINS": origins}
    environment.setdefault("SURGETANK_HOME", str(home or project.path.parent / ".surgetank"))
    command = [
        sys.executable, "-m", "surgetank", "serve", "--no-auth", "--port", str(port), "--config",
        str(project.path),
    ]  # fmt: skip
    if home is not None:
        command += ["--home", str(home)]
    stop = StopSignals()
    folder = project.path.parent
    while True:
        seen = _times(folder)
        server = subprocess.Popen(command, env=environment)  # noqa: S603 - ourselves
        try:
            changed = _wait(server, stop, folder, seen if reload else None)
        finally:
            _end(server)
        if stop.event.is_set():
            return stop.exit_code
        if changed is None:
            code = server.returncode
            if not reload or code in (0, INTERRUPTED):
                return code
            announce("surgetank dev: the server ended; waiting for a change", "dev_waits")
            while not stop.event.wait(_POLL_S):
                if _times(folder) != seen:
                    break
            if stop.event.is_set():
                return stop.exit_code
            continue
        announce(f"surgetank dev: {changed} changed, starting anew", "dev_reloads", file=changed)


def _wait(
    server: subprocess.Popen[bytes],
    stop: StopSignals,
    folder: Path,
    seen: dict[Path, float] | None,
) -> str | None:
    """Until something changes (its name), the server ends, or the command is stopped (None)."""
    while not stop.event.wait(_POLL_S):
        if server.poll() is not None:
            return None
        if seen is None:
            continue
        now = _times(folder)
        if now != seen:
            different = {
                path for path in now.keys() | seen.keys() if now.get(path) != seen.get(path)
            }
            return str(min(different).relative_to(folder))
    return None


def _end(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _times(folder: Path) -> dict[Path, float]:
    """When the files of the project were changed."""
    found: dict[Path, float] = {}
    for path in _files(folder):
        try:
            found[path] = path.stat().st_mtime
        except OSError:  # gone meanwhile
            continue
        if len(found) > _FILES:
            raise ConfigurationError(
                f"The project's folder {folder} has more than {_FILES} files.",
                remedy="use --no-reload, or put langgraph.json into a folder of its own.",
            )
    return found


def _files(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        folders[:] = [n for n in folders if not n.startswith(".") and n not in _LEFT_OUT]
        for name in names:
            if name.endswith(_WATCHED):
                yield Path(at) / name
