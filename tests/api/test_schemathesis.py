"""Whatever the OpenAPI document allows, and what it does not: no answer is a 5xx or an undocumented one.

The requests are made up by schemathesis: every example, the limits of every field, random ones, and chains in
which an answer's job is what the next request asks for; the same in every run. They go to the real application
over the tiny base: it answers, with an adapter too, trains and can be followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from schemathesis import engine
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import StopReason, events
from schemathesis.python.asgi import shutdown_lifespans
from starlette.types import ASGIApp, Receive, Scope, Send

from adapter_service.api import create_app
from adapter_service.api.services import Services, build_services
from adapter_service.settings import ServingSettings, SourceEntry
from tests.api.conftest import RECORDS, QuickPipeline, settings_in
from tests.api.test_adapters_answer import trained
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# What a schema cannot say (a source that is not configured, an id that the tokenizer lacks) is refused with 422.
REFUSED = ["2xx", "403", "404", "409", "422", "429"]
CONFIG = {
    "seed": 4,
    "max-stream-events": 5,  # a stream that has no end yet is left
    "continue-on-failure": True,
    "checks": {"positive_data_acceptance": {"expected-statuses": REFUSED}},
    "operations": [  # there it is 400, as in OpenAI's API and the hubs'
        {
            "include-path-regex": "^/(v1|api/v0|llm-proxy)/",
            "checks": {"positive_data_acceptance": {"expected-statuses": [*REFUSED, "400"]}},
        }
    ],
    "generation": {"deterministic": True, "max-examples": 15, "no-shrink": True},
}


@pytest.fixture
def fuzzed(tiny_base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> Services:
    """Short answers, and one source that is there."""
    settings = settings_in(
        tmp_path_factory.mktemp("fuzzed"),
        serving=ServingSettings(queue_size=4, max_new_tokens_limit=4, default_max_new_tokens=4),
        sources={"small": SourceEntry(name="small", kind="memory", options={"format": "parallel", "items": RECORDS})},
    )
    return build_services(settings, load_base=lambda note: tiny_base, make_pipeline=lambda *_: QuickPipeline())


@pytest.fixture
def document(fuzzed: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document of the running application, whose default adapter is live, with a version to roll back to."""
    app = from_this_machine(create_app(services=fuzzed))
    config = SchemathesisConfig.from_dict(CONFIG)
    document = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    fuzzed.engine.wait_until_ready(READY_SECONDS)
    for key in ("a", "b"):
        trained(fuzzed, tmp_path_factory.mktemp("adapter"), fuzzed.settings.serving.default_adapter, key)
    yield document
    shutdown_lifespans()


def from_this_machine(app: ASGIApp) -> ASGIApp:
    """`app` with every request from a loopback peer; any other gets 401."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(b"host", b"127.0.0.1"), *((k, v) for k, v in scope["headers"] if k != b"host")]
            scope = {**scope, "client": ("127.0.0.1", 5), "headers": headers}
        await app(scope, receive, send)

    return application


def test_no_answer_is_an_error_of_the_server_or_undocumented(document: Any) -> None:
    found, tried = [], set()
    for event in engine.from_schema(document).execute():
        if isinstance(event, events.NonFatalError):
            found.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            tried |= {node.value.operation.label for node in event.recorder.cases.values()}
            found += list(failures(event))
        elif isinstance(event, events.EngineFinished):
            assert event.stop_reason is StopReason.COMPLETED
    assert not found, "\n\n".join(found)
    assert tried == {operation.ok().label for operation in document.get_all_operations()}


def failures(scenario: events.ScenarioFinished) -> Iterator[str]:
    for checks in scenario.recorder.checks.values():
        for check in checks:
            if check.failure_info is not None:
                failure = check.failure_info.failure
                yield f"{check.name}, {failure.operation}: {failure}\n{check.failure_info.code_sample}"
