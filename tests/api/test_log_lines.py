"""The log as JSON lines."""

from __future__ import annotations

import json
import logging

from adapter_service.api.log_lines import JsonLines


def test_a_line_has_what_the_call_gave_and_no_more() -> None:
    record = logging.LogRecord("adapter_service.x", logging.INFO, __file__, 1, "%s done", ("a job",), None)
    record.__dict__ |= {"action": "job_ended", "job_id": "job_1", "prompt": "secret"}
    line = json.loads(JsonLines().format(record))
    assert line.pop("at").endswith("+00:00")
    assert line == {
        "level": "INFO",
        "logger": "adapter_service.x",
        "message": "a job done",
        "action": "job_ended",
        "job_id": "job_1",
    }
