"""Log events with fields, through the standard `logging` (logger `surgetank`): the application
stays in charge.

A message is `event='...' key='value'`, or with the setting `log_format = "json"` one JSON object,
whatever handler the application writes it with.
"""

from __future__ import annotations

import json
import logging
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any

import structlog

from surgetank.encode.sanitize import sanitize_for_json

_console = structlog.processors.KeyValueRenderer(key_order=["event"])
_form = {"json": False}


def use_json(wanted: bool) -> None:
    """Whether messages are JSON from now on, in the whole process: that of the engine opened
    last."""
    _form["json"] = wanted


def is_json() -> bool:
    """Whether messages are JSON."""
    return _form["json"]


def _rendered(logger: Any, method: str, fields: MutableMapping[str, Any]) -> str:
    if not is_json():
        return _console(logger, method, fields)
    return json_line(fields.pop("event", ""), method, fields)


def json_line(event: Any, level: str, fields: MutableMapping[str, Any]) -> str:
    """One line: `event`, `level`, `at` (ISO 8601, UTC) and the fields."""
    line = {
        "event": event,
        "level": level,
        "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **fields,
    }
    return json.dumps(sanitize_for_json(line), allow_nan=False)


class JsonFormatter(logging.Formatter):
    """For handlers of programs whose every line is to be JSON, those of other libraries too."""

    def format(self, record: logging.LogRecord) -> str:
        if record.name == log_name and is_json():
            return record.getMessage()
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            fields["stack_trace"] = self.formatException(record.exc_info)
        return json_line(record.getMessage(), record.levelname.lower(), fields)


log_name = "surgetank"
log: structlog.stdlib.BoundLogger = structlog.wrap_logger(
    logging.getLogger(log_name),
    processors=[structlog.stdlib.filter_by_level, _rendered],
    wrapper_class=structlog.stdlib.BoundLogger,
    cache_logger_on_first_use=False,
)
