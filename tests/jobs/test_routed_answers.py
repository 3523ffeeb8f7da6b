"""What a model's answer routes a sentence to."""

from __future__ import annotations

import json

import pytest

from adapter_service.commands.prompting import NONE_FITS, call_text
from adapter_service.commands.scoring import Routed
from adapter_service.jobs.routed_answers import routed

STOP = {"name": "stop", "arguments": {"room": "hall"}}
CALLED = Routed("stop", {"room": "hall"})


def test_a_call_as_it_is_learned_and_that_none_fits() -> None:
    assert routed(call_text("stop", {"room": "hall"})) == CALLED
    assert routed(f" {NONE_FITS}\n") == Routed()


@pytest.mark.parametrize("calls", [{"tool_calls": [STOP]}, {"tool_call": STOP}, {"tool_calls": [], "tool_call": STOP}])
def test_a_hubs_own_completion_is_the_call_that_it_has(calls: dict[str, object]) -> None:
    assert routed(json.dumps({"message": "", **calls, "error": None})) == CALLED


@pytest.mark.parametrize(
    "text", ["", "Sorry?", call_text("stop", {})[:-2], json.dumps([STOP, STOP]), '{"tool_calls": []}', "[" * 100_000]
)
def test_anything_else_is_no_valid_answer(text: str) -> None:
    assert routed(text) == Routed(is_valid=False)
