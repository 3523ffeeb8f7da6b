"""From the fields of a request under /v1 to how tokens are chosen.

What a request leaves out is as in OpenAI's API: temperature 1, no penalty. One addition: free text of an adapter
has the service's own `serving.repetition_penalty` and `serving.foreign_script_penalty`, as in /generate-lite,
because adapters are judged and let live with them; at temperature 0 both routes then give the same answer. The
base, and answers that shall be JSON or may be calls of tools, have neither: a penalty on what was said would be
one on the next brace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adapter_service.api.schemas.openai import SamplingFields
from adapter_service.api.token_limits import check_prompt, check_token_ids, check_wanted
from adapter_service.engine.requests import Sampling
from adapter_service.errors import InvalidParameterError, PromptTooLongError
from adapter_service.languages import Language
from adapter_service.settings import ServingSettings


def sampling_of(
    fields: SamplingFields, max_new_tokens: int, serving: ServingSettings, language: Language | None, *, ours: bool
) -> Sampling:
    """`ours`: the service's own penalties hold where `fields` say nothing.

    Raises:
        InvalidParameterError: fields do not fit together.
    """
    if (fields.min_tokens or 0) > max_new_tokens:
        raise InvalidParameterError(
            f"'min_tokens' is {fields.min_tokens}, more than the {max_new_tokens} tokens that an answer may have; "
            "lower the one or raise the other",
            parameter="min_tokens",
        )
    temperature = 1.0 if fields.temperature is None else fields.temperature
    return Sampling(
        max_new_tokens=max_new_tokens,
        min_new_tokens=fields.min_tokens or 0,
        do_sample=temperature > 0.0,
        temperature=temperature,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=max(fields.top_k or 0, 0),
        min_p=fields.min_p or 0.0,
        repetition_penalty=_given(fields.repetition_penalty, serving.repetition_penalty if ours else 1.0),
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias={int(token): bias for token, bias in (fields.logit_bias or {}).items()},
        script=language.script if language else None,
        foreign_script_penalty=_given(fields.foreign_script_penalty, serving.foreign_script_penalty if ours else 0.0),
        seed=None if fields.seed is None else fields.seed % 2**63,  # one below 0 is as good as another
        stop=fields.stop_texts(),
        extra_eos_ids=frozenset(fields.stop_token_ids or ()),
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def room_for(prompt_ids: Sequence[int], wanted: int | None, field: str, serving: ServingSettings, base: Any) -> int:
    """How many tokens may follow the prompt: as many as are wanted, else what the base and the settings leave.

    Raises:
        InvalidParameterError: more are wanted than the settings allow.
        PromptTooLongError: the prompt leaves no room, or too little.
    """
    limit, context, found = serving.max_new_tokens_limit, base.context_tokens, len(prompt_ids)
    if wanted is not None:
        check_wanted(wanted, field, serving)
    check_prompt(found, serving)
    least = 1 if wanted is None else wanted
    if found + least > context:
        raise PromptTooLongError(
            f"the prompt has {found} tokens and {least} are to follow; {base.name} takes {context} in all: "
            f"shorten the prompt or lower '{field}'"
        )
    return wanted if wanted is not None else min(limit, context - found)


def check_tokens(fields: SamplingFields, base: Any) -> None:
    """What can be checked only with the resident base.

    Raises:
        InvalidParameterError: a token id that it lacks.
    """
    biased = map(int, fields.logit_bias or ())
    check_token_ids({"stop_token_ids": fields.stop_token_ids or (), "logit_bias": biased}, base)
