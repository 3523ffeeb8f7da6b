"""Token ids and log-probabilities on request, and episodes of what was asked here and elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from pydantic import ValidationError

from adapter_service.api import create_app
from adapter_service.api.services import Services
from adapter_service.settings import RlSettings
from rl.collect import main as collect
from rl.shards import read_manifest, sealed_shards
from tests.api.conftest import MakeServices, client_of
from tests.api.test_answers import ask, events
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

TOKENS: dict[str, Any] = {
    "prompt_ids": [1, 2],
    "completion_ids": [3, 4],
    "logprobs": [-0.5, -1],
    "sampling_logprobs": [0.0, 0.0],
    "sampling": {
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 1.0,
        "top_k": 40,
        "repetition_penalty": 1.2,
        "max_new_tokens": 8,
        "min_new_tokens": 0,
        "seed": None,
    },
    "base_model": "tiny",
    "base_sha": "b",
    "tokenizer_sha": "t",
    "template_sha": None,
    "adapter_key": "k",
}
GIVEN: dict[str, Any] = {"prompt": "Translate to Hindi: Good morning", "output": "सुप्रभात", "language": "hi"}


@pytest.mark.model
def test_the_answer_has_its_tokens_as_the_model_gave_them(model_client: TestClient, small_base: BaseModel) -> None:
    wanted = {"max_new_tokens": 8, "temperature": 0.8, "seed": 5, "top_k": 40}
    answer = ask(model_client, **wanted, return_tokens=True)
    tokens = answer["tokens"]
    assert small_base.tokenizer.decode(tokens["completion_ids"], skip_special_tokens=True).startswith(answer["text"])
    with torch.inference_mode():
        ids = torch.tensor([tokens["prompt_ids"] + tokens["completion_ids"]])
        shares = small_base.model(ids).logits[0].float().log_softmax(-1)[len(tokens["prompt_ids"]) - 1 : -1]
    found = shares[range(len(tokens["completion_ids"])), tokens["completion_ids"]]
    torch.testing.assert_close(torch.tensor(tokens["logprobs"]), found, atol=1e-3, rtol=1e-3)
    assert len(tokens["sampling_logprobs"]) == len(tokens["logprobs"])
    assert (tokens["base_sha"], tokens["adapter_key"]) == (small_base.identity, None)
    assert len(tokens["tokenizer_sha"]) == 64
    assert tokens["sampling"]["top_k"] == 40
    assert tokens["sampling"]["repetition_penalty"] == 1.2  # the service's default, which the caller did not name
    assert ask(model_client, **wanted)["tokens"] is None
    assert ask(model_client, **wanted)["text"] == answer["text"]


@pytest.mark.model
def test_a_stream_ends_with_the_tokens_of_its_answer(model_client: TestClient) -> None:
    body = {"prompt": "Hi", "adapter": "base", "max_new_tokens": 6, "stream": True, "return_tokens": True}
    response = model_client.post("/generate-lite", json=body)
    name, done = list(events(response.text))[-1]
    assert name == "done"
    usage = done["usage"]
    assert len(done["tokens"]["prompt_ids"]) == usage["prompt_tokens"]
    assert len(done["tokens"]["completion_ids"]) >= usage["completion_tokens"]


@pytest.fixture
def recording(make_services: MakeServices, small_base: BaseModel) -> Iterator[Services]:
    """The small real base, with every answer recorded."""
    services = make_services(load_base=lambda note: small_base, rl=RlSettings(log_generations=True))
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


def episodes_of(services: Services) -> list[dict[str, Any]]:
    assert services.episodes.recorder.flush(30)
    shards = sealed_shards(services.settings.storage.state_dir / "episodes")
    return [json.loads(line) for shard in shards for line in shard.read_text(encoding="utf-8").splitlines()]


@pytest.mark.model
def test_every_answer_is_recorded_when_the_settings_say_so(recording: Services) -> None:
    client = client_of(recording)
    answers = [ask(client, max_new_tokens=4, lang="hi", trace_id="t-1"), ask(client, max_new_tokens=3)]
    client.post("/generate-lite", json={"prompt": "Hi", "adapter": "base", "max_new_tokens": 2, "stream": True})
    rows = episodes_of(recording)
    assert [row["output"] for row in rows[:2]] == [answer["text"] for answer in answers]
    assert [len(row["completion_logprobs"]) for row in rows] == [4, 3, 2]
    assert [row["episode_index"] for row in rows] == [0, 1, 2]
    assert (rows[0]["meta"]["trace_id"], rows[0]["meta"]["language"]) == ("t-1", "hi-Deva-IN")
    assert (rows[0]["reward_components"]["language"], rows[1]["reward_components"]["language"]) == (0.0, None)
    assert rows[0]["adapter_id"] == "base"
    assert answers[0]["tokens"] is None  # nobody asked for them
    status = client.get("/rl/status").json()
    assert status["episodes"] == {"recorded": 3, "dropped": 0, "failed": 0, "waiting": 0}


@pytest.mark.model
def test_a_full_queue_costs_the_episode_and_not_the_answer(recording: Services, monkeypatch: Any) -> None:
    monkeypatch.setattr(recording.episodes.recorder, "_capacity", 0)
    assert ask(client_of(recording), max_new_tokens=2)["text"] is not None
    assert client_of(recording).get("/rl/status").json()["episodes"]["dropped"] == 1


@pytest.mark.model
def test_nothing_is_recorded_unless_it_is_wished(model_services: Services, model_client: TestClient) -> None:
    ask(model_client, max_new_tokens=2)
    assert not (model_services.settings.storage.state_dir / "episodes").exists()


@pytest.fixture
def started(services: Services) -> Iterator[Services]:
    """Services whose base never stops loading: recording does not need it."""
    services.episodes.start()
    yield services
    services.episodes.stop(30)


def post(services: Services, **body: Any) -> Any:
    return client_of(services).post("/rl/collect", json=body)


def test_episodes_of_others_are_scored_and_on_the_disk_when_it_is_answered(started: Services) -> None:
    episodes = [GIVEN, {**GIVEN, "output": "Good morning", "reward": -1, "meta": {"user": 7}}]
    answer = post(started, episodes=episodes, run_id="their-run").json()
    (part,) = (started.settings.storage.state_dir / "episodes").glob("*.part")
    rows = [json.loads(line) for line in part.read_text(encoding="utf-8").splitlines()]
    assert [row["episode_id"] for row in rows] == [one["episode_id"] for one in answer["episodes"]]
    assert [row["run_id"] for row in rows] == ["their-run"] * 2
    assert rows[0]["reward_components"]["script"] == 1.0
    assert (answer["episodes"][1]["reward"], answer["episodes"][1]["reward_source"]) == (-1.0, "given")
    assert json.loads(rows[1]["meta"]["extra"]) == {"user": 7}
    assert rows[0]["meta"]["language"] == "hi-Deva-IN"
    assert rows[1]["reward_components"]["language"] == 0.0


def test_the_tokens_of_an_answer_may_come_back_with_its_reward(started: Services) -> None:
    answer = post(started, episodes=[{**GIVEN, "reward": 0.5, "adapter_id": "hindi", "tokens": TOKENS}])
    assert answer.status_code == 200, answer.text
    (row,) = episodes_of(started)
    assert (row["prompt_token_ids"], row["completion_token_ids"]) == ([1, 2], [3, 4])
    assert (row["completion_logprobs"], row["sampling_logprobs"]) == ([-0.5, -1.0], [0.0, 0.0])
    assert (row["adapter_id"], row["adapter_key"], row["base_sha"]) == ("hindi", "k", "b")
    assert (row["sampling"]["top_k"], row["sampling"]["temperature"]) == (40, 0.8)


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        ({"episodes": []}, "episodes"),
        ({"episodes": [{**GIVEN, "tokens": {**TOKENS, "logprobs": [-0.5]}}]}, "episodes[0].tokens"),
        ({"episodes": [{**GIVEN, "tokens": {**TOKENS, "prompt_ids": [-1]}}]}, "episodes[0].tokens.prompt_ids[0]"),
        ({"episodes": [{"prompt": "x"}]}, "episodes[0].output"),
        ({"episodes": [{**GIVEN, "outptu": "x"}]}, "episodes[0].outptu"),
        ({"episodes": [{**GIVEN, "language": "Klingon"}]}, "episodes[0].language"),
        ({"episodes": [GIVEN], "run_id": "../x"}, "run_id"),
        ({"episodes": [GIVEN] * 101}, "episodes"),
    ],
)
def test_what_is_no_episode_is_refused_by_its_field(started: Services, body: dict[str, Any], parameter: str) -> None:
    problem = post(started, **body).json()
    assert (problem["status"], problem["parameter"]) == (422, parameter)


def test_every_episode_at_fault_is_named_with_what_it_may_have(started: Services) -> None:
    problem = post(started, episodes=[{**GIVEN, "outptu": "x"}, GIVEN, {"output": 5}]).json()
    assert [fault["parameter"] for fault in problem["errors"]] == [
        "episodes[0].outptu", "episodes[2].prompt", "episodes[2].output",
    ]  # fmt: skip
    assert "unknown field 'episodes[0].outptu'; did you mean 'output'? allowed: adapter_id," in problem["detail"]
    assert "'episodes[2].output' is 5; a text is wanted" in problem["detail"]


def test_a_fault_within_the_tokens_is_named_with_what_they_may_have(started: Services) -> None:
    problem = post(
        started, episodes=[{**GIVEN, "tokens": {**TOKENS, "sampling": {**TOKENS["sampling"], "topk": 1}}}]
    ).json()
    assert (
        "unknown field 'episodes[0].tokens.sampling.topk'; did you mean 'top_k'? allowed: do_sample,"
        in problem["detail"]
    )


def test_a_number_that_json_does_not_know_is_refused(started: Services) -> None:
    body = json.dumps({"episodes": [{**GIVEN, "meta": {"a": float("nan")}}]})
    response = client_of(started).post("/rl/collect", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_parameter")


def test_one_episode_at_fault_keeps_the_others_of_its_request_from_being_recorded(started: Services) -> None:
    body = json.dumps({"episodes": [GIVEN, {**GIVEN, "meta": {"a": float("inf")}}]})
    response = client_of(started).post("/rl/collect", content=body, headers={"Content-Type": "application/json"})
    assert (response.status_code, response.json()["parameter"]) == (422, "episodes[1].meta")
    counts = client_of(started).get("/rl/status").json()["episodes"]
    assert counts == {"recorded": 0, "dropped": 0, "failed": 0, "waiting": 0}


def test_a_queue_without_room_is_said_and_takes_none(services: Services) -> None:
    services.episodes.recorder.record_all([lambda: pytest.fail("not started")] * 1000)
    response = post(services, episodes=[GIVEN])
    assert (response.status_code, response.headers["Retry-After"]) == (429, "5")


def test_sealed_shards_of_the_service_go_where_the_settings_say(make_services: MakeServices, tmp_path: Path) -> None:
    (tmp_path / "nas").mkdir()
    services = make_services(rl=RlSettings(upload_path=f"file://{tmp_path}/nas/", keep_uploaded_mb=0))
    services.episodes.start()
    assert post(services, episodes=[GIVEN]).status_code == 200
    assert services.episodes.recorder.flush(30)
    status = wait_for_sent(services)
    assert (status["shards_sent"], status["shards_waiting"], status["upload_error"]) == (1, 0, None)
    (shard,) = sealed_shards(tmp_path / "nas")
    assert read_manifest(shard).count == 1
    services.episodes.stop(30)


def test_a_folder_that_is_full_is_said_with_507(make_services: MakeServices) -> None:
    services = make_services(rl=RlSettings(max_local_mb=1, keep_uploaded_mb=0))
    folder = services.settings.storage.state_dir / "episodes"
    folder.mkdir(parents=True)
    (folder / "older").write_bytes(bytes(1 << 20))
    services.episodes.start()
    response = post(services, episodes=[GIVEN])
    assert (response.status_code, response.json()["code"]) == (507, "storage_full")
    assert client_of(services).get("/rl/status").json()["episodes"]["failed"] == 1
    services.episodes.stop(30)


def wait_for_sent(services: Services) -> Any:
    ticks = threading.Event()
    for _ in range(3000):
        status = client_of(services).get("/rl/status").json()
        if status["shards_sent"] or status["upload_error"]:
            return status
        ticks.wait(0.01)
    raise AssertionError("nothing was sent")


@pytest.mark.parametrize("path", ["ftp://x/y/", "s3://b/one.jsonl", "https://u:p@h/x/", "https://h/x?sig=1", "nas"])
def test_a_destination_that_cannot_be_is_refused_with_the_settings(path: str) -> None:
    with pytest.raises(ValidationError, match="upload"):
        RlSettings(upload_path=path)


@pytest.mark.model
def test_collect_asks_the_real_service(model_services: Services, tmp_path: Path, capsys: Any) -> None:
    app = create_app(services=model_services)
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    ticks = threading.Event()
    while not server.started:
        ticks.wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    (tmp_path / "nas").mkdir()
    arguments = ["--url", f"http://127.0.0.1:{port}", "--adapter", "base", "--episodes", "3", "--max-new-tokens", "5",
                 "--prompt", "Say hello", "--prompt", "Say bye", "--seed", "7", "--out", f"{tmp_path}/runs/e.jsonl",
                 "--run-id", "r1", "--upload-path", f"file://{tmp_path}/nas/"]  # fmt: skip
    try:
        assert collect(arguments) == 0
    finally:
        server.should_exit = True
        thread.join()
    (shard,) = sealed_shards(tmp_path / "nas")
    rows = [json.loads(line) for line in shard.read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == ["Say hello", "Say bye", "Say hello"]
    assert [row["sampling"]["seed"] for row in rows] == [7, 8, 9]
    assert rows[0]["group_id"] == rows[2]["group_id"] != rows[1]["group_id"]
    assert all(len(row["completion_logprobs"]) == len(row["completion_token_ids"]) > 0 for row in rows)
    assert rows[0]["base_sha"] == model_services.engine.base.identity
    assert "1 shards at file://" in capsys.readouterr().out
