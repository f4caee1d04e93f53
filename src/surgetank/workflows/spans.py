"""Spans of runs and of their nodes. Nodes are heard of by LangChain's callbacks; what a graph is given and
says does not become part of them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from surgetank import tracing
from surgetank.workflows.runs import Run
from surgetank.workflows.status import Status

if TYPE_CHECKING:
    from opentelemetry.trace import Span

_NO_FAILURES = ("GraphInterrupt", "NodeInterrupt", "ParentCommand")


def run_span(run: Run) -> tracing.TraceSpan:
    """The span of an attempt of a run, a child of the request that started it."""
    return tracing.span(
        f"run {run.graph}", parent=run.kwargs.get(tracing.KEY), kind="consumer", attempt=run.attempts, **ids_of(run)
    )  # fmt: skip


def note_end(status: Status) -> None:
    """Say in the run's span, which is the current one, how the run ended."""
    span = tracing.current()
    span.set("status", status.value)
    if status is Status.FAILED:
        span.fail("failed")


def ids_of(run: Run) -> dict[str, str]:
    """What names a run in its spans."""
    return {
        "thread_id": run.thread_id, "run_id": str(run.run_id), "workflow_id": str(run.workflow_id),
        "assistant_id": run.assistant_id, "graph_id": run.graph,
    }  # fmt: skip


def callbacks_for(run: Run) -> list[BaseCallbackHandler]:
    """What `callbacks` of a run's config has to hold, so that its nodes are spans: nothing while
    tracing is off. To be called inside of the run's span."""
    return [NodeSpans(run)] if tracing.enabled() else []


class NodeSpans(BaseCallbackHandler):
    """Makes a span of each node of one run. Called on threads and on the event loop."""

    run_inline = True  # beside the loop, the order of beginning and end would be lost

    def __init__(self, run: Run) -> None:
        from opentelemetry import trace  # noqa: PLC0415 - tracing is on

        self._ids = {"thread_id": run.thread_id, "run_id": str(run.run_id)}
        self._root = trace.get_current_span()
        self._lock = threading.Lock()
        # Of each call that is under way: the span that it is in, and whether that is its own.
        self._open: dict[UUID, tuple[Span, bool]] = {}

    def on_chain_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - LangChain's signature
        inputs: Any,  # noqa: ARG002
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        """A node begins, or something in one, which has no span of its own."""
        with self._lock:
            outer = self._open.get(parent_run_id) if parent_run_id is not None else None
            around = outer[0] if outer is not None else self._root
            node = _node_of(tags or (), metadata or {}, more.get("name"))
            if node is None:
                self._open[run_id] = (around, False)
                return
            step = (metadata or {}).get("langgraph_step")
            attributes = {
                **self._ids,
                "node": node,
                "step": step if isinstance(step, int) else None,
            }
            self._open[run_id] = (tracing.start(f"node {node}", around, **attributes), True)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **_: Any) -> None:  # noqa: ARG002
        """A node has ended."""
        self._end(run_id, None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        """A node failed, or asks people."""
        self._end(run_id, type(error).__name__)

    def _end(self, run_id: UUID, failure: str | None) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        with self._lock:
            found = self._open.pop(run_id, None)
        if found is None or not found[1]:
            return
        span = found[0]
        if failure in _NO_FAILURES:
            span.set_attribute("surgetank.interrupted", value=True)
        elif failure is not None:
            span.set_attribute("error.type", failure)
            span.set_status(Status(StatusCode.ERROR))
        span.end()


def _node_of(tags: Any, metadata: Mapping[str, Any], name: Any) -> str | None:
    """The node that begins here, if it is one: its name, where LangGraph calls it a step."""
    node = metadata.get("langgraph_node")
    is_step = any(str(tag).startswith("graph:step:") for tag in tags)
    return str(node) if node is not None and is_step and name == node else None
