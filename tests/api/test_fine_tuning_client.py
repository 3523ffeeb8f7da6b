"""Fine-tuning through OpenAI's own client: a real server, the tiny base, and real training of the toy task."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
import pytest

from adapter_service.api.services import Services, build_services
from adapter_service.settings import ServingSettings, StorageSettings
from tests.api.listening import listening
from tests.jobs.bench import local_source, shuffled, toy_records, toy_settings
from tests.waiting import eventually

if TYPE_CHECKING:
    from openai.types import FileObject
    from openai.types.fine_tuning import FineTuningJob

    from adapter_service.model_utils import BaseModel


@pytest.fixture(scope="module")
def services(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The whole service; its configured source is the toy task too."""
    folder = tmp_path_factory.mktemp("fine-tuning")
    settings = toy_settings(local_source("toy", folder, toy_records())).model_copy(
        update={
            "storage": StorageSettings(state_dir=folder / "state", min_free_mb=0),
            "serving": ServingSettings(default_adapter="toys"),
        }
    )
    made = build_services(settings, load_base=lambda note: tiny_base)
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def client(services: Services) -> Iterator[openai.OpenAI]:
    with (
        listening(services) as address,
        openai.OpenAI(base_url=f"{address}/v1", api_key="none is needed", max_retries=0) as made,
    ):
        yield made


@pytest.fixture
def uploaded(client: openai.OpenAI) -> FileObject:
    return send(client, toy_records())


def send(client: openai.OpenAI, records: list[Any], name: str = "toys.jsonl") -> FileObject:
    content = "".join(json.dumps(record) + "\n" for record in records).encode()
    return client.files.create(file=(name, content), purpose="fine-tune")


def ended(client: openai.OpenAI, job: FineTuningJob) -> FineTuningJob:
    jobs = client.fine_tuning.jobs
    eventually(lambda: jobs.retrieve(job.id).finished_at, f"the end of {job.id}")
    return jobs.retrieve(job.id)


def is_paused(job: FineTuningJob) -> bool:
    """The API has this status; the client's list of them lacks it."""
    return str(job.status) == "paused"


@contextmanager
def refused(error: type[openai.APIStatusError], says: str) -> Iterator[None]:
    """Within it the service says no, in words that have `says` in them."""
    with pytest.raises(error) as caught:
        yield
    assert says in caught.value.response.text


def test_a_file_is_sent_and_a_job_trains_a_version_on_it_that_goes_live(
    client: openai.OpenAI, uploaded: FileObject
) -> None:
    assert (uploaded.status, uploaded.status_details, uploaded.purpose) == ("processed", None, "fine-tune")
    job = client.fine_tuning.jobs.create(
        model="base",
        training_file=uploaded.id,
        suffix="from-a-file",
        seed=3,
        metadata={"team": "hub"},
        method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 5, "batch_size": 7}}},
    )
    assert (job.status in {"queued", "running"}, job.fine_tuned_model, job.trained_tokens) == (True, None, None)
    done = ended(client, job)
    assert (done.status, done.error) == ("succeeded", None), done.error
    assert (done.fine_tuned_model, done.model, done.training_file) == ("from-a-file@1", "base", uploaded.id)
    used = done.hyperparameters
    assert (used.n_epochs, used.batch_size, used.learning_rate_multiplier, done.seed) == (5, 7, 1.0, 3)
    assert done.method
    assert done.method.supervised
    assert done.method.supervised.hyperparameters
    assert done.method.supervised.hyperparameters.n_epochs == 5
    assert (done.metadata, done.result_files, done.integrations) == ({"team": "hub"}, [], [])
    assert done.trained_tokens
    assert done.finished_at
    assert done.created_at <= done.finished_at


def test_its_events_tell_the_way_and_what_was_measured_newest_first(
    client: openai.OpenAI, uploaded: FileObject
) -> None:
    job = ended(client, client.fine_tuning.jobs.create(model="base", training_file=uploaded.id, suffix="events"))
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=3))  # the client leafs through the pages
    assert [event.id for event in events] == sorted((e.id for e in events), key=lambda e: -int(e.partition("-")[2]))
    assert len({event.id for event in events}) == len(events) > 3
    messages = [event.message for event in reversed(events) if event.type == "message"]
    assert messages[:2] == ["the job waits in the queue", "attempt 1 begins: training 'events'"]
    assert messages[-1].startswith("events@1 is live: ")
    phases = [m.removeprefix("the job is ") for m in messages if m.startswith("the job is ")]
    assert phases == ["streaming", "training", "evaluating", "gating", "publishing"]
    measured: list[Any] = [event.data for event in events if event.type == "metrics"]
    assert measured
    assert all(data["train_loss"] > 0 and 1 <= data["step"] <= data["total_steps"] for data in measured)
    assert {event.level for event in events} == {"info"}


