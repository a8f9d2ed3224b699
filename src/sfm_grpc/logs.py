"""Where log lines go: each `logging` call of the code base, and of what it stands on, one line or one JSON object on stderr.

Every line has time (UTC), level, logger and event. Facts come along from `extra={…}` and from `structlog.contextvars` (bind
`request_id` there, and every line of that call carries it).
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.types import EventDict, Processor

# What others log at info is not worth a line: a server that started is told by the server itself.
_NOISY = ("asyncio", "grpc", "uvicorn", "uvicorn.access", "uvicorn.error")


def configure(level: Literal["debug", "info", "warning", "error"], form: Literal["console", "json"]) -> None:
    """Sends everything that is logged to stderr, from `level` on. Called once, by the process that serves."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=_rendering(form)))
    # structlog's own loggers take the same way out.
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _NOISY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    # A reader that went away (a closed pipe) is no reason for tracebacks about logging.
    logging.raiseExceptions = False


def _rendering(form: Literal["console", "json"]) -> list[Processor]:
    plain = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    if form == "json":
        renamed = structlog.processors.EventRenamer("message")
        render = structlog.processors.JSONRenderer(ensure_ascii=False)
        return [plain, structlog.processors.format_exc_info, renamed, _ordered, render]
    return [
        plain,
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            timestamp_key="time",
            pad_event_to=0,
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _ordered(_logger: object, _method: str, event: EventDict) -> EventDict:
    """What every line has comes first, for people who read JSON."""
    first = {key: event.pop(key) for key in ("time", "level", "logger", "message") if key in event}
    return {**first, **event}
