"""The `llm` command at the service: run with its own environment's Python, with the service's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

QUESTION = "What is the capital of France?"
MODELS = """
- model_id: ours
  model_name: base
  api_base: {address}/v1
  supports_tools: true
  supports_schema: true
- model_id: taught
  model_name: taught
  api_base: {address}/v1
- model_id: unknown
  model_name: nobody
  api_base: {address}/v1
- model_id: continued
  model_name: base
  api_base: {address}/v1
  completion: true
"""

DOG = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 1, "maximum": 20},
    },
    "required": ["name", "age"],
}


def llm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["llm", *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def says(*arguments: str) -> str:
    done = llm(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answers() -> None:
    greedy = ("-o", "temperature", "0", "-o", "max_tokens", "32")
    streamed = says("-m", "ours", *greedy, QUESTION)
    assert "Paris" in streamed
    assert says("-m", "ours", *greedy, "--no-stream", QUESTION) == streamed
    assert says("-m", "taught", *greedy, QUESTION)
    assert "Paris" in says("-m", "continued", *greedy, "The capital of France is")
    assert "input" in llm("-m", "ours", *greedy, "--usage", QUESTION).stderr


def keeps_to_a_form() -> None:
    for more in ((), ("--no-stream",)):
        limits = ("-o", "max_tokens", "64", "-o", "temperature", "0")
        dog = json.loads(says("-m", "ours", *limits, *more, "--schema", json.dumps(DOG), "Invent a dog"))
        assert (list(dog), dog["age"] <= 20) == (["name", "age"], True)


def calls_tools() -> None:
    function = "def get_weather(city: str) -> str:\n    'The weather in a city.'\n    return 'It rains.'\n"
    limits = ("-o", "max_tokens", "48", "-o", "temperature", "0")
    assert says("-m", "ours", *limits, "--functions", function, "--chain-limit", "2", "How is the weather in Paris?")


def is_refused() -> None:
    done = llm("-m", "unknown", QUESTION)
    assert done.returncode != 0
    assert "unknown adapter 'nobody'" in done.stderr


if __name__ == "__main__":
    home = Path("llm").resolve()
    home.mkdir()
    os.environ |= {"LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none is needed"}
    (home / "extra-openai-models.yaml").write_text(MODELS.format(address=sys.argv[1]))
    for check in (answers, keeps_to_a_form, calls_tools, is_refused):
        check()