def test_its_checkpoint_is_the_version_which_then_answers_by_that_name(
    client: openai.OpenAI, services: Services, uploaded: FileObject
) -> None:
    job = ended(client, client.fine_tuning.jobs.create(model="base", training_file=uploaded.id, suffix="checkpoint"))
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(job.id)
    assert checkpoint.fine_tuned_model_checkpoint == job.fine_tuned_model == "checkpoint@1"
    assert services.versions.resolve(checkpoint.fine_tuned_model_checkpoint).adapter == "checkpoint"
    assert checkpoint.fine_tuning_job_id == job.id
    assert checkpoint.metrics.step == checkpoint.step_number > 0
    assert checkpoint.metrics.train_loss
    assert checkpoint.metrics.full_valid_loss


def test_what_the_gate_rejects_is_of_a_job_that_succeeded_without_a_model(
    client: openai.OpenAI, uploaded: FileObject
) -> None:
    # Wrong answers are learned, and the right ones are held out to judge by.
    right, wrong = (
        ended(client, client.fine_tuning.jobs.create(model="base", training_file=file_id, suffix="judged"))
        for file_id in (uploaded.id, send(client, shuffled(toy_records())).id)
    )
    assert (right.fine_tuned_model, wrong.status, wrong.fine_tuned_model) == ("judged@1", "succeeded", None)
    assert wrong.error is None
    last = client.fine_tuning.jobs.list_events(wrong.id, limit=1).data[0]
    data: Any = last.data
    assert last.level == "warn"
    assert last.message.startswith("judged@2 is rejected: ")
    assert data["gate"]["reasons"]
    assert all(reason in last.message for reason in data["gate"]["reasons"])
    (checkpoint,) = client.fine_tuning.jobs.checkpoints.list(wrong.id)
    assert checkpoint.fine_tuned_model_checkpoint == "judged@2"


def test_a_job_goes_on_from_an_adapter_and_a_source_is_named_without_a_file(client: openai.OpenAI) -> None:
    first = ended(client, client.fine_tuning.jobs.create(model="base", training_file="source:toy"))
    assert (first.fine_tuned_model, first.training_file) == ("toys@1", "source:toy")
    second = ended(client, client.fine_tuning.jobs.create(model="toys@1", training_file="source:toy", seed=5))
    assert (second.status, second.model) == ("succeeded", "toys@1")
    (made,) = client.fine_tuning.jobs.checkpoints.list(second.id)
    assert made.fine_tuned_model_checkpoint == "toys@2"


def test_all_of_a_file_is_trained_on_whatever_is_configured_for_sources(
    client: openai.OpenAI, services: Services
) -> None:
    records = toy_records(per_letter=30)
    job = ended(
        client, client.fine_tuning.jobs.create(model="base", training_file=send(client, records).id, suffix="all")
    )
    result = services.jobs.get(job.id.replace("ftjob-", "job_")).result
    assert result is not None
    assert result["samples"]["used"] == len(records)
    assert result["recipe"]["data"]["max_train_samples"] == len(records)


def test_pausing_and_resuming_a_waiting_job_and_ending_it(client: openai.OpenAI, uploaded: FileObject) -> None:
    jobs = client.fine_tuning.jobs
    for_long: Any = {"n_epochs": 1000}
    before = jobs.create(model="base", training_file=uploaded.id, suffix="busy", hyperparameters=for_long)
    waiting = jobs.create(model="base", training_file=uploaded.id, suffix="waiting")
    assert is_paused(jobs.pause(waiting.id))
    assert jobs.retrieve(waiting.id).finished_at is None
    assert jobs.resume(waiting.id).status == "queued"
    assert jobs.cancel(waiting.id).status == "cancelled"
    with refused(openai.ConflictError, "only a job that is not finished can be cancelled"):
        jobs.cancel(waiting.id)
    assert jobs.list_events(waiting.id, limit=1).data[0].level == "warn"
    jobs.cancel(before.id)
    assert ended(client, before).status == "cancelled"


def test_a_running_job_is_paused_and_goes_on_to_its_end(
    client: openai.OpenAI, services: Services, uploaded: FileObject
) -> None:
    jobs = client.fine_tuning.jobs
    hyperparameters: Any = {"n_epochs": 1000}
    job = jobs.create(model="base", training_file=uploaded.id, suffix="long", hyperparameters=hyperparameters)
    eventually(lambda: jobs.retrieve(job.id).estimated_finish, "its end can be told")
    jobs.pause(job.id)
    eventually(lambda: is_paused(jobs.retrieve(job.id)), "paused")
    with refused(openai.ConflictError, "trains on; cancel that job"):
        client.files.delete(uploaded.id)
    jobs.resume(job.id)
    eventually(lambda: jobs.retrieve(job.id).status == "running", "going on")
    jobs.cancel(job.id)
    assert ended(client, job).status == "cancelled"
    path = services.files.get(uploaded.id).path
    assert path.exists()
    assert client.files.delete(uploaded.id).deleted
    assert not path.exists()


