"""The service's own log as JSON lines, for who starts it without a logging setup."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

# Names that our log calls give in `extra`; nothing else of a record is written.
_EXTRAS = ("action", "trace_id", "job_id", "method", "route", "status", "ms")


class JsonLines(logging.Formatter):
    """One object per line: time, level, logger, message, what the call gave in `extra`, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        line |= {name: getattr(record, name) for name in _EXTRAS if hasattr(record, name)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def log_as_json_lines(file: Path | None = None) -> None:
    """Log to `file`, else to standard error, unless whoever started this has set up logging already."""
    ours = logging.getLogger("adapter_service")
    if ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler()
    handler.setFormatter(JsonLines())
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
