"""The rows that every trainer is given: real text, as long and as uneven as instructions and answers are.

A row is a passage of the sample corpus (sentences beside their translations), cut to a length that is drawn: the
first part is its prompt, the rest is trained on. Lengths are log-normal between 24 and 512 tokens, their median 64;
two thirds of a row are prompt.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from adapter_service.errors import InvalidSampleError
from adapter_service.measuring.holdout import split_source
from adapter_service.rendering import RenderedSample, Renderer
from adapter_service.samples import Sample
from adapter_service.settings import Settings

SHORTEST, LONGEST = 24, 512
_MEDIAN, _SPREAD = 64, 0.8
_PROMPT_SHARE = 0.65


def make_rows(
    settings: Settings, tokenizer: Any, count: int, *, seed: int, held_out: bool = False
) -> list[RenderedSample]:
    """`count` rows for this tokenizer, the same for the same seed; the held-out ones share no sentence with others."""
    drawn = random.Random(seed)
    tokens = _tokens(settings, tokenizer, drawn, held_out=held_out)
    start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    lengths = [_length(drawn) for _ in range(count)]
    return [
        RenderedSample([*start, *islice(tokens, length - len(start))], round(length * _PROMPT_SHARE))
        for length in lengths
    ]


def recipe_rows(renderer: Renderer, settings: Settings, samples: Iterable[Sample], count: int) -> list[RenderedSample]:
    """The first `count` samples as `make run` renders them, without those that are too long to train on."""

    def fitting() -> Iterator[RenderedSample]:
        for sample in samples:
            with suppress(InvalidSampleError):
                yield renderer.render(sample, settings.training.max_seq_length)

    return list(islice(fitting(), count))


def write_rows(path: Path, rows: list[RenderedSample]) -> None:
    path.write_text(json.dumps([[list(row.ids), row.completion_start] for row in rows]))


def read_rows(path: Path) -> list[RenderedSample]:
    return [RenderedSample(ids, start) for ids, start in json.loads(path.read_text())]


def _length(drawn: random.Random) -> int:
    return round(min(LONGEST, max(SHORTEST, drawn.lognormvariate(0, _SPREAD) * _MEDIAN)))


def _tokens(settings: Settings, tokenizer: Any, drawn: random.Random, *, held_out: bool) -> Iterator[int]:
    """The corpus, a sentence and its translation on a line each, in an order that is drawn, over and over."""
    kept, rest = split_source(settings, settings.data.source)
    pairs = kept if held_out else rest
    while True:
        drawn.shuffle(pairs)
        for pair in pairs:
            yield from tokenizer(f"{pair.prompt}\n{pair.completion}\n", add_special_tokens=False)["input_ids"]
