"""Programs as processes of their own, forked from one that has loaded them: to load one takes a second of a processor,
and tests run hundreds. `run_command` is `surgetank ARGS`, `run_module` is `python -m MODULE ARGS`.

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
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

_AT_IMPORT = ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERM", "PYTHON", "LANG", "LC_")
_TESTS = Path(__file__).parents[1]
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
    differs = [
        name
        for name in {*environment, *os.environ}
        if name.startswith(_AT_IMPORT) and environment.get(name) != os.environ.get(name)
    ]
    if differs:
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


def _run(
    module: str, arguments: tuple[str, ...], environment: Mapping[str, str], timeout: float,
    cwd: str | Path | None,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("out", "err")]
        request = {
            "module": module, "arguments": arguments, "environment": dict(environment), "timeout": timeout,
            "out": str(paths[0]), "err": str(paths[1]), "cwd": str(cwd or Path.cwd()),
        }  # fmt: skip
        code = _ask(request)
        said = [path.read_text(encoding="utf-8", errors="replace") for path in paths]
    if code is None:
        raise subprocess.TimeoutExpired([module, *arguments], timeout, said[0], said[1])
    return subprocess.CompletedProcess([module, *arguments], code, said[0], said[1])


def _ask(request: dict[str, object]) -> int | None:
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
    code: int | None = json.loads(answer)
    return code


def _end(process: subprocess.Popen[str]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    process.wait(timeout=10)


def _serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        name = request["module"]
        importlib.import_module("surgetank.cli.app" if name == "surgetank" else name)
        pid = os.fork()
        if pid == 0:
            _become(request)
            sys.argv = [name, *request["arguments"]]
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            try:
                runpy.run_module(name, run_name="__main__", alter_sys=True)
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(OSError, ValueError):
                        stream.flush()
            return
        signal.signal(signal.SIGALRM, lambda *_, pid=pid: os.kill(pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, request["timeout"])
        _, status = os.waitpid(pid, 0)
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        code = os.waitstatus_to_exitcode(status)
        late = code == -signal.SIGKILL and not left
        sys.__stdout__.write(json.dumps(None if late else code) + "\n")  # type: ignore[union-attr]
        sys.__stdout__.flush()  # type: ignore[union-attr]


def _become(request: dict[str, str]) -> None:
    """Output, environment and folder of the command."""
    for number, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        opened = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["environment"])  # type: ignore[arg-type]
    os.chdir(request["cwd"])


if __name__ == "__main__":
    _serve()
