"""Surgetank: a write-behind store for agent state.

from surgetank import Surgetank

with Surgetank() as tank:
    graph = builder.compile(checkpointer=tank.checkpointer())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from surgetank.exceptions import (
    BrokenRow,
    BufferCorrupt,
    BufferFull,
    BufferProblem,
    BufferUnavailable,
    ColdStateUnavailable,
    ConfigurationError,
    Conflict,
    DatabaseRefused,
    DatabaseUnavailable,
    EngineClosed,
    EntryRejected,
    FallbackDamaged,
    FallbackUnavailable,
    InvalidRequest,
    JobNotFound,
    JobNotRetryable,
    LeaseLost,
    MissingExtra,
    NotFound,
    NotSaved,
    SchemaTooNew,
    SinkError,
    StateCorrupt,
    SurgetankError,
    TransferStopped,
    UnknownName,
)

if TYPE_CHECKING:
    __version__: str
    from surgetank.app.ambient import (
        abroadcast_run_event,
        aemit_log,
        alog_system_error,
        broadcast_run_event,
        emit_log,
        log_system_error,
    )
    from surgetank.app.surgetank import Surgetank
    from surgetank.encode.sanitize import Sanitized, sanitize, sanitize_for_json
    from surgetank.events.types import Incident
    from surgetank.job_result import JobResult
    from surgetank.model import FlushJob
    from surgetank.streams.checkpoints.saver import SurgetankSaver
    from surgetank.streams.logs.origin import working_for

__all__ = [
    "BrokenRow",
    "BufferCorrupt",
    "BufferFull",
    "BufferProblem",
    "BufferUnavailable",
    "ColdStateUnavailable",
    "ConfigurationError",
    "Conflict",
    "DatabaseRefused",
    "DatabaseUnavailable",
    "EngineClosed",
    "EntryRejected",
    "FallbackDamaged",
    "FallbackUnavailable",
    "FlushJob",
    "Incident",
    "InvalidRequest",
    "JobNotFound",
    "JobNotRetryable",
    "JobResult",
    "LeaseLost",
    "MissingExtra",
    "NotFound",
    "NotSaved",
    "Sanitized",
    "SchemaTooNew",
    "SinkError",
    "StateCorrupt",
    "Surgetank",
    "SurgetankError",
    "SurgetankSaver",
    "TransferStopped",
    "UnknownName",
    "abroadcast_run_event",
    "aemit_log",
    "alog_system_error",
    "broadcast_run_event",
    "emit_log",
    "log_system_error",
    "sanitize",
    "sanitize_for_json",
    "working_for",
]

# Loaded when first used, so that `import surgetank` is quick and needs no extra.
_LAZY = {
    "Surgetank": "surgetank.app.surgetank",
    "SurgetankSaver": "surgetank.streams.checkpoints.saver",
    "FlushJob": "surgetank.model",
    "Incident": "surgetank.events.types",
    "JobResult": "surgetank.job_result",
    "Sanitized": "surgetank.encode.sanitize",
    "sanitize": "surgetank.encode.sanitize",
    "sanitize_for_json": "surgetank.encode.sanitize",
    "abroadcast_run_event": "surgetank.app.ambient",
    "aemit_log": "surgetank.app.ambient",
    "alog_system_error": "surgetank.app.ambient",
    "broadcast_run_event": "surgetank.app.ambient",
    "emit_log": "surgetank.app.ambient",
    "log_system_error": "surgetank.app.ambient",
    "working_for": "surgetank.streams.logs.origin",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - only for who asks

        return version("surgetank")
    if name not in _LAZY:
        raise AttributeError(f"module 'surgetank' has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    try:
        module = importlib.import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if (
            name == "SurgetankSaver"
            and error.name
            and error.name.startswith(("langgraph", "langchain"))
        ):
            raise MissingExtra("langgraph", "langgraph", "SurgetankSaver") from error
        raise
    return getattr(module, name)
