"""Sequences that go through the base together: prompts chunk by chunk, then a token for every one of them at each step.

Whose turn it is, what is chosen and what becomes of it are the scheduler's affairs; here is the arithmetic.
All of it runs in torch's inference mode, which whoever calls has begun.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Protocol

import torch

from adapter_service.base_models.threads import threads_for
from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.kv_cache import KvCache, Place
from adapter_service.engine.module_pass import added_by
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, Owner, PrefixCache
from adapter_service.engine.prompt_scores import scored
from adapter_service.engine.prompts import CompiledPrompts, ModulePrompts, Prompts
from adapter_service.engine.sequence import Sequence
from adapter_service.engine.steps import CompiledSteps, ModuleSteps, Steps
from adapter_service.lora.layer import using
from adapter_service.model_utils import BaseModel

if TYPE_CHECKING:
    from adapter_service.decoding.decoder import Decoder
    from adapter_service.engine.recording import Recordings


class Batch(Protocol):
    """What the scheduler asks of the sequences of one base. All of it on the engine's thread."""

    @property
    def rows(self) -> int:
        """How many sequences a step goes on with."""
        ...

    @property
    def cache_share(self) -> float:
        """How much is taken, from 0 to 1, of the room that there is for keys and values; from any thread."""
        ...

    def add(self, sequence: Sequence) -> None:
        """Reserve what the sequence needs; its prompt may be found in part, unless it is to be scored."""
        ...

    def read(self, sequence: Sequence) -> torch.Tensor | None:
        """Take one chunk of its prompt; logits (vocabulary,) of what follows, when that was the last."""
        ...

    def fork(self, sequence: Sequence) -> Sequence:
        """Another one that has come as far."""
        ...

    def join(self, sequence: Sequence) -> None:
        """Let the steps go on with it."""
        ...

    def leave(self, sequence: Sequence) -> None:
        """Let the steps go on without it; it can join again."""
        ...

    def step(self) -> list[tuple[Sequence, torch.Tensor]]:
        """Take everyone's `next_token`; logits (vocabulary,) of what follows it."""
        ...

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        """Free all that it has, if anything; what is `poisoned` may hold values that are no numbers."""
        ...

    def free_memory(self) -> None:
        """Give up what is only kept for speed."""
        ...


def read_whole(batch: Batch, sequence: Sequence) -> torch.Tensor:
    """Add a sequence and take all of its prompt at once; logits (vocabulary,) of what follows."""
    batch.add(sequence)
    logits = None
    while logits is None:
        logits = batch.read(sequence)
    return logits


