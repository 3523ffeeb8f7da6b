"""How long a request may be, and which tokens there are: the same for every route that generates."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from adapter_service.errors import InvalidParameterError, PromptTooLongError
from adapter_service.settings import ServingSettings


def check_wanted(wanted: int, field: str, serving: ServingSettings) -> None:
    """What `field` asks for, beside the settings.

    Raises:
        InvalidParameterError: `field` asks for more new tokens than the settings allow.
    """
    limit = serving.max_new_tokens_limit
    if wanted > limit:
        raise InvalidParameterError(
            f"'{field}' is {wanted}; this service allows 1 to {limit} (serving.max_new_tokens_limit): ask for fewer",
            parameter=field,
        )


def check_prompt(tokens: int, serving: ServingSettings) -> None:
    """How long a prompt is, beside the settings.

    Raises:
        PromptTooLongError: a prompt has more tokens than the settings allow.
    """
    limit = serving.max_prompt_tokens
    if tokens > limit:
        raise PromptTooLongError(
            f"the prompt has {tokens} tokens; this service allows {limit} (serving.max_prompt_tokens): shorten it"
        )


def check_token_ids(given: Mapping[str, Iterable[int]], base: Any) -> None:
    """Ids by the field that has them; the first that the base lacks is told.

    Raises:
        InvalidParameterError: the base lacks one.
    """
    for field, ids in given.items():
        if (unknown := next((token for token in ids if not 0 <= token < base.vocabulary), None)) is not None:
            raise InvalidParameterError(
                f"'{field}' has {unknown}; {base.public_name} has the tokens 0 to {base.vocabulary - 1}: "
                "POST /tokenize says which is which",
                parameter=field,
            )
