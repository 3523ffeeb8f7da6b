"""A training request that this machine has not the memory for is refused when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from adapter_service.training import memory
from tests.api.conftest import MakeServices, client_of
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

BODY = {"adapter": "hindi", "max_seq_length": 256, "token_budget": 4096, "lora_r": 64}


def test_a_job_that_cannot_fit_is_refused_with_the_estimate(
    make_services: MakeServices, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = make_services(load_base=lambda note: tiny_base)
    services.engine.start()
    services.engine.wait_until_ready(READY_SECONDS)
    client = client_of(services)
    assert client.post("/adapter/train-lite", json=BODY).status_code == 202
    monkeypatch.setattr(memory, "free_bytes", lambda device: 20 << 20)
    refused = client.post("/adapter/train-lite", json=BODY)
    assert (refused.status_code, refused.json()["code"]) == (422, "does_not_fit")
    assert "20 MB are free" in refused.json()["detail"]
    assert "lower token_budget (now 4096)" in refused.json()["detail"]
    monkeypatch.setattr(memory, "free_bytes", lambda device: 240 << 20)
    assert client.post("/adapter/train-lite", json=BODY | {"preset": "fast"}).status_code == 422
    assert client.post("/adapter/train-lite", json=BODY).status_code == 202  # in smaller passes
    services.engine.stop()
