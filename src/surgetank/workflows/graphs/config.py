"""A project's `langgraph.json`, read and judged. Nothing is imported or installed here.

A key is used, or noted because only an image builder needs it, or refused by its name: what would
be ignored silently could be what somebody relies on. A graph that can't be used is refused alone,
so that the others can still be shown."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import stat
import sys
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from surgetank.exceptions import ConfigurationError, GraphNotLoaded
from surgetank.workflows.graphs import envfile
from surgetank.workflows.lifetime import Lifetimes, lifetimes_of

MAX_CONFIG_BYTES = 1 << 20
_JAVASCRIPT = (".js", ".mjs", ".cjs", ".jsx", ".ts", ".mts", ".cts", ".tsx")
_USED = frozenset(
    ("graphs", "dependencies", "env", "store", "http", "auth", "checkpointer", "python_version")
)
_FOR_BUILDERS = frozenset(
    (
        "pip_config_file", "pip_installer", "dockerfile_lines", "image_distro", "base_image", "api_version",
        "node_version", "keep_pkg_tools", "source", "docker_compose",
    )
)  # fmt: skip
_NOT_SERVED = {
    "ui": "components for their user interface are not served",
    "ui_config": "components for their user interface are not served",
    "webhooks": "webhooks are configured by settings",
}
_REFUSED = {
    "encryption": "remove it if the database's own encryption will do: nothing of ours would call it.",
}
# What would be missed if it were passed over in silence: who may do what, what is served, what is deleted.
_REFUSED_KEYS = {
    "http.mount_prefix": "remove it, and let a proxy before the server take the prefix away.",
    "http.configurable_headers": "remove it: headers reach no run. Clients put values into "
    "`config.configurable`.",
    "http.disable_webhooks": "remove it: what a run names as its webhook is called, at public "
    "addresses and those that SURGETANK_WEBHOOK_ALLOW has.",
    "checkpointer.path": "remove it, since Surgetank's own checkpointer is used; "
    "`Surgetank(sink=...)` flushes into another saver.",
}
_INSTEAD = {
    "http.cors": "SURGETANK_CORS_ORIGINS says whose pages may ask",
}
# Within a section: what is used, and what says something about what we don't have.
_SECTIONS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "http": (
        frozenset(("app", "enable_custom_route_auth", "middleware_order")),
        frozenset(("disable_mcp", "disable_a2a", "disable_ui", "mcp", "logging_headers", "cors")),
    ),
    "auth": (frozenset(("path",)), frozenset(("disable_studio_auth", "openapi", "cache"))),
    "checkpointer": (frozenset(("ttl",)), frozenset(("serde", "backend"))),
    "store": (frozenset(("index", "ttl")), frozenset()),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ObjectSource:
    """Where an object is found: an attribute of a file, or of a module. `text` is as written."""

    text: str
    attribute: str
    file: Path | None = None
    module: str = ""


@dataclass(frozen=True, slots=True)
class GraphSource:
    """A graph that the file names."""

    name: str
    source: ObjectSource
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphsConfig:
    """What a `langgraph.json` says.

    `embed` is the function that the index of the store names, where it is the project's own;
    `auth` the object that says who may do what; `app` the application that `http.app` names, and
    `app_open` whether it is asked without a token. `lifetimes` are those of threads.
    `refused` has the graphs that can't be used, each with its error. `import_paths` are put before
    Python's own; `env` are secrets and in no text. `notes` are sentences about what is not used.
    """

    path: Path
    graphs: Mapping[str, GraphSource]
    refused: Mapping[str, GraphNotLoaded]
    import_paths: tuple[Path, ...]
    env: Mapping[str, str] = field(repr=False)
    store: Mapping[str, Any]
    embed: ObjectSource | None = None
    app: ObjectSource | None = None
    app_open: bool = False
    lifetimes: Lifetimes = field(default_factory=Lifetimes)
    auth: ObjectSource | None = None
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All graphs of the file, those that are refused included."""
        return (*self.graphs, *self.refused)


