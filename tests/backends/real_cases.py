"""What every kind of server has to do, at a real one; the texts it is held to are the engine's own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import permutations

from tests.backends.real_service import MODELS, PROMPTS, Answer, Client, assert_same

Serial = Mapping[tuple[str, str], Answer]
Case = Callable[[Client], None]


def one_after_the_other_in_every_order(client: Client, serial: Serial, bound: float) -> None:
    """What one adapter has computed of a prompt is nothing to another."""
    for prompt in PROMPTS[::2]:
        for order in permutations(MODELS):
            for model in order:
                assert_same(client.complete(model, prompt), serial[model, prompt], bound)


def all_at_once(client: Client, serial: Serial, bound: float) -> None:
    """What is answered beside it is nothing to an answer."""
    asked = [(model, prompt) for prompt in PROMPTS for model in MODELS]
    with ThreadPoolExecutor(len(asked)) as pool:
        found = list(pool.map(lambda each: client.complete(*each), asked))
    for each, text in zip(asked, found, strict=True):
        assert_same(text, serial[each], bound)


def adapters_answer_differently(serial: Serial) -> None:
    """Else all of this would show nothing."""
    assert len({serial[model, PROMPTS[1]].text for model in MODELS}) == len(MODELS)


def a_version_goes_live_while_the_old_one_answers(client: Client) -> None:
    """Nobody waits, nobody is lost, and a name means the new version from then on."""
    before = client.complete("warm", PROMPTS[2])
    whole = client.complete("warm", PROMPTS[4], max_tokens=150)
    pieces: list[str] = []
    begun = threading.Event()

    def read() -> None:
        for piece in client.stream("warm", PROMPTS[4], max_tokens=150):
            pieces.append(piece)
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(120)
    reference = client.publish("warm", seed=9)
    assert reference == "warm@2"
    assert client.complete("warm", PROMPTS[2]) == client.complete("warm@2", PROMPTS[2]) != before
    reader.join(300)
    assert "".join(pieces) == whole
    assert client.complete("warm@1", PROMPTS[2]) == before


def a_stop_text_ends_it(client: Client) -> None:
    text = client.complete("cold", PROMPTS[2], max_tokens=40)
    word = text.split()[4]
    assert client.complete("cold", PROMPTS[2], max_tokens=40, stop=[word]) == text[: text.index(word)]


def a_stream_says_the_same(client: Client) -> None:
    """Whole characters too, though their tokens are parts of them."""
    for prompt in PROMPTS:
        pieces = list(client.stream("cold", prompt, max_tokens=24))
        assert "".join(pieces) == client.complete("cold", prompt)
        assert len(pieces) > 2
        assert not any("\ufffd" in piece for piece in pieces)


def json_keeps_to_its_schema(client: Client) -> None:
    """By the same grammar as here, blanks and all."""
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "hot": {"type": "boolean"}},
        "required": ["city", "hot"],
        "additionalProperties": False,
    }
    text = client.complete("cold", PROMPTS[0], max_tokens=60, structured_outputs={"json": schema})
    assert text.startswith('{"city": "')
    assert text.endswith(('"hot": true}', '"hot": false}'))
    assert client.complete("cold", PROMPTS[0], structured_outputs={"choice": ["red/green", "blue"]}) in {
        "red/green",
        "blue",
    }
    assert client.complete("base", PROMPTS[0], structured_outputs={"regex": "[a-c]{3}/[0-9]"})[3] == "/"


def equal_seeds_draw_equally(client: Client) -> None:
    drawn = [client.complete("cold", PROMPTS[2], temperature=1.0, top_p=0.9, top_k=40, seed=seed) for seed in (5, 5, 6)]
    assert drawn[0] == drawn[1] != drawn[2]


def who_is_not_known_is_not_answered(client: Client) -> None:
    response = client.http.post("/v1/completions", json={"model": "nobody", "prompt": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


def metrics_of_both_are_in_one_place(client: Client, name: str, metric: str) -> None:
    text = client.http.get("/metrics").text
    assert f"{metric}{{" in text or f"{metric} " in text
    assert f'adapter_service_backend_up{{server="{name}"}} 1.0' in text
    assert f'server="{name}"' in text.partition(metric)[2]
    assert 'vllm:generation_tokens_total{model_name="package:smollm2-135m"}' in text
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(families) == len(set(families))


def others_are_answered_while_a_reader_goes_away(client: Client) -> None:
    """What was being written for it ends there too."""
    with closing(client.stream("warm", PROMPTS[1], max_tokens=200)) as pieces:
        assert next(pieces)
    assert client.complete("base", PROMPTS[0])
    assert client.health()["engine"]["answering"] is False


# Those that need nothing but a client.
ALONE: tuple[Case, ...] = (
    a_stop_text_ends_it,
    a_stream_says_the_same,
    json_keeps_to_its_schema,
    equal_seeds_draw_equally,
    who_is_not_known_is_not_answered,
    others_are_answered_while_a_reader_goes_away,
)
