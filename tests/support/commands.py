"""Programs as processes of their own, forked from one that has loaded them: to load one takes a second of a processor,
and tests run hundreds. `run_command` is `surgetank ARGS`, `run_module` is `python -m MODULE ARGS`, both until they end;
`start_command` and `start_module` give a `Running`.

What happens while a program is loaded (Ctrl-C, the width of a terminal, a missing extra) is no matter for this: such
tests start an interpreter.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

_AT_IMPORT = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "PYTHON", "LANG", "LC_")
_TESTS = Path(__file__).parents[1]
# What a server or a worker loads when it begins.
_SERVING = ("surgetank.server.app", "surgetank.console.app", "uvicorn", "langgraph.graph", "duckdb")
_lock = threading.Lock()
_loaded: subprocess.Popen[str] | None = None


def run_command(
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    *,
    timeout: float = 60,
    cwd: str | Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `surgetank ARGUMENTS` to its end, with nothing on its standard input."""
    if _differs(environment):
        return subprocess.run(
            [sys.executable, "-m", "surgetank", *arguments], capture_output=True, text=True, errors="replace",
            check=False, env=dict(environment), timeout=timeout, cwd=cwd, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    return _run("surgetank", arguments, environment, timeout, cwd)


def run_module(
    module: str, *arguments: object, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a module of `tests` to its end, in the folder `tests`, with more environment."""
    more = {**os.environ, "PYTHONPATH": str(_TESTS), **environment}
    return _run(module, tuple(map(str, arguments)), more, 100, _TESTS)


def start_command(
    *arguments: str, environment: Mapping[str, str], log: Path | None = None
) -> Running | subprocess.Popen[str]:
    """Start `surgetank ARGUMENTS`, usually one that serves or works. Its output is added to `log`, or
    else is to be read from `stdout`."""
    if not _differs(environment) and hasattr(os, "pidfd_open"):
        return Running("surgetank", arguments, environment, log, _TESTS.parent, _SERVING)
    command = [sys.executable, "-m", "surgetank", *arguments]
    with log.open("ab") if log else contextlib.nullcontext() as file:
        return subprocess.Popen(
            command, stdout=file or subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=dict(environment), stdin=subprocess.DEVNULL,
        )  # fmt: skip


def start_module(module: str, *arguments: object) -> Running | subprocess.Popen[str]:
    """Start a module of `tests` in the folder `tests`; what it writes is to be read from `stdout`."""
    environment = {**os.environ, "PYTHONPATH": str(_TESTS)}
    words = tuple(map(str, arguments))
    if hasattr(os, "pidfd_open"):
        return Running(module, words, environment, None, _TESTS)
    return subprocess.Popen(
        [sys.executable, "-m", module, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=_TESTS, env=environment,
    )  # fmt: skip


class Running:
    """A process that has been started: what tests need of `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        log: Path | None,
        cwd: Path,
        more: tuple[str, ...] = (),
    ) -> None:
        self.returncode: int | None = None
        self.stdout: TextIO | None = None
        self._reaping = threading.Lock()
        with tempfile.TemporaryDirectory() as folder:
            out = log or Path(folder) / "out"
            if log is None:
                os.mkfifo(out)
                reader = os.open(out, os.O_RDONLY | os.O_NONBLOCK)
                os.set_blocking(reader, True)
                self.stdout = os.fdopen(reader, encoding="utf-8", errors="replace")
            self.pid = _ask({
                "do": "start", "module": module, "arguments": arguments, "environment": dict(environment),
                "out": str(out), "err": "", "cwd": str(cwd), "more": more,
            })  # fmt: skip
            assert self.pid
        self._fd = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._ended_within(0)

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises `subprocess.TimeoutExpired`."""
        code = self._ended_within(timeout)
        if code is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired("surgetank", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send it, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._fd, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _ended_within(self, seconds: float | None) -> int | None:
        with self._reaping:
            if self.returncode is None:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                if poll.poll(None if seconds is None else seconds * 1000):
                    self.returncode = _ask({"do": "reap", "pid": self.pid})
                    os.close(self._fd)
            return self.returncode


def _differs(environment: Mapping[str, str]) -> bool:
    """Whether something differs that is read when a program is loaded."""
    return any(
        environment.get(name) != os.environ.get(name)
        for name in {*environment, *os.environ}
        if name.startswith(_AT_IMPORT)
    )


def _run(
    module: str, arguments: tuple[str, ...], environment: Mapping[str, str], timeout: float,
    cwd: str | Path | None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("out", "err")]
        code = _ask({
            "do": "run", "module": module, "arguments": arguments, "environment": dict(environment),
            "timeout": timeout, "out": str(paths[0]), "err": str(paths[1]), "cwd": str(cwd or Path.cwd()),
            "more": (),
        })  # fmt: skip
        said = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    if code is None:
        raise subprocess.TimeoutExpired([module, *arguments], timeout, said[0], said[1])
    return subprocess.CompletedProcess([module, *arguments], code, said[0], said[1])


def _ask(request: dict[str, object]) -> int | None:
    """A pid or an exit code; None for what took too long."""
    global _loaded  # noqa: PLW0603 - one for all tests of this process
    with _lock:
        if _loaded is None or _loaded.poll() is not None:
            _loaded = subprocess.Popen(
                [sys.executable, "-P", __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(_TESTS)},
            )
            atexit.register(_end, _loaded)
        assert _loaded.stdin is not None
        assert _loaded.stdout is not None
        _loaded.stdin.write(json.dumps(request) + "\n")
        _loaded.stdin.flush()
        answer = _loaded.stdout.readline()
    assert answer, "the process that runs commands has ended"
    number: int | None = json.loads(answer)
    return number


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(timeout=10)


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None
        if request["do"] == "reap":
            answer = os.waitstatus_to_exitcode(os.waitpid(request["pid"], 0)[1])
        else:
            name = request["module"]
            for each in ("surgetank.cli.app" if name == "surgetank" else name, *request["more"]):
                importlib.import_module(each)
            opened = _open(request["out"], request["err"])
            pid = os.fork()
            if pid == 0:
                _become(request, opened)
                return
            for fd in {*opened}:
                os.close(fd)
            answer = pid if request["do"] == "start" else _end_of(pid, request["timeout"])
        sys.__stdout__.write(json.dumps(answer) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


def _end_of(pid: int, timeout: float) -> int | None:
    signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
    signal.setitimer(signal.ITIMER_REAL, timeout)
    _, status = os.waitpid(pid, 0)
    left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    code = os.waitstatus_to_exitcode(status)
    return None if code == -signal.SIGKILL and not left else code


def _open(out: str, err: str) -> tuple[int, int, int]:
    """Standard input, output and errors; these go with the output where they have no file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    first, second = os.open(os.devnull, os.O_RDONLY), os.open(out, flags, 0o600)
    return first, second, os.open(err, flags, 0o600) if err else second


def _become(request: dict[str, Any], opened: tuple[int, int, int]) -> None:
    """The program, with its output, environment and folder."""
    for number, each in enumerate(opened):
        os.dup2(each, number)
    for each in {*opened}:
        os.close(each)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.argv = [request["module"], *request["arguments"]]
    warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


if __name__ == "__main__":
    _serve()
