"""Answers under /v1 as episodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.api.services import Services
from adapter_service.settings import RlSettings
from tests.api.conftest import MakeServices, client_of
from tests.api.test_adapters_answer import trained
from tests.api.test_episodes import episodes_of
from tests.api.test_generate_lite import ask
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

HELLO = {"role": "user", "content": "Translate to Hindi: Water"}


@pytest.fixture
def recording(make_services: MakeServices, tiny_base: BaseModel) -> Iterator[Services]:
    """The tiny base, with every answer recorded."""
    services = make_services(load_base=lambda note: tiny_base, rl=RlSettings(log_generations=True))
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


def post(services: Services, path: str, **body: Any) -> Any:
    answer = client_of(services).post(f"/v1/{path}", json={"model": "base", "max_tokens": 4, **body})
    assert answer.status_code == 200, answer.text
    return answer


def test_answers_to_one_prompt_are_a_group(recording: Services) -> None:
    answer = post(recording, "chat/completions", messages=[HELLO], n=2).json()
    first, second = episodes_of(recording)
    assert [row["output"] for row in (first, second)] == [c["message"]["content"] for c in answer["choices"]]
    assert first["prompt"] == HELLO["content"]
    assert first["group_id"] == second["group_id"] == answer["id"]
    assert (first["meta"]["source"], first["meta"]["language"]) == ("/v1/chat/completions", "hi-Deva-IN")
    assert len(first["completion_logprobs"]) >= 1


def test_a_stream_is_recorded_as_well_and_a_conversation_as_a_whole(recording: Services) -> None:
    messages = [{"role": "system", "content": "Be brief."}, HELLO]
    post(recording, "chat/completions", messages=messages, stream=True, presence_penalty=0.5)
    (row,) = episodes_of(recording)
    assert '"role": "system"' in row["meta"]["extra"]
    assert '"presence_penalty": 0.5' in row["meta"]["extra"]
    assert row["prompt"] == HELLO["content"]


def test_each_of_several_prompts_has_its_episode_and_its_policy(
    recording: Services, tmp_path_factory: pytest.TempPathFactory
) -> None:
    version = trained(recording, tmp_path_factory.mktemp("taught"), "taught", "a")
    post(recording, "completions", prompt=["One", "Two"], model="taught", lora_scale=0.5)
    rows = sorted(episodes_of(recording), key=lambda row: row["prompt"])
    assert [row["prompt"] for row in rows] == ["One", "Two"]
    assert {(row["adapter_id"], row["adapter_version"], row["adapter_key"]) for row in rows} == {
        ("taught", version.number, version.key)
    }
    assert [row["sampling"]["lora_scale"] for row in rows] == [0.5, 0.5]
    assert rows[0]["template_sha"] is None


@pytest.mark.parametrize("streams", [False, True])
def test_how_strong_an_adapter_was_is_in_the_episode_of_its_answer(
    recording: Services, tmp_path_factory: pytest.TempPathFactory, streams: bool
) -> None:
    trained(recording, tmp_path_factory.mktemp("taught"), "taught", "a")
    client = client_of(recording)
    for body in ({"lora_scale": 0.5}, {}):
        assert ask(client, adapter="taught", max_new_tokens=2, stream=streams, **body).status_code == 200
    assert [row["sampling"]["lora_scale"] for row in episodes_of(recording)] == [0.5, 1.0]
