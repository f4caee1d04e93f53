"""Running a project's code: it may block, raise, or end the process, and must do none of it to us.

It runs in a thread of its own with a deadline. Python can't end a thread: what blocks stays behind
until the process ends, so its failure is final."""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import importlib
import importlib.util
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, TypeVar

from surgetank.exceptions import ConfigurationError, GraphNotLoaded
from surgetank.workflows.graphs.config import GraphsConfig, ObjectSource

MAX_SOURCE_BYTES = 16 << 20
_FRAMES = 3
_T = TypeVar("_T")
_preparing = threading.Lock()
_ours = str(Path(__file__).parents[2])
_stdlib = str(Path(threading.__file__).parent)


class StillRunning(Exception):
    """A project's code was not done in time: how long it had, and the line at which it stands."""

    def __init__(self, seconds: float, frame: FrameType | None) -> None:
        super().__init__(f"its code was not done after {seconds:g} s")
        self.frames = _shown(traceback.extract_stack(frame, limit=50)) if frame is not None else []


async def within(seconds: float, call: Callable[[], _T], graph: str) -> _T:
    """Call it in a thread of its own. What it raises is raised here, `SystemExit` too.

    Raises `StillRunning` when it isn't done in time.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[tuple[_T | None, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def give(result: _T | None, error: BaseException | None) -> None:
        if not outcome.done():
            outcome.set_result((result, error))

    def run() -> None:
        result: _T | None = None
        error: BaseException | None = None
        try:
            result = context.run(call)
        except (Exception, SystemExit) as raised:  # noqa: BLE001 - judged by the caller
            error = raised
        except BaseException as raised:  # noqa: BLE001 - raised again, it would end our own task
            error = failure(graph, raised, {})
        with suppress(RuntimeError):  # the loop is closed, nobody waits
            loop.call_soon_threadsafe(give, result, error)

    thread = threading.Thread(target=run, name=f"graph {graph}", daemon=True)
    thread.start()
    done, _ = await asyncio.wait([outcome], timeout=seconds)
    if not done:
        raise StillRunning(seconds, sys._current_frames().get(thread.ident or 0))  # noqa: SLF001 - the only way
    result, error = outcome.result()
    if error is not None:
        raise error
    return result  # type: ignore[return-value] # None only where the call gives None


def prepare(config: GraphsConfig) -> None:
    """Give the process the project's import paths and environment. What the process has in its
    environment stays."""
    with _preparing:
        importlib.invalidate_caches()
        for path in reversed(config.import_paths):
            if str(path) not in sys.path:
                sys.path.insert(0, str(path))
        for key, value in config.env.items():
            os.environ.setdefault(key, value)


def find(config: GraphsConfig, source: ObjectSource, graph: str) -> Any:
    """Import the module of an object and give the object. Blocks; raises what the module raises,
    and `GraphNotLoaded`."""
    prepare(config)
    if source.file is None:
        module = importlib.import_module(source.module)
    else:
        _check_file(source.file, source.text, graph)
        module = _module_of(source.file, config.import_paths)
    try:
        return getattr(module, source.attribute)
    except AttributeError:
        names = [name for name in dir(module) if not name.startswith("_")]
        raise GraphNotLoaded(
            graph,
            f"{source.text!r} has no {source.attribute!r}",
            remedy=f"name one that there is: {', '.join(names[-10:]) or 'it defines nothing'}.",
        ) from None


def loaded(config: GraphsConfig, key: str, source: ObjectSource, timeout_s: float = 60.0) -> Any:
    """The object of the project that a key of `langgraph.json` names. Blocks, no longer than this.
    Raises `ConfigurationError`."""

    async def load() -> Any:
        return await within(timeout_s, lambda: find(config, source, key), key)

    try:
        with ThreadPoolExecutor(1) as pool:  # a loop may be running in this thread
            return pool.submit(lambda: asyncio.run(load())).result()
    except (Exception, SystemExit) as error:
        raise refusal(config, key, "be loaded", error) from error


def refusal(config: GraphsConfig, key: str, what: str, error: BaseException) -> ConfigurationError:
    """What the project's code raised, as a refusal of what a key names: it can't `what`."""
    found = failure(key, error, config.env)
    at = f" At {', then '.join(found.frames)}." if found.frames else ""
    return ConfigurationError(
        f"{config.path}: {key!r} can't {what}: {found.why}.{at}", remedy=found.remedy
    )


def _check_file(file: Path, text: str, graph: str) -> None:
    if not file.is_file():
        raise GraphNotLoaded(
            graph,
            f"the file of {text!r} does not exist",
            remedy="correct its path, which is relative to langgraph.json.",
        )
    if (size := file.stat().st_size) > MAX_SOURCE_BYTES:
        raise GraphNotLoaded(
            graph,
            f"{file} has {size} bytes, which no source has",
            remedy="name the right file.",
        )


def _module_of(file: Path, roots: tuple[Path, ...]) -> ModuleType:
    """A file as a module, under the name by which others import it, so that its classes are the
    same for all; under one of its own if that name leads elsewhere."""
    for root in sorted(roots, key=lambda path: len(path.parts)):
        parts = file.relative_to(root).with_suffix("").parts if file.is_relative_to(root) else ()
        if parts and all(part.isidentifier() for part in parts):
            name = ".".join(parts)
            if _leads_to(name, file):
                return importlib.import_module(name)
    return _alone(file)


def _leads_to(name: str, file: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a parent that is no package; `__main__`
        return False
    if spec is None or spec.origin is None:
        return False
    origin = Path(spec.origin)  # `built-in` is none
    return origin.is_file() and origin.samefile(file)


def _alone(file: Path) -> ModuleType:
    name = f"{file.stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def borrowed(source: ObjectSource) -> list[str]:
    """Modules beside a file whose name leads to another folder: it got those, not its own."""
    if source.file is None:
        return []
    folder = source.file.parent
    found = []
    for sibling in sorted(folder.glob("*.py"))[:1000]:
        module = sys.modules.get(sibling.stem)
        origin = getattr(module, "__file__", None)
        if origin and sibling != source.file and Path(origin).parent != folder:
            found.append(f"{sibling.stem!r} is {origin}, not the file beside {source.file.name}.")
    return found


def failure(graph: str, error: BaseException, env: Mapping[str, str]) -> GraphNotLoaded:
    """What the project's code raised, as a refusal with its last frames. Values of `env` are
    masked."""
    if isinstance(error, GraphNotLoaded):
        return error
    if isinstance(error, StillRunning):
        remedy = "let it do less while it is imported, and restart the process."
        return GraphNotLoaded(graph, str(error), remedy=remedy, frames=error.frames)
    remedy = "correct the project's code; the same happens with `python -c 'import ...'`."
    if isinstance(error, SystemExit):
        why, remedy = "its code ends the process", "call `sys.exit` elsewhere."
    elif isinstance(error, SyntaxError):
        file = Path(error.filename or "?").name
        why = f"{file} is no Python: {error.msg} in line {error.lineno}"
    else:
        text = " ".join(_text_of(error).split())
        why = f"{type(error).__name__}: {text[:500]}" if text else type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        remedy = f"install what provides {error.name!r}, or name its folder in 'dependencies'."
    for value in sorted(env.values(), key=len, reverse=True):
        if len(value) >= 4:
            why = why.replace(value, "***")
    return GraphNotLoaded(graph, why.rstrip("."), remedy=remedy, frames=_frames_of(error))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is the project's class, and may raise anything
        return "its text can't be made"


def _frames_of(error: BaseException) -> list[str]:
    return _shown(traceback.extract_tb(error.__traceback__, limit=-50))


def _shown(frames: traceback.StackSummary) -> list[str]:
    """The last frames of the project's own code; of libraries where there is none of it."""
    not_theirs = ("<frozen importlib", _ours, _stdlib)
    named = [frame for frame in frames if not frame.filename.startswith(not_theirs)]
    own = [frame for frame in named if "site-packages" not in frame.filename] or named
    return [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in own[-_FRAMES:]]
