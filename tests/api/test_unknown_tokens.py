"""Token ids that the base has no row for: a base whose tokenizer makes one more than it can read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_service.api.services import Services, build_services
from adapter_service.model_utils import load_base
from tests.api.conftest import QuickPipeline, client_of, settings_in
from tests.waiting import READY_SECONDS

HELLO = [{"role": "user", "content": "Hello <image>"}]


@pytest.fixture(scope="module")
def short_services(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """The tiny base, 258 rows, with 259 tokens."""
    base = load_base(str(tiny_base_folder), bases_dir=tiny_base_folder, device="cpu", dtype="float32")
    assert base.tokenizer.add_tokens(["<image>"]) == 1
    settings = settings_in(tmp_path_factory.mktemp("short"))
    services = build_services(settings, load_base=lambda note: base, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    services.engine.wait_until_ready(READY_SECONDS)
    yield services
    services.stop()


@pytest.mark.parametrize(
    ("path", "body", "parameter"),
    [
        ("/v1/chat/completions", {"model": "base", "messages": HELLO}, "messages"),
        ("/v1/completions", {"model": "base", "prompt": "Hello <image>"}, "prompt"),
    ],
)
def test_a_token_that_the_tokenizer_alone_has_is_refused_by_name(
    short_services: Services, path: str, body: dict[str, Any], parameter: str
) -> None:
    answer = client_of(short_services).post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, parameter)
    assert "the prompt has token 258 ('<image>'); " in answer.json()["error"]["message"]
    assert "has the tokens 0 to 257, fewer than its tokenizer: take that out" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/generate-lite", {"prompt": "Hello <image>", "adapter": "base"}),
        ("/generate-lite", {"prompt": "Hello", "adapter": "base", "eos_token_id": 258}),
        ("/detokenize", {"ids": [5, 258]}),
        ("/v1/completions", {"model": "base", "prompt": [5, 258]}),
        ("/v1/completions", {"model": "base", "prompt": "Hello", "logit_bias": {"258": 1}}),
        ("/v1/completions", {"model": "base", "prompt": "Hello", "stop_token_ids": [258]}),
    ],
)
def test_every_field_with_token_ids_has_the_same_bound(
    short_services: Services, path: str, body: dict[str, Any]
) -> None:
    answer = client_of(short_services).post(path, json=body)
    assert answer.status_code in {400, 422}
    assert "has the tokens 0 to 257" in answer.text
