"""Prompts put to a running service, with token ids and log-probabilities in its answers.

Its API key, where it wants one, is the environment variable ADAPTER_API_KEY.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rl.config import ModelSettings, Prompt
from rl.episodes import Episode, from_details
from rl.errors import ServiceError

if TYPE_CHECKING:
    import requests

_CONNECT_SECONDS = 5.0
_MOST_WAIT_SECONDS = 60.0


def answered(
    prompts: Sequence[Prompt],
    count: int,
    model: ModelSettings,
    *,
    run_id: str,
    env_name: str,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Episode]:
    """Episodes from `count` requests, the prompts in turn.

    Raises:
        ServiceError: the service is away, or refuses a request; its own words are in it.
    """
    import requests

    with requests.Session() as session:
        if key := os.environ.get("ADAPTER_API_KEY"):
            session.headers["X-API-Key"] = key
        for number in range(count):
            prompt = prompts[number % len(prompts)]
            body = _body(prompt, model, number)
            answer, latency_seconds = _post(session, model, body, wait, clock)
            yield _episode(prompt, body, answer, latency_seconds=latency_seconds, run_id=run_id, env_name=env_name)


def _body(prompt: Prompt, model: ModelSettings, number: int) -> dict[str, Any]:
    body = {
        "prompt": prompt.prompt,
        "lang": prompt.language,
        "adapter": model.adapter,
        "base_model": model.base_model,
        "max_new_tokens": model.max_new_tokens,
        "temperature": model.temperature,
        "top_p": model.top_p,
        "top_k": model.top_k,
        "repetition_penalty": model.repetition_penalty,
        "foreign_script_penalty": model.foreign_script_penalty,
        "seed": None if model.seed is None else model.seed + number,
        "return_tokens": True,
    }
    return {name: value for name, value in body.items() if value is not None}


def _post(
    session: requests.Session,
    model: ModelSettings,
    body: Mapping[str, Any],
    wait: Callable[[float], None],
    clock: Callable[[], float],
) -> tuple[Mapping[str, Any], float]:
    """The service's answer, and how long it took; while it is busy or loads, it is asked again when it says so."""
    import requests

    url = f"{model.service_url.rstrip('/')}/generate-lite"
    deadline = clock() + model.timeout_seconds
    while True:
        started = clock()
        try:
            response = session.post(url, json=body, timeout=(_CONNECT_SECONDS, model.timeout_seconds))
            answer = response.json()
        except requests.exceptions.JSONDecodeError as error:
            raise ServiceError(f"{url} answers no JSON ({response.status_code}); is it this service?") from error
        except requests.RequestException as error:
            raise ServiceError(
                f"{url} does not answer ({type(error).__name__}); start it with `make serve`, or name it with --url"
            ) from error
        if response.status_code == 200:
            if not _is_answer(answer):
                raise ServiceError(f"{url} answers something else than a text with its tokens; is it this service?")
            return answer, clock() - started
        pause = response.headers.get("Retry-After", "")
        if response.status_code not in {429, 503} or not pause.isdecimal() or clock() > deadline:
            detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
            raise ServiceError(f"{url} refuses ({response.status_code}): {detail}")
        wait(min(float(pause), _MOST_WAIT_SECONDS))


def _is_answer(answer: Any) -> bool:
    """Whether it has the shape of what `/generate-lite` answers."""
    tokens = (answer.get("tokens") or {}) if isinstance(answer, dict) else None
    return (
        isinstance(tokens, dict)
        and isinstance(answer.get("text"), str)
        and isinstance(tokens.get("sampling", {}), dict)
        and all(isinstance(tokens.get(name), list | None) for name in _LISTS)
    )


_LISTS = ("prompt_ids", "completion_ids", "logprobs", "sampling_logprobs")


def _episode(
    prompt: Prompt, body: Mapping[str, Any], answer: Mapping[str, Any], *, latency_seconds: float, **more: Any
) -> Episode:
    policy, sampled_with, tokens = from_details(
        {"sampling": body, **(answer.get("tokens") or {})},
        adapter_id=answer.get("adapter"),
        adapter_version=answer.get("version"),
    )
    was_asked = prompt.language is not None or answer.get("lang_ok") is not None
    return Episode(
        prompt=prompt.prompt,
        output=answer["text"],
        source="rl.collect",
        policy=policy,
        sampled_with=sampled_with,
        tokens=tokens,
        stop_reason=answer.get("finish_reason"),
        latency_seconds=latency_seconds,
        # With script and region, which the name of a language has not.
        language=answer.get("lang_tag") if was_asked else None,
        language_ok=answer.get("lang_ok"),
        trace_id=answer.get("trace_id"),
        **more,
    )
