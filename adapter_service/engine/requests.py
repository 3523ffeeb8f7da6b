"""What is asked of the engine; no torch in here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from adapter_service.languages import Language
from adapter_service.settings import ServingSettings

if TYPE_CHECKING:
    from adapter_service.adapters import Version
    from adapter_service.engine.constraints import Constraint


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen. Greedy unless `do_sample`.

    `repetition_penalty` divides the positive and multiplies the negative logits of tokens that
    *this answer* already has (Keskar et al. 2019, arXiv:1909.05858, there with the prompt's too:
    an answer in the prompt's words is not a fault here). `presence_penalty` is taken off the logits of
    those tokens once, `frequency_penalty` for each time that they are there, and `logit_bias`, by token,
    is added; all three as in OpenAI's API. `top_k` 0, `top_p` 1.0 and `min_p` 0.0 choose among all;
    `min_p` leaves out what has less than that share of the likeliest token's probability.
    `foreign_script_penalty`, in nats, is taken off the logits of tokens that have letters of another
    writing system than `script` (ISO 15924); a `script` of None takes nothing off.
    `constraint` allows what its grammar does. `return_tokens` costs a sum over the vocabulary for each
    token and changes none of them; `top_logprobs` then tells so many of the likeliest beside each.
    """

    max_new_tokens: int = 100
    min_new_tokens: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    script: str | None = None
    foreign_script_penalty: float = 0.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra_eos_ids: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    return_tokens: bool = False
    top_logprobs: int = 0


def default_sampling(serving: ServingSettings, language: Language | None, *, max_new_tokens: int) -> Sampling:
    """How the service decodes an answer in `language` (None if not known) where a request says nothing: greedily."""
    return Sampling(
        max_new_tokens=max_new_tokens,
        repetition_penalty=serving.repetition_penalty,
        script=language.script if language else None,
        foreign_script_penalty=serving.foreign_script_penalty,
    )


@dataclass(frozen=True, slots=True)
class AdapterFiles:
    """An immutable version's folder; `key` names its content and is what the engine remembers it by.

    `reference` is what people call it.
    """

    key: str
    folder: Path
    reference: str

    @classmethod
    def of(cls, version: Version) -> AdapterFiles:
        return cls(version.key, version.path, version.reference)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: `count` answers to one prompt, by one adapter at `scale` times its strength, or by the base.

    Answers to one prompt differ by their random numbers: the first has the sampling's seed, the next seed + 1.
    A number of `prompt_logprobs` asks for what the prompt's own tokens are given, each with so many of the likeliest;
    nothing of the prompt then comes from the prefix cache.
    """

    prompt_ids: list[int]
    sampling: Sampling
    adapter: AdapterFiles | None = None
    scale: float = 1.0
    count: int = 1
    prompt_logprobs: int | None = None

    def sampling_of(self, index: int) -> Sampling:
        """How the tokens of the `index`-th answer are chosen."""
        seed = self.sampling.seed
        return self.sampling if seed is None else replace(self.sampling, seed=seed + index)