def test_jobs_are_listed_newest_first_in_pages_and_by_their_metadata(client: openai.OpenAI) -> None:
    jobs, metadata = client.fine_tuning.jobs, {"experiment": "a=b&c", "n": "1"}
    made = [
        jobs.create(model="base", training_file="source:toy", suffix="listed", seed=n, metadata=metadata).id
        for n in range(3)
    ]
    assert [job.id for job in jobs.list(limit=2, metadata={"n": "1"})] == made[::-1]
    assert [job.id for job in jobs.list(metadata={"experiment": "a=b&c", "n": "1"})] == made[::-1]
    assert list(jobs.list(metadata={"experiment": "a=b&c", "n": "2"})) == []
    assert not set(made) & {job.id for job in jobs.list(extra_query={"metadata": "null"})}
    first = jobs.list(limit=1)
    assert ([job.id for job in first.data], first.has_more) == (made[2:], True)
    assert jobs.list(limit=1, after=made[2]).data[0].id == made[1]
    for job_id in made:
        with suppress(openai.ConflictError):  # one that has ended
            jobs.cancel(job_id)


def test_files_are_listed_read_and_deleted(client: openai.OpenAI) -> None:
    files = [send(client, toy_records()[:n], f"toys-{n} ☃.jsonl") for n in (1, 2, 3)]
    ids = [file.id for file in files]
    assert [file.id for file in client.files.list(limit=2)][:3] == ids[::-1]
    assert [file.id for file in client.files.list(order="asc", after=ids[0])] == ids[1:]
    assert list(client.files.list(purpose="batch")) == []
    found = client.files.retrieve(ids[1])
    content = client.files.content(ids[1])
    assert (found.filename, found.bytes) == ("toys-2 ☃.jsonl", len(content.read()))
    assert [json.loads(line) for line in content.text.splitlines()] == toy_records()[:2]
    assert client.files.delete(ids[1]).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with refused(openai.NotFoundError, "no file"):
            ask(ids[1])
    assert client.files.wait_for_processing(ids[0]).status == "processed"


def test_a_file_may_come_from_a_path_as_clients_give_it(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}))
    file = client.files.create(file=path, purpose="fine-tune")
    assert (file.filename, file.status, file.bytes) == ("mine.jsonl", "processed", path.stat().st_size)


def test_what_there_is_not_is_a_404_and_what_cannot_be_a_400(client: openai.OpenAI, uploaded: FileObject) -> None:
    jobs = client.fine_tuning.jobs
    with refused(openai.NotFoundError, "unknown adapter 'nobody'"):
        jobs.create(model="nobody", training_file=uploaded.id)
    with refused(openai.NotFoundError, "unknown model 'gpt-4o-mini:x'"):
        jobs.create(model="gpt-4o-mini:x", training_file=uploaded.id)
    with refused(openai.NotFoundError, "no file 'file-01ARZ3NDEKTSV4RRFFQ69G5FAV'"):
        jobs.create(model="base", training_file="file-01ARZ3NDEKTSV4RRFFQ69G5FAV")
    with refused(openai.NotFoundError, "which is no file's id"):
        jobs.create(model="base", training_file="/etc/passwd")
    with refused(openai.NotFoundError, "unknown source 'nowhere'"):
        jobs.create(model="base", training_file="source:nowhere")
    with refused(openai.NotFoundError, "no fine-tuning job 'ftjob-"):
        jobs.retrieve("job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    for fields in REFUSED:
        with refused(openai.APIStatusError, next(iter(fields))):
            jobs.create(**{"model": "base", "training_file": uploaded.id, **fields})


REFUSED: list[dict[str, Any]] = [
    {"validation_file": "file-01ARZ3NDEKTSV4RRFFQ69G5FAV"},
    {"integrations": [{"type": "wandb", "wandb": {"project": "p"}}]},
    {"method": {"type": "dpo"}},
    {"hyperparameters": {"n_epochs": 0}},
    {"hyperparameters": {"n_epochs": 2}, "method": {"type": "supervised", "supervised": {"hyperparameters": {}}}},
    {"hyperparameters": {"beta": 0.1}},
    {"suffix": "Not A Name"},
    {"suffix": "base"},
    {"metadata": {"k": "v" * 513}},
    {"seed": -1},
]
