"""From the fields of a request under /v1 to the engine's sampling."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.api.openai_sampling import sampling_of
from adapter_service.api.schemas.chat import ChatBody, ChatMessage
from adapter_service.engine.requests import Sampling
from adapter_service.languages import find
from adapter_service.settings import ServingSettings

SERVING = ServingSettings(repetition_penalty=1.5, foreign_script_penalty=3.0)


def sampling(*, ours: bool = False, language: str | None = None, **fields: Any) -> Sampling:
    body = ChatBody(model="base", messages=[ChatMessage(role="user", content="x")], **fields)
    return sampling_of(body, 9, SERVING, find(language) if language else None, ours=ours)


def test_defaults_are_openais_own() -> None:
    found = sampling()
    assert found == Sampling(max_new_tokens=9, do_sample=True)


def test_an_adapters_text_has_the_services_penalties() -> None:
    found = sampling(ours=True, language="hi")
    assert (found.repetition_penalty, found.foreign_script_penalty, found.script) == (1.5, 3.0, "Deva")


def test_what_is_given_counts_for_an_adapter_too() -> None:
    found = sampling(ours=True, language="hi", repetition_penalty=1.0, foreign_script_penalty=0.0)
    assert (found.repetition_penalty, found.foreign_script_penalty) == (1.0, 0.0)


@pytest.mark.parametrize(("temperature", "samples"), [(0.0, False), (0.01, True), (None, True)])
def test_only_a_temperature_of_0_is_greedy(temperature: float | None, samples: bool) -> None:
    assert sampling(temperature=temperature).do_sample is samples


def test_every_field_reaches_the_engine() -> None:
    found = sampling(
        temperature=0.5, top_p=0.8, top_k=3, min_p=0.1, presence_penalty=1, frequency_penalty=-1, seed=4,
        logit_bias={"5": 2}, stop="\n", stop_token_ids=[6], min_tokens=2, repetition_penalty=1.1,
    )  # fmt: skip
    assert found == Sampling(
        max_new_tokens=9, min_new_tokens=2, do_sample=True, temperature=0.5, top_p=0.8, top_k=3, min_p=0.1,
        presence_penalty=1.0, frequency_penalty=-1.0, seed=4, logit_bias={5: 2.0}, stop=("\n",),
        extra_eos_ids=frozenset({6}), repetition_penalty=1.1,
    )  # fmt: skip


def test_all_is_0_or_below_and_a_seed_below_0_is_one_too() -> None:
    assert sampling(top_k=-1).top_k == 0
    seed = sampling(seed=-1).seed
    assert seed is not None
    assert seed >= 0