class MixedBatch:
    """Rows of any adapters in one pass; at most `rows` in a step.

    No row is padded: a prompt goes through by itself, and in a step each row has one token, at its own position.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        rows: int,
        template_id: str,
        prefixes: PrefixCache,
        decoder: Decoder | None = None,
        prompts_by: Decoder | None = None,
        recordings: Recordings | None = None,
    ) -> None:
        """Steps are made by `decoder` where there is one, prompts are read by `prompts_by`, and else by the modules.

        Prompts that are scored are read by the base's own weights: by modules, where `prompts_by` has copies.
        Those of the modules are recorded where there are `recordings`.
        """
        self.base = base
        self._states_of = f"{base.identity} {template_id}"
        self._prefixes = prefixes
        self._cache = KvCache()
        self._places: dict[Sequence, Place] = {}
        cache = self._cache
        modules = ModulePrompts(base, cache)
        self._prompts: Prompts = CompiledPrompts(prompts_by, cache) if prompts_by else modules
        self._scored: Prompts = modules if prompts_by and prompts_by.rounds_prompts else self._prompts
        self._steps: Steps = CompiledSteps(decoder, cache) if decoder else ModuleSteps(base, cache, rows, recordings)

    @property
    def rows(self) -> int:
        return len(self._steps.joined)

    @property
    def cache_share(self) -> float:
        tokens = self._cache.tokens
        return min(1.0, self._cache.taken_tokens / tokens) if tokens else 0.0

    def add(self, sequence: Sequence) -> None:
        place = self._places[sequence] = self._cache.take(sequence.max_tokens)
        scores = sequence.prompt_logprobs is not None
        for block in () if scores else self._prefixes.find(self._owner(sequence), sequence.prompt):
            self._cache.write(place, sequence.seen, block)
            sequence.seen += CHUNK_TOKENS
        sequence.cached_tokens = sequence.seen

    def read(self, sequence: Sequence) -> torch.Tensor | None:
        place, start = self._places[sequence], sequence.seen
        end = min(start + CHUNK_TOKENS, len(sequence.prompt))
        scores, last = sequence.prompt_logprobs is not None, end == len(sequence.prompt)
        reader = self._scored if scores else self._prompts
        logits = reader.read(sequence, place, start, end, keep=end - start if scores else int(last))
        trail = _scored(sequence, logits, end) if scores and logits is not None else []
        if end - start == CHUNK_TOKENS and reader is self._prompts:  # else answers would depend on what was scored
            block = self._cache.read(place, start, end)
            self._prefixes.keep(self._owner(sequence), sequence.prompt[:end], block)
        sequence.prompt_trail += trail
        sequence.seen = end  # last: a chunk that memory ran out for is taken again
        return logits[-1] if last and logits is not None else None

    def fork(self, sequence: Sequence) -> Sequence:
        other = copy.copy(sequence)
        self._places[other] = self._cache.take(sequence.max_tokens)
        self._cache.copy(self._places[sequence], self._places[other], sequence.seen)
        return other

    def join(self, sequence: Sequence) -> None:
        self._steps.join(sequence, self._places[sequence])

    def leave(self, sequence: Sequence) -> None:
        self._steps.leave(sequence)

    def step(self) -> list[tuple[Sequence, torch.Tensor]]:
        sequences, logits = self._steps.step()
        for sequence in sequences:
            sequence.seen += 1
        return list(zip(sequences, logits, strict=True))

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:
        if sequence in self._steps.joined:
            self.leave(sequence)
        if (place := self._places.pop(sequence, None)) is not None:
            self._cache.give_back(place, clean=poisoned)

    def free_memory(self) -> None:
        self._prefixes.forget()
        self._prompts.free_memory()
        self._steps.free_memory()
        if self.base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _owner(self, sequence: Sequence) -> Owner:
        added = added_by(sequence)
        return (self._states_of, added.adapter.key, added.scale) if added else (self._states_of, None, 1.0)


class SingleBatch:
    """One sequence after the other, each with transformers' own cache: for bases that attend in ways of their own."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._caches: dict[Sequence, Any] = {}
        self._taken: dict[Sequence, list[int]] = {}  # what each cache has, or should have
        self._joined: list[Sequence] = []
        self._stepped: dict[Sequence, torch.Tensor] = {}  # by a step that did not come to its end

    @property
    def rows(self) -> int:
        return len(self._joined)

    @property
    def cache_share(self) -> float:
        """Each cache is made for its sequence, and none is kept: there is no room that nobody has taken."""
        return 1.0 if self._caches else 0.0

    def add(self, sequence: Sequence) -> None:
        self._taken[sequence] = []

    def read(self, sequence: Sequence) -> torch.Tensor | None:
        scores, start, end = sequence.prompt_logprobs is not None, sequence.seen, len(sequence.prompt)
        if scores:  # chunk by chunk, for the logits of a whole prompt take a gigabyte
            end = min(start + CHUNK_TOKENS, end)
        if len(taken := self._taken[sequence]) > start:  # memory ran out for the scores of this chunk
            del taken[start:], self._caches[sequence]
        logits = self._logits(sequence, sequence.prompt[start:end], keep=end - start if scores else 1)
        if scores:
            sequence.prompt_trail += _scored(sequence, logits, end)
        sequence.seen = end
        return logits[-1] if end == len(sequence.prompt) else None

    def fork(self, sequence: Sequence) -> Sequence:
        other = copy.copy(sequence)
        self._caches[other] = copy.deepcopy(self._caches[sequence])
        self._taken[other] = list(self._taken[sequence])
        return other

    def join(self, sequence: Sequence) -> None:
        self._joined.append(sequence)

    def leave(self, sequence: Sequence) -> None:
        self._joined.remove(sequence)

    def step(self) -> list[tuple[Sequence, torch.Tensor]]:
        with threads_for(1):
            for sequence in self._joined:
                if sequence not in self._stepped:
                    self._stepped[sequence] = self._logits(sequence, [sequence.next_token])[-1]
        for sequence in self._joined:
            sequence.seen += 1
        return [(sequence, self._stepped.pop(sequence)) for sequence in self._joined]

    def remove(self, sequence: Sequence, *, poisoned: bool = False) -> None:  # noqa: ARG002 - nobody else has its cache
        if sequence in self._joined:
            self.leave(sequence)
        for kept in (self._caches, self._taken, self._stepped):
            kept.pop(sequence, None)

    def free_memory(self) -> None:
        if self._base.device.type == "cuda":
            torch.cuda.empty_cache()

    def _logits(self, sequence: Sequence, tokens: list[int], *, keep: int = 1) -> torch.Tensor:
        """Logits (keep, vocabulary) of what follows the last of `tokens`."""
        from transformers import DynamicCache

        # Taken out for the pass: one that fails leaves some layers ahead of others, and not all kinds can be cut.
        cache, taken = self._caches.pop(sequence, None), self._taken[sequence]
        ids = tokens
        if cache is None:
            cache, ids = DynamicCache(config=self._base.model.config), [*taken, *tokens]
        inputs = torch.tensor([ids], device=self._base.device)
        with using(added_by(sequence)):
            output = self._base.model(input_ids=inputs, past_key_values=cache, use_cache=True, logits_to_keep=keep)
        self._caches[sequence] = cache
        taken += tokens
        logits: torch.Tensor = output.logits[0]
        return logits


def _scored(sequence: Sequence, logits: torch.Tensor, end: int) -> list[ChosenToken]:
    """The tokens behind those of a chunk, by its logits (tokens, vocabulary); `end` is where it ends in the prompt."""
    begin = end - len(logits) + 1
    return scored(logits, sequence.prompt[begin : end + 1], sequence.prompt_logprobs or 0)
