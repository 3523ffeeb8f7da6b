"""One answer under way, as the base sees it: the tokens before it, who adds to them, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from adapter_service.engine.generations import ChosenToken

if TYPE_CHECKING:
    from adapter_service.lora.resident import ResidentAdapter


@dataclass(eq=False, slots=True)
class Sequence:
    """`max_tokens` is of prompt and answer. Of its tokens the first `seen` have been through the base.

    `next_token` is the one chosen last, which has not; `cached_tokens` of the prompt were found in the prefix cache.
    Where `prompt_logprobs` is a number, the prompt's own tokens but for the first come into `prompt_trail` as it is
    read, each with so many of the likeliest.
    """

    prompt: list[int]
    max_tokens: int
    adapter: ResidentAdapter | None = None
    scale: float = 1.0
    seen: int = 0
    next_token: int = 0
    cached_tokens: int = 0
    prompt_logprobs: int | None = None
    prompt_trail: list[ChosenToken] = field(default_factory=list)

    @property
    def added(self) -> ResidentAdapter | None:
        """The adapter that is added: without strength it is none, whatever its matrices hold."""
        return self.adapter if self.scale else None
