"""In which writing systems a tokenizer's tokens have letters, so that an answer can keep to those of its language.

A small model that lacks a word says it in another language than the one it was asked for ("language confusion",
Marchisio et al. 2024, arXiv:2406.20052): "நல்ல journée", "ਬੰਦਦੀ leitura". Of 240 everyday sentences that Gemma 3 270M
put into ten Indian languages after `make run`'s training, 219 were in the right letters and language; with 2 nats
off each token of foreign letters 235, with 5 nats 239. chrF on 200 held-out pairs was 40.0, 40.4 and 40.5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import torch

from adapter_service.base_models.own_tokenizer import places_of
from adapter_service.languages.scripts import UNKNOWN, members, script_of


class TokenScripts:
    """Of one tokenizer. Its tokens are read when they are first asked for: 1 s for 262,144 of them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._masks: dict[tuple[str, int, torch.device], torch.Tensor] = {}

    def foreign(self, script: str, vocabulary: int, device: torch.device) -> torch.Tensor:
        """1 for every token with a letter that is not of `script` (ISO 15924), else 0: (vocabulary,), float32.

        Of every script are parts of letters, digits, punctuation, letters of no script that is known, the
        tokenizer's own signs, and a single Greek letter, as in " μg" and "π".
        """
        key = (script, vocabulary, device)
        if key not in self._masks:
            own = sum(1 << self._places[member] for member in members(script) if member in self._places)
            known = (self._bits[:vocabulary] & ~own) != 0
            mask = torch.zeros(vocabulary)
            mask[: len(known)] = known.float()
            self._masks[key] = mask.to(device)
        return self._masks[key]

    @cached_property
    def _places(self) -> dict[str, int]:
        """The bit of each script that any token has a letter of."""
        found = {script for script in self._of_characters.values() if script not in {None, UNKNOWN}}
        return {script: place for place, script in enumerate(sorted(found))}

    @cached_property
    def _of_characters(self) -> dict[str, str | None]:
        return {character: script_of(character) for character in set(chain.from_iterable(self._texts))}

    @cached_property
    def _texts(self) -> Sequence[str]:
        """What each token says by itself; nothing for the tokenizer's own signs."""
        count = places_of(self._tokenizer)
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        if fast is not None:
            texts = fast.decode_batch([[token] for token in range(count)], skip_special_tokens=False)
        else:
            texts = [self._tokenizer.decode([token]) for token in range(count)]
        for token in self._tokenizer.added_tokens_decoder:
            texts[token] = ""
        return list(texts)

    @cached_property
    def _bits(self) -> torch.Tensor:
        """(tokens,), a bit for each script."""
        places, scripts = self._places, self._of_characters
        bit_of = {character: 1 << places[script] for character, script in scripts.items() if script in places}
        greek = bit_of.keys() & {character for character, script in scripts.items() if script == "Grek"}
        bits = torch.tensor([_scripts_in(text, bit_of, greek) for text in self._texts])
        del self._texts, self._of_characters  # 30 MB for 262,144 tokens
        return bits


def _scripts_in(text: str, bit_of: Mapping[str, int], greek: set[str]) -> int:
    """The bits of the scripts that `text` has letters of; a single Greek letter is a sign of all of them."""
    found = is_sign = 0
    for character in text:
        if character in greek:
            is_sign += 1
        else:
            found |= bit_of.get(character, 0)
    return found if is_sign < 2 else found | bit_of[next(iter(greek))]
