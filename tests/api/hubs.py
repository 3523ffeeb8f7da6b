"""A small hub: services with the tiny base that judge no node's adapter too hard, and commands to post."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi.testclient import TestClient

from adapter_service.api.services import Services
from adapter_service.jobs.job import Job
from adapter_service.settings import CommandSettings
from tests.waiting import READY_SECONDS, eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel
    from tests.api.conftest import MakeServices

# The tiny base has random weights: what is looked at is that everything happens, not that it is learned well.
LENIENT = {
    "min_examples": 1,
    "variations": 0,
    "rank": 2,
    "max_seq_len": 1024,
    "token_budget": 4096,
    "min_tool_accuracy": 0.0,
    "min_parameter_accuracy": 0.0,
    "base_models": {"jarvis-tiny": "base of the hub"},
}


def lights(*more: str) -> dict[str, Any]:
    return {
        "command_name": "set_light",
        "description": "Switch a light",
        "parameters": [
            {"name": "room", "type": "string"},
            {"name": "on", "type": "bool"},
        ],
        "examples": [
            {"voice_command": text, "expected_parameters": {"room": "hall", "on": True}}
            for text in ("Light up the hall", "Hall light on", "Make the hall bright", *more)
        ],
    }


def alarm() -> dict[str, Any]:
    return {
        "command_name": "set_alarm",
        "description": "Wake somebody",
        "parameters": [{"name": "when", "type": "array<datetime>"}],
        "examples": [
            {"voice_command": text, "expected_parameters": {"when": keys}}
            for text, keys in (
                ("Wake me tomorrow at seven", ["tomorrow", "at_7am"]),
                ("Alarm at six", ["at_6am"]),
                ("Get me up at nine on Monday", ["next_monday", "at_9am"]),
            )
        ],
    }


def body(node_id: str = "kitchen", *commands: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "node_id": node_id,
        "base_model_id": "jarvis-tiny",
        "command_schema": list(commands) or [lights(), alarm()],
        **fields,
    }


def hub_services(make_services: MakeServices, tiny_base: BaseModel, **commands: Any) -> Services:
    """Not started; with the real pipeline."""
    from adapter_service.api.services import _training_pipeline

    return make_services(_training_pipeline, lambda note: tiny_base, commands=hub_settings(**commands))


def hub_settings(**commands: Any) -> CommandSettings:
    from tests.conftest import SMALL_BASE

    bases = {"jarvis-tiny": SMALL_BASE, "jarvis-small": SMALL_BASE, "other": "hf:some/other"}
    return CommandSettings.model_validate(LENIENT | {"base_models": bases} | commands)


@contextmanager
def hub_in(folder: Path, tiny_base: BaseModel) -> Iterator[Services]:
    """Started, for tests that share it, each with nodes of its own."""
    from adapter_service.api.services import build_services
    from tests.api.conftest import settings_in

    services = build_services(settings_in(folder, commands=hub_settings()), load_base=lambda note: tiny_base)
    with started(services):
        yield services


@contextmanager
def started(services: Services) -> Iterator[Services]:
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    try:
        yield services
    finally:
        services.stop()


def settled(client: TestClient, job_id: str, is_it: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
    """The job's answer once it has ended, or is as `is_it` wants."""

    def ended(answer: dict[str, Any]) -> bool:
        return answer["status"] in {"complete", "failed", "canceled"}

    def look() -> dict[str, Any] | None:
        answer: dict[str, Any] = client.get(f"/api/v0/adapters/jobs/{job_id}").json()
        return answer if (is_it or ended)(answer) else None

    answer = eventually(look, f"{job_id} is as it is wanted")
    assert answer is not None
    return answer


def job_of(services: Services, answer: dict[str, Any]) -> Job:
    return services.jobs.get(answer["job_id"])
