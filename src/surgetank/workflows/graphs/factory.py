"""What a function that makes a graph is given: a config, a runtime, both or nothing, as its
parameters say by annotation or name."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore

from surgetank.exceptions import GraphNotLoaded

EXECUTION = "threads.create_run"


@dataclass(frozen=True, slots=True)
class Call:
    """Why and for whom a graph is made."""

    config: RunnableConfig
    access: str
    context: Any
    user: Any
    store: BaseStore | None


def arguments_for(
    function: Callable[..., Any], call: Call, graph: str
) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments. Raises `GraphNotLoaded` for a parameter that nobody gives."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin
        return [], {}
    hints = _hints_of(function)
    arguments: list[Any] = []
    named: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        hint = hints.get(parameter.name, parameter.annotation)
        wanted = _wanted(parameter.name, hint)
        required = parameter.default is parameter.empty
        if not wanted and not arguments and not named and required and hint is parameter.empty:
            wanted = "config"  # the only form that there was in the beginning
        if not wanted:
            if not required:
                continue
            raise GraphNotLoaded(
                graph,
                f"the function that makes it wants {parameter.name!r}, which nobody gives",
                remedy="let it take a RunnableConfig, a ServerRuntime, both or nothing.",
            )
        value = call.config if wanted == "config" else _runtime(hint, call, graph)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            arguments.append(value)
        else:
            named[parameter.name] = value
    return arguments, named


def _hints_of(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except Exception:  # noqa: BLE001 - names that only a type checker imports, expressions that raise
        return {}


def _wanted(name: str, hint: Any) -> str | None:
    text = hint if isinstance(hint, str) else getattr(hint, "__name__", "") or str(hint)
    if "Runtime" in text:
        return "runtime"
    if "RunnableConfig" in text:
        return "config"
    return name if name in ("config", "runtime") else None


def _runtime(hint: Any, call: Call, graph: str) -> Any:
    if (typing.get_origin(hint) or hint) is Runtime:
        return Runtime(context=call.context, store=call.store)
    try:
        from langgraph_sdk import runtime  # noqa: PLC0415 - older ones have none

        store: Any = call.store  # declared as always there
        access: Any = call.access
        if call.access == EXECUTION:
            return runtime._ExecutionRuntime(  # noqa: SLF001 - its public name is the union of both
                access_context=access, user=call.user, store=store, context=call.context
            )
        return runtime._ReadRuntime(access_context=access, user=call.user, store=store)  # noqa: SLF001
    except (ImportError, AttributeError) as error:
        raise GraphNotLoaded(
            graph,
            "it is made by a function that takes a runtime, which the installed langgraph-sdk has not",
            remedy="pip install -U langgraph-sdk",
        ) from error
