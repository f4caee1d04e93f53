"""`GraphSet`: the graphs of a `langgraph.json`, each opened for a run or a read.

What a file names is a compiled graph, a builder, or something that makes one: a function, sync or
async, or a context manager. Opened, each is a compiled graph with our checkpointer."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
)
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.store.base import BaseStore

from surgetank.exceptions import GraphNotLoaded, UnknownName
from surgetank.workflows.graphs import importing
from surgetank.workflows.graphs.config import GraphsConfig, GraphSource, assistant_id
from surgetank.workflows.graphs.factory import EXECUTION, Call, arguments_for
from surgetank.workflows.graphs.shape import Graph, nodes_of, structure_hash


@dataclass(frozen=True, slots=True)
class GraphInfo:
    """What is known of a graph that was loaded. `kind`: `graph`, `builder`, `function`, `async
    function` or `context manager`."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    assistant_id: UUID
    structure_hash: str
    description: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class _Loaded:
    """What a file names, once it is imported. `ready`: of what is always the same."""

    source: GraphSource
    thing: Any
    notes: dict[str, None] = field(default_factory=dict)  # in order, each once
    ready: Graph | None = None


class GraphSet:
    """The graphs of a project, imported when they are first asked for.

    `checkpointer` and `store` are given to each graph in place of its own. Code of the project has
    `timeout_s` seconds to import or make a graph.
    """

    def __init__(
        self,
        config: GraphsConfig,
        *,
        checkpointer: BaseCheckpointSaver[Any] | None = None,
        store: BaseStore | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        self.config = config
        self._checkpointer = checkpointer
        self._store = store
        self._timeout_s = timeout_s
        self._loaded: dict[str, _Loaded] = {}
        self._blocked: dict[str, GraphNotLoaded] = {}
        # One import of a file at a time: two graphs may be objects of one file.
        self._locks = {_file_of(source): threading.Lock() for source in config.graphs.values()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the graphs, also of those that can't be loaded."""
        return self.config.names

    @asynccontextmanager
    async def open(
        self, name: str, config: RunnableConfig | None = None, *, access: str = EXECUTION,
        context: Any = None, user: Any = None,
    ) -> AsyncIterator[Graph]:  # fmt: skip
        """A compiled graph with our checkpointer, for the time of the `async with`.

        `config`, `access` (why it is opened, one of LangGraph's `AccessContext`), `context` and
        `user` are what a function that makes the graph is given. Raises `UnknownName` and
        `GraphNotLoaded`.
        """
        loaded = await self._load(name)
        if loaded.ready is not None:
            yield loaded.ready
            return
        call = Call(config or {}, access, context, user, store=self._store)
        async with AsyncExitStack() as stack:
            made = await self._guarded(name, self._make(loaded, call, stack))
            compiled = await self._guarded(name, self._compile(loaded, made))
            if made is loaded.thing:
                loaded.ready = compiled
            yield compiled

    async def info(self, name: str) -> GraphInfo:
        """Load a graph and say what it is. Raises like `open`."""
        async with self.open(name, access="assistants.read") as graph:
            loaded = self._loaded[name]
            return GraphInfo(
                name=name,
                kind=_kind_of(loaded.thing),
                nodes=nodes_of(graph),
                assistant_id=assistant_id(name),
                structure_hash=structure_hash(graph),
                description=loaded.source.description,
                notes=tuple(loaded.notes),
            )

    # -- from a name to an object

    async def _load(self, name: str) -> _Loaded:
        for known in (self.config.refused, self._blocked):
            if name in known:
                raise _again(known[name])
        if (source := self.config.graphs.get(name)) is None:
            raise UnknownName(
                f"There is no graph {name!r}.", remedy=f"graphs: {', '.join(self.config.names)}."
            )
        if name not in self._loaded:
            try:
                thing = await self._within(lambda: self._find(source), name)
            except (Exception, SystemExit) as error:
                refusal = importing.failure(name, error, self.config.env)
                if isinstance(error, importing.StillRunning):
                    self._blocked[name] = refusal  # another thread would only wait for the first
                raise refusal from error
            notes = dict.fromkeys(importing.borrowed(source.source))
            self._loaded.setdefault(name, _Loaded(source, thing, notes))
        return self._loaded[name]

    def _find(self, source: GraphSource) -> Any:
        with self._locks[_file_of(source)]:
            return importing.find(self.config, source.source, source.name)

    def _within(self, call: Callable[[], Any], name: str) -> Any:
        return importing.within(self._timeout_s, call, name)

    async def _guarded(self, name: str, work: Any) -> Any:
        """What the project's code raises, as a refusal of the family."""
        try:
            return await work
        except (Exception, SystemExit) as error:
            raise importing.failure(name, error, self.config.env) from error

    # -- from an object to a compiled graph

    async def _make(self, loaded: _Loaded, call: Call, stack: AsyncExitStack) -> Any:
        """What a function gives, entered where that is a context manager."""
        name, thing = loaded.source.name, loaded.thing
        if _is_graph(thing) or not callable(thing) or isinstance(thing, Runnable | type):
            return thing
        arguments, named = arguments_for(thing, call, name)
        if inspect.isasyncgenfunction(thing):
            made: Any = asynccontextmanager(thing)(*arguments, **named)
        elif inspect.iscoroutinefunction(thing):
            made = thing(*arguments, **named)
        else:
            made = await self._within(lambda: thing(*arguments, **named), name)
        if _is_graph(made):
            return made
        deadline = asyncio.timeout(self._timeout_s)
        try:
            # Not `wait_for`: what is entered must be left by the same task.
            async with deadline:
                if inspect.isawaitable(made):
                    made = await made
                if isinstance(made, AbstractAsyncContextManager):
                    made = await stack.enter_async_context(made)
                elif isinstance(made, AbstractContextManager):
                    made = stack.enter_context(made)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise GraphNotLoaded(
                name,
                f"{loaded.source.source.text!r} gave no graph within {self._timeout_s:g} s",
                remedy="see what it waits for.",
            ) from None
        return made

    async def _compile(self, loaded: _Loaded, made: Any) -> Graph:
        if isinstance(made, StateGraph):
            made = made.compile()
        if not isinstance(made, Pregel):
            kind = f"the class {made.__name__}" if isinstance(made, type) else type(made).__name__
            origin = loaded.source.source.text
            gives = f"{origin!r} is" if made is loaded.thing else f"what {origin!r} gives is"
            raise GraphNotLoaded(
                loaded.source.name,
                f"{gives} {kind}, which is no graph",
                remedy="name a StateGraph, a compiled graph, or a function that makes one.",
            )
        return self._equipped(made, loaded.notes)

    def _equipped(self, graph: Graph, notes: dict[str, None]) -> Graph:
        """A copy with our checkpointer and store: the project's object stays as it is."""
        given: dict[str, Any] = {}
        said = []
        if graph.checkpointer is False:
            said.append("It is compiled with checkpointer=False: nothing of its state is kept.")
        elif self._checkpointer is not None:
            given["checkpointer"] = self._checkpointer
        if isinstance(graph.checkpointer, BaseCheckpointSaver):
            said.append(f"Its own {type(graph.checkpointer).__name__} is replaced by Surgetank's.")
        if self._store is not None:
            given["store"] = self._store
            if graph.store is not None and graph.store is not self._store:
                said.append(f"Its own {type(graph.store).__name__} is replaced.")
        notes.update(dict.fromkeys(said))
        return graph.copy(given)


def _again(error: GraphNotLoaded) -> GraphNotLoaded:
    """The same error without the traceback, which would grow each time that it is raised."""
    return GraphNotLoaded(error.graph, error.why, remedy=error.remedy, frames=error.frames)


def _file_of(source: GraphSource) -> str:
    return str(source.source.file or source.source.module)


def _is_graph(thing: Any) -> bool:
    return isinstance(thing, Pregel | StateGraph)


def _kind_of(thing: Any) -> str:
    if isinstance(thing, Pregel):
        return "graph"
    if isinstance(thing, StateGraph):
        return "builder"
    plain = inspect.unwrap(thing)
    if inspect.isasyncgenfunction(plain) or inspect.isgeneratorfunction(plain):
        return "context manager"
    return "async function" if inspect.iscoroutinefunction(plain) else "function"
