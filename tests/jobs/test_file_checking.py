"""Every line of an uploaded file is read as a job would read it, and faults name their lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from adapter_service.jobs.file_checking import Findings, check_file

ASKED = {"role": "user", "content": "a"}
TOLD = {"role": "assistant", "content": "b"}
PAIR = {"prompt": "a", "completion": "b"}


def checked(tmp_path: Path, *lines: Any) -> Findings:
    path = tmp_path / "sent"
    texts = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(texts))
    return check_file(path)


def test_conversations_and_pairs_are_told_apart_by_the_first_line(tmp_path: Path) -> None:
    chat = checked(tmp_path, {"messages": [ASKED, TOLD]}, {"messages": [ASKED, TOLD], "language": "hi"})
    assert (chat.format, chat.samples, chat.fault) == ("chat", 2, None)
    pairs = checked(tmp_path, PAIR, b"", {**PAIR, "language": "Tamil"})
    assert (pairs.format, pairs.samples, pairs.fault) == ("completion", 2, None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"messages": [ASKED, TOLD]}, "has 'messages'"),
        ({"prompt": "a"}, "no field 'completion'"),
        ({"prompt": "a", "completion": ""}, "field 'completion' is empty"),
        ({**PAIR, "id": 7}, "has 'id'"),
        ({**PAIR, "language": "Klingonese"}, "unknown language"),
        (b'{"prompt": "a", ', "not valid JSON"),
        (b"[1, 2]", "a list where an object is wanted"),
        (b'{"prompt": "\xff", "completion": "b"}', "not UTF-8"),
        (b'{"prompt": "' + b"x" * 1_000_001 + b'"}', "longer than 1000000 bytes"),
    ],
)
def test_a_faulty_line_is_named(tmp_path: Path, line: Any, says: str) -> None:
    findings = checked(tmp_path, PAIR, PAIR, line, PAIR)
    assert findings.fault is not None
    assert findings.fault.startswith("1 of 4 lines are faulty: line 3: ")
    assert says in findings.fault


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([ASKED], "the last of 'messages' is the user's"),
        ([{"role": "tool", "content": "x"}, TOLD], "without a role of system, user, assistant"),
        ([{**ASKED, "name": "ann"}, TOLD], "messages[0] has 'name'"),
        ([ASKED, {**TOLD, "tool_calls": []}], "messages[1] has 'tool_calls'"),
        ([ASKED, {**TOLD, "weight": 0}], "messages[1] has the weight 0"),
        ([ASKED, {**TOLD, "weight": 1}, ASKED, TOLD], "messages[1] has the weight 1"),
    ],
)
def test_what_training_would_pass_over_is_a_fault(tmp_path: Path, messages: list[Any], says: str) -> None:
    assert says in (checked(tmp_path, {"messages": messages}).fault or "")


def test_weights_may_say_what_is_done_anyway(tmp_path: Path) -> None:
    messages = [ASKED, {**TOLD, "weight": 0}, ASKED, {**TOLD, "weight": 1}]
    assert checked(tmp_path, {"messages": messages}).fault is None


def test_many_faults_are_counted_and_the_first_told(tmp_path: Path) -> None:
    fault = checked(tmp_path, PAIR, *[{}] * 9).fault or ""
    assert fault.startswith("9 of 10 lines are faulty: line 2: no field 'prompt'; line 3: ")
    assert fault.endswith("line 6: no field 'prompt'; and 4 more")


@pytest.mark.parametrize(("content", "says"), [(b"", "no line"), (b"\n \n", "no line"), (b"\xff\xfea\x00", "UTF-16")])
def test_what_is_no_file_of_lines_says_so(tmp_path: Path, content: bytes, says: str) -> None:
    assert says in (checked(tmp_path, content).fault or "")
