"""OpenTelemetry spans, off unless the setting `otel` is on: then nothing here needs a package or costs more
than one look at an attribute.

A trace goes on over the queue: what a request brought (`traceparent`) is stored with the run that it
starts, and given on with its webhooks. No text of a person's or a graph's becomes part of a span.
"""

from __future__ import annotations

import os
from asyncio import CancelledError
from collections.abc import Mapping
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from surgetank.exceptions import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

KEY = "__otel"  # in the `kwargs` of a run: the context that it was started in
_FIELDS = ("traceparent", "tracestate")
_MAX_STATE = 512  # W3C Trace Context section 3.3.1.5
_EXPORT = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
Kind = Literal["internal", "server", "client", "consumer"]


class _State:
    tracer: Tracer | None = None


_state = _State()


def enabled() -> bool:
    """Whether spans are made in this process."""
    return _state.tracer is not None


def enable(provider: TracerProvider | None = None) -> None:
    """Make spans from now on: with this provider, or the application's own. A program that has none
    exports by OTLP where `OTEL_EXPORTER_OTLP_ENDPOINT` says. Raises `MissingExtra`."""
    try:
        from opentelemetry import trace  # noqa: PLC0415 - needs the extra
    except ModuleNotFoundError as error:
        raise MissingExtra("opentelemetry-api", "otel", "Tracing") from error
    if provider is None and type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider":
        _export(trace)
    _state.tracer = trace.get_tracer("surgetank", version("surgetank"), provider)


def disable() -> None:
    """Make no more spans."""
    _state.tracer = None


def _export(trace: Any) -> None:
    if not any(os.environ.get(name) for name in _EXPORT):
        return  # the application may still set a provider of its own
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # pyright: ignore[reportMissingImports]  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingExtra("opentelemetry-sdk", "otel", "Tracing") from error
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "surgetank"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


class TraceSpan:
    """A span that is under way, to be used with `with`. This one does nothing: tracing is off."""

    def __enter__(self) -> TraceSpan:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def set(self, name: str, value: str | float | None) -> None:
        """An attribute that is known only now."""

    def fail(self, reason: str) -> None:
        """It went wrong: `reason` is a word, not what somebody said."""

    def rename(self, name: str) -> None:
        """A better name that is known only now."""


class _RealSpan(TraceSpan):
    def __init__(self, span: Span) -> None:
        self._span = span

    def __enter__(self) -> TraceSpan:
        from opentelemetry import context, trace  # noqa: PLC0415 - it is there, tracing is on

        self._token = context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        from opentelemetry import context  # noqa: PLC0415

        context.detach(self._token)
        if kind is not None and issubclass(kind, CancelledError):
            self._span.set_attribute("surgetank.cancelled", value=True)
        elif kind is not None:
            self.fail(kind.__name__)
        self._span.end()

    def set(self, name: str, value: str | float | None) -> None:
        if value is not None:
            self._span.set_attribute(f"surgetank.{name}", value)

    def fail(self, reason: str) -> None:
        from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

        self._span.set_attribute("error.type", reason)
        self._span.set_status(Status(StatusCode.ERROR))

    def rename(self, name: str) -> None:
        self._span.update_name(name)


_OFF = TraceSpan()


def span(
    name: str,
    *,
    parent: object = None,
    kind: Kind = "internal",
    **attributes: str | float | None,
) -> TraceSpan:
    """A span around what is done with it: a child of what `parent` names, as headers do, else of
    the current one. Attributes are called `surgetank.NAME`; None is left out."""
    tracer = _state.tracer
    if tracer is None:
        return _OFF
    from opentelemetry.trace import SpanKind  # noqa: PLC0415

    return _RealSpan(
        tracer.start_span(
            name,
            context=_context_of(headers) if (headers := clean(parent)) else None,
            kind=SpanKind[kind.upper()],
            attributes={f"surgetank.{k}": v for k, v in attributes.items() if v is not None},
        )
    )


def current() -> TraceSpan:
    """The current span, to say something in it; whoever began it ends it."""
    if _state.tracer is None:
        return _OFF
    from opentelemetry import trace  # noqa: PLC0415

    return _RealSpan(trace.get_current_span())


def finished(
    name: str, began: float, ended: float, *, failed: bool, **attributes: str | float | None
) -> None:
    """A span of what is over; times are seconds since the epoch."""
    tracer = _state.tracer
    if tracer is None:
        return
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    made = tracer.start_span(
        name,
        start_time=int(began * 1e9),
        attributes={f"surgetank.{k}": v for k, v in attributes.items() if v is not None},
    )
    if failed:
        made.set_status(Status(StatusCode.ERROR))
    made.end(int(ended * 1e9))


def start(name: str, parent: Span | None, **attributes: str | float | None) -> Span:
    """A span whose end somebody else tells. Only while tracing is on."""
    from opentelemetry import trace  # noqa: PLC0415

    assert _state.tracer is not None
    return _state.tracer.start_span(
        name,
        context=trace.set_span_in_context(parent) if parent is not None else None,
        attributes={f"surgetank.{k}": v for k, v in attributes.items() if v is not None},
    )


def carrier() -> dict[str, str]:
    """The current context as W3C headers; empty when there is none."""
    if _state.tracer is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    found: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(found)
    return clean(found)


def clean(headers: object) -> dict[str, str]:
    """What of these headers may be stored and given on. Nothing of what is no mapping."""
    if not isinstance(headers, Mapping):
        return {}
    return {
        name: value
        for name in _FIELDS
        if isinstance(value := headers.get(name), str) and len(value) <= _MAX_STATE
    }


def _context_of(headers: Mapping[str, str]) -> Any:
    from opentelemetry.context import Context  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415
        TraceContextTextMapPropagator,
    )

    return TraceContextTextMapPropagator().extract(headers, context=Context())
