"""One answer token by token, as RL trainers want it."""

from __future__ import annotations

from adapter_service.adapters import Version
from adapter_service.api.schemas.generation import SampledWith, TokenDetails
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import TokenTrail
from adapter_service.engine.requests import Ask


def token_details(
    engine: Engine, ask: Ask, trail: TokenTrail, version: Version | None, template_id: str | None
) -> TokenDetails:
    """`template_id` is of what rendered the prompt; None where it went in as it stands."""
    base = engine.base
    drawn = [logprob for logprob in trail.sampling_logprobs if logprob is not None]
    return TokenDetails(
        prompt_ids=ask.prompt_ids,
        completion_ids=trail.ids,
        logprobs=trail.logprobs,
        sampling_logprobs=drawn if len(drawn) == len(trail.ids) else None,
        sampling=SampledWith.model_validate(ask.sampling, from_attributes=True).model_copy(
            update={"lora_scale": ask.scale}
        ),
        base_model=base.public_name,
        base_sha=base.identity,
        tokenizer_sha=engine.renderer.tokenizer_id,
        template_sha=template_id,
        adapter_key=version.key if version else None,
    )
