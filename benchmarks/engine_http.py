"""What HTTP costs: `POST /generate-lite` on a connection that is kept, beside the same request given to the engine.

Both in turns, one at a time. Client, server and engine share a process here, and its one interpreter.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import replace
from statistics import median
from urllib.parse import urlsplit

from rich.console import Console

from adapter_service.engine.requests import Ask, default_sampling
from adapter_service.languages.instructions import answer_language
from adapter_service.measuring.provenance import Result
from adapter_service.samples import Message
from benchmarks.engine_service import ServiceHere, checked
from benchmarks.engine_size import Size

MOST_MS = 3.0
_TOKENS = 1  # more of them scatter more than HTTP costs
_PROMPT = "Name three colours of the rainbow, please."
_WARM = 5


def measure(here: ServiceHere, size: Size, console: Console) -> list[Result]:
    where = urlsplit(here.url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port)
    version = here.versions[0]
    body = json.dumps({
        "prompt": _PROMPT, "adapter": version.adapter, "max_new_tokens": _TOKENS, "min_new_tokens": _TOKENS,
    }).encode()  # fmt: skip
    ask = _same(here)
    over_http: list[float] = []
    direct: list[float] = []
    for number in range(-_WARM, size.pairs):
        for by_http in (True, False) if number % 2 else (False, True):
            seconds = _by_http(connection, body) if by_http else _directly(here, ask)
            if number >= 0:
                (over_http if by_http else direct).append(seconds * 1000)
    connection.close()
    more = median(a - b for a, b in zip(over_http, direct, strict=True))
    console.print(f"HTTP: {median(over_http):.1f} ms, the engine {median(direct):.1f} ms")
    return [
        Result(
            f"HTTP's part of a request, p50 of {size.pairs} pairs", more, "ms", target=MOST_MS, met=more <= MOST_MS
        ),
        Result(
            f"a request of {_TOKENS} token over HTTP, p50", median(over_http), "ms", "the engine", median(direct),
            median(over_http) / median(direct),
        ),
    ]  # fmt: skip


def _same(here: ServiceHere) -> Ask:
    """What the route asks of the engine."""
    serving = here.services.settings.serving
    sampling = default_sampling(serving, answer_language(_PROMPT, None), max_new_tokens=_TOKENS)
    prompt_ids = here.engine.prompt_ids([Message("user", _PROMPT)], as_it_stands=False)
    return Ask(prompt_ids, replace(sampling, min_new_tokens=_TOKENS), here.files[0])


def _by_http(connection: http.client.HTTPConnection, body: bytes) -> float:
    started = time.perf_counter()
    connection.request("POST", "/generate-lite", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    seconds = time.perf_counter() - started
    if response.status != 200 or json.loads(answer)["usage"]["completion_tokens"] != _TOKENS:
        raise SystemExit(f"/generate-lite answered {response.status}: {answer[:300]!r}")
    return seconds


def _directly(here: ServiceHere, ask: Ask) -> float:
    started = time.perf_counter()
    checked(here.engine.submit(ask).result())
    return time.perf_counter() - started
