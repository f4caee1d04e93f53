"""Going on from an older state: what may be done from a checkpoint, and what a form changes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgetank.console import forms
from surgetank.console.visits import Visit
from surgetank.exceptions import SurgetankError
from surgetank.server.agent.state import config_for, graph_of, known_row
from surgetank.server.http.problems import Problem
from surgetank.workflows.threads import ThreadRow

_MOST_FIELDS = 30
_LONGEST = 20_000
_LEFT = "The thread is not in this subgraph now: fork or replay the step of the graph around it."
_EXTRA = forms.Field("more", "More values, as JSON", "json", optional=True)


@dataclass(frozen=True, slots=True)
class Travel:
    """What may be done from a checkpoint. `why_not` says why nothing; `next` are the nodes that would run,
    `fields` values that can be changed, `nodes` those in whose name."""

    why_not: str = ""
    next: tuple[str, ...] = ()
    fields: tuple[forms.Field, ...] = ()
    nodes: tuple[str, ...] = ()
    subgraphs: tuple[tuple[str, str], ...] = ()


async def travel_from(visit: Visit, thread_id: str, ns: str, checkpoint_id: str) -> Travel:
    """What may be done from a checkpoint by this visitor."""
    services = visit.services
    if not visit.covers("user"):
        return Travel("Starting runs needs the role user.")
    try:
        row = await known_row(services, thread_id)
        config = config_for(thread_id, checkpoint_id, ns)
        async with graph_of(services, row, config) as graph:
            if graph is None:
                return Travel("This server doesn't have the thread's graph.")
            inner = graph
            if ns:
                if ns not in await _entered(graph, thread_id):
                    return Travel(_LEFT)
                inner = await _inner(graph, ns)
            state = await graph.aget_state({"configurable": config})
            nested = tuple(
                (task.name, str((task.state or {}).get("configurable", {}).get("checkpoint_ns", "")))
                for task in state.tasks
                if isinstance(task.state, Mapping)
            )  # fmt: skip
            return Travel(
                next=tuple(state.next),
                fields=_fields(inner, state.values),
                nodes=tuple(name for name in inner.nodes if not name.startswith("__")),
                subgraphs=nested,
            )
    except SurgetankError as error:
        return Travel(str(error))
    except Problem as problem:
        return Travel(problem.detail)


async def _entered(graph: Any, thread_id: str) -> set[str]:
    """The namespaces of the subgraphs that the newest step of the graph is in: a run goes on in these from
    their newest checkpoint."""
    config: Any = {"configurable": config_for(thread_id)}
    found, states = set[str](), [await graph.aget_state(config, subgraphs=True)]
    while states:
        for task in states.pop().tasks:
            if task.state is not None and not isinstance(task.state, Mapping):
                found.add(str(task.state.config["configurable"].get("checkpoint_ns", "")))
                states.append(task.state)
    return found


async def _inner(graph: Any, ns: str) -> Any:
    """The graph of a namespace: `node:task|node:task`, with numbers where a node has several."""
    path = "|".join(part.partition(":")[0] for part in ns.split("|") if not part.isdecimal())
    async for _, found in graph.aget_subgraphs(namespace=path, recurse=True):
        return found
    return graph


def assistant_of(row: ThreadRow | None, services: Any) -> str:
    metadata = row.metadata if row is not None else {}
    names = services.graphs.names if services.graphs is not None else ()
    return str(metadata.get("assistant_id") or metadata.get("graph_id") or next(iter(names), ""))


def _fields(graph: Any, values: Any) -> tuple[forms.Field, ...]:
    """Fields for values that are replaced by what is written; what is added to others is given as JSON."""
    if not isinstance(values, Mapping):
        return ()
    plain = {
        name: value
        for name, value in values.items()
        if type(graph.channels.get(name)).__name__ == "LastValue" and _is_plain(value)
    }
    return forms.of_content("value", plain) if 0 < len(plain) <= _MOST_FIELDS else ()


def _is_plain(value: Any) -> bool:
    try:
        return len(forms.plain_json(value)) <= _LONGEST
    except (TypeError, ValueError, RecursionError):
        return False


def changed_values(travel: Travel, form: Mapping[str, str]) -> dict[str, Any]:
    """What differs from the state, and what else was given. Raises `FormRefused`."""
    if travel.why_not:
        raise forms.FormRefused(travel.why_not, remedy="see the steps of the thread.")
    found: dict[str, Any] = {}
    for field in travel.fields:
        text = form.get(field.name, field.value)
        if text.replace("\r\n", "\n") != field.value:
            found[str(field.key)] = field.read(text)
    if form.get(_EXTRA.name, "").strip():
        more = _EXTRA.read(form[_EXTRA.name])
        if not isinstance(more, dict):
            raise forms.FormRefused(
                "More values: this is no JSON object.", remedy='write {"name": value}.'
            )
        found |= more
    return found