def assistant_id(graph: str) -> uuid.UUID:
    """The id of a graph's default assistant: the same in every process, as clients expect it."""
    return uuid.uuid5(uuid.UUID("6ba7b821-9dad-11d1-80b4-00c04fd430c8"), graph)


def load(path: str | Path) -> GraphsConfig:
    """Read a `langgraph.json`. Raises `ConfigurationError`, which says what to do."""
    return _Reading(Path(os.path.abspath(Path(path).expanduser()))).config()  # noqa: PTH100 - links stay


class _Reading:
    """One reading of one file: its paths are relative to its folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self.notes: list[str] = []
        self.roots: list[Path] = [self.folder]

    def config(self) -> GraphsConfig:
        said = _object_in(self.path)
        self._judge_keys(said)
        self._dependencies(said.get("dependencies", []))
        graphs, refused = self._graphs(said.get("graphs"))
        env = self._env(said.get("env", {}))
        sections = {name: self._section(name, said.get(name)) for name in _SECTIONS}
        return GraphsConfig(
            path=self.path,
            graphs=MappingProxyType(graphs),
            refused=MappingProxyType(refused),
            import_paths=tuple(self.roots),
            env=MappingProxyType(env),
            store=MappingProxyType(sections["store"]),
            embed=self._embed(sections["store"]),
            app=self._app(sections["http"]),
            app_open=not self._flag(
                "http.enable_custom_route_auth", sections["http"], default=True
            ),
            lifetimes=self._lifetimes(sections["checkpointer"]),
            auth=self._named_object("auth.path", sections["auth"].get("path")),
            notes=tuple(self.notes),
        )

    def refuse(self, what: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self.path}: {what}.", remedy=remedy)

    # -- keys

    def _judge_keys(self, said: Mapping[str, Any]) -> None:
        for key in said:
            if key in _REFUSED:
                raise self.refuse(f"{key!r} is not supported", _REFUSED[key])
            if key in _FOR_BUILDERS:
                self.notes.append(f"{key}: only for building an image; not used.")
            elif key in _NOT_SERVED:
                self.notes.append(f"{key}: {_NOT_SERVED[key]}; not used.")
            elif key not in _USED and not key.startswith(("$", "_")):
                raise self.refuse(
                    f"the key {key!r} is not known",
                    "correct its name, or remove it: nothing would be done with it.",
                )
        here = f"{sys.version_info.major}.{sys.version_info.minor}"
        wanted = said.get("python_version", here)
        if wanted != here:
            self.notes.append(f"python_version: {wanted!r} is asked for, this is Python {here}.")

    def _section(self, name: str, said: Any) -> dict[str, Any]:
        if said is None:
            return {}
        if not isinstance(said, dict):
            raise self.refuse(f"{name!r} is no object", f'write "{name}": {{...}}.')
        used, without_use = _SECTIONS[name]
        for key, value in said.items():
            if key in used:
                continue
            if key in without_use or value in (None, False):
                instead = _INSTEAD.get(f"{name}.{key}")
                self.notes.append(f"{name}.{key}: not used{'; ' + instead if instead else ''}.")
            else:
                raise self.refuse(
                    f"{name + '.' + key!r} is not supported",
                    _REFUSED_KEYS.get(
                        f"{name}.{key}",
                        "remove it if you can do without, or put a proxy that does it before the "
                        "server.",
                    ),
                )
        return {key: value for key, value in said.items() if key in used and value is not None}

    # -- import paths

    def _dependencies(self, said: Any) -> None:
        if not isinstance(said, list) or not all(isinstance(entry, str) for entry in said):
            raise self.refuse("'dependencies' is no list of texts", 'write "dependencies": ["."].')
        for entry in said:
            if entry.startswith((".", "/")):
                self._import_path(entry)
            else:
                self._package(entry)
        self.roots = list(dict.fromkeys(self.roots))

    def _import_path(self, entry: str) -> None:
        folder = self._absolute(entry)
        if not folder.is_dir():
            raise self.refuse(
                f"the dependency {entry!r} is no folder", "correct its path, or remove it."
            )
        self.roots.append(folder)
        if (folder / "pyproject.toml").is_file() and (folder / "src").is_dir():
            self.roots.append(folder / "src")  # as an installation of it would have it

    def _package(self, entry: str) -> None:
        name = re.split(r"[^\w.-]", entry.strip(), maxsplit=1)[0]
        try:
            importlib.metadata.version(name)
        except (importlib.metadata.PackageNotFoundError, ValueError):
            self.notes.append(
                f"dependencies: {name!r} is not installed, and nothing is installed by Surgetank."
            )

    def _absolute(self, text: str) -> Path:
        return Path(os.path.normpath(self.folder / text))

    # -- graphs

    def _graphs(self, said: Any) -> tuple[dict[str, GraphSource], dict[str, GraphNotLoaded]]:
        if not isinstance(said, dict) or not said:
            raise self.refuse(
                "it names no graphs", 'write "graphs": {"agent": "./agent.py:graph"}.'
            )
        graphs: dict[str, GraphSource] = {}
        refused: dict[str, GraphNotLoaded] = {}
        for name, spec in said.items():
            try:
                graphs[name] = self._graph(name, spec)
            except GraphNotLoaded as error:
                refused[name] = error
        return graphs, refused

    def _graph(self, name: str, spec: Any) -> GraphSource:
        def refuse(why: str, remedy: str) -> GraphNotLoaded:
            return GraphNotLoaded(name, why, remedy=remedy)

        if (why := _wrong_name(name)) is not None:
            raise refuse(f"its name {why}", "give it a name of letters, digits, '-' and '_'.")
        path, description = (
            (spec.get("path"), spec.get("description")) if isinstance(spec, dict) else (spec, None)
        )
        if not isinstance(path, str):
            raise refuse("it has no path", 'write "./agent.py:graph", or {"path": ...}.')
        source = self._source(path, refuse)
        return GraphSource(name, source, description if isinstance(description, str) else None)

    def _embed(self, store: Mapping[str, Any]) -> ObjectSource | None:
        """The function of the project that embeds texts; None for a model that is named."""
        for key, section in store.items():
            if not isinstance(section, dict):
                raise self.refuse(f"'store.{key}' is no object", f'write "{key}": {{...}}.')
        text = store.get("index", {}).get("embed")
        of_project = isinstance(text, str) and (".py:" in text or text.startswith((".", "/")))
        return self._named_object("store.index.embed", text) if of_project else None

    def _app(self, http: Mapping[str, Any]) -> ObjectSource | None:
        if http.get("middleware_order", "middleware_first") != "middleware_first":
            raise self.refuse(
                "'http.middleware_order' is another than 'middleware_first'",
                "remove it, if the middleware of 'http.app' can do without the user: tokens are "
                "checked behind it.",
            )
        return self._named_object("http.app", http.get("app"))

    def _lifetimes(self, checkpointer: Mapping[str, Any]) -> Lifetimes:
        try:
            return lifetimes_of(checkpointer["ttl"]) if "ttl" in checkpointer else Lifetimes()
        except ValueError as error:
            raise self.refuse(
                f"'checkpointer.ttl': {error}",
                'write {"strategy": "delete", "default_ttl": 43200} (minutes) or the like.',
            ) from None

    def _named_object(self, key: str, text: Any) -> ObjectSource | None:
        if text is None:
            return None
        if not isinstance(text, str):
            raise self.refuse(f"{key!r} is no text", 'write "./file.py:name".')
        return self._source(text, lambda why, remedy: self.refuse(f"{key!r}: {why}", remedy))

    def _flag(self, key: str, section: Mapping[str, Any], *, default: bool) -> bool:
        said = section.get(key.rpartition(".")[2], default)
        if not isinstance(said, bool):
            raise self.refuse(f"{key!r} is neither true nor false", "write true or false.")
        return said

    def _source(self, text: str, refuse: Callable[[str, str], Exception]) -> ObjectSource:
        where, _, attribute = text.rpartition(":")
        if (where or text).lower().endswith(_JAVASCRIPT):
            raise refuse(
                f"{text!r} is JavaScript, and only Python graphs are run here",
                "serve it with LangGraph's own server, or remove it.",
            )
        if not where or not attribute.isidentifier() or not where.isprintable():
            raise refuse(
                f"{text!r} is no file or module with the name of an object",
                'write "./agent.py:graph" or "package.module:graph".',
            )
        if "/" not in where and not where.endswith(".py"):
            if not all(part.isidentifier() for part in where.split(".")):
                raise refuse(
                    f"{where!r} is no name of a module", "write a file as './agent.py:graph'."
                )
            return ObjectSource(text, attribute, module=where)
        file = self._absolute(where)
        if not any(file.is_relative_to(root) for root in self.roots):
            raise refuse(
                f"{where!r} is outside of the project's folder",
                "name its folder in 'dependencies', or move it into the project.",
            )
        return ObjectSource(text, attribute, file=file)

    # -- environment

    def _env(self, said: Any) -> dict[str, str]:
        if isinstance(said, str):
            file = self._absolute(said)
            values, unread = envfile.parse(_text_of(file), os.environ)
            if unread:
                lines = ", ".join(map(str, unread[:10]))
                self.notes.append(f"env: line {lines} of {said!r} has no KEY=value; not used.")
        elif isinstance(said, dict) and all(
            isinstance(value, str | int | float | bool) for value in said.values()
        ):
            values = {key: _as_text(value) for key, value in said.items()}
        else:
            raise self.refuse(
                "'env' is neither a file nor an object of texts",
                'write "env": ".env" or "env": {"KEY": "value"}.',
            )
        for key, value in values.items():
            if not key or "=" in key or "\0" in key + value or not _encodable(key + value):
                raise self.refuse(
                    f"no process can have the variable {key!r} of 'env'", "correct or remove it."
                )
        kept = [key for key, value in values.items() if os.environ.get(key, value) != value]
        if kept:
            self.notes.append(
                f"env: {', '.join(kept)} stay as this process has them, not as the file says."
            )
        return values


def _wrong_name(name: str) -> str | None:
    if not name.strip() or name in (".", "..") or len(name) > 200:
        return "is empty, or is no name"
    if not name.isprintable() or any(char in "/\\?#%" for char in name):
        return "has characters that no address can have"
    try:
        uuid.UUID(name)
    except ValueError:
        return None
    return "is an id, and clients tell names and ids apart by their form"


def _as_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encodable(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def _text_of(file: Path) -> str:
    """A small text file. Raises `ConfigurationError`."""

    def refuse(why: str, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{file} {why}.", remedy=remedy)

    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise refuse("is no file", "name a file.")
        if found.st_size > MAX_CONFIG_BYTES:
            raise refuse(
                f"has {found.st_size} bytes, more than the {MAX_CONFIG_BYTES} that are read",
                "name the right file.",
            )
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise refuse("does not exist", "correct its path, or make it.") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a NUL in the path
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise refuse(f"can't be read: {why}", "correct the file or its rights.") from None


def _object_in(file: Path) -> dict[str, Any]:
    def unique(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {key!r} stands in it twice")
            found[key] = value
        return found

    try:
        said = json.loads(_text_of(file), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        why = f"{error.msg} in line {error.lineno}"
    except (ValueError, RecursionError) as error:
        why = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
    else:
        if isinstance(said, dict):
            return said
        why = "it holds no object"
    raise ConfigurationError(
        f"{file} can't be read as JSON: {why}.", remedy="correct it; it is read as strict JSON."
    )
