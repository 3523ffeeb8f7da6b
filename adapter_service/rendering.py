"""Conversations to token ids, the same for training and for serving.

A base with a chat template is spoken to in it. A base without one gets plain text: the prompt, a
line break, the answer, the end token. What is trained on is found by rendering the conversation
without and with its last message and comparing tokens: templates' own assistant masks are
all zero for most stock templates.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from adapter_service.errors import BaseModelError, InvalidParameterError, InvalidSampleError
from adapter_service.samples import Message, Sample


@dataclass(frozen=True, slots=True)
class RenderedSample:
    """Token ids, of which those from `completion_start` on are trained on."""

    ids: Sequence[int]
    completion_start: int

    @property
    def completion_tokens(self) -> int:
        return len(self.ids) - self.completion_start


class Renderer:
    """Renders for one tokenizer; `template_id` changes when its way of rendering does."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise BaseModelError("the tokenizer has no end token, so no answer could end; set eos_token in its config")
        self._tokenizer = tokenizer
        self._special_ids = {tokenizer.eos_token_id} | {
            token for token, added in tokenizer.added_tokens_decoder.items() if added.special
        }
        self.is_chat = bool(tokenizer.chat_template)
        self.takes_tools = self.is_chat and re.search(r"\btools\b", tokenizer.chat_template) is not None
        self.end_ids = self._end_ids()
        described = tokenizer.chat_template if self.is_chat else "plain: prompt, line break, answer, end token"
        self.template_id = hashlib.sha256(described.encode()).hexdigest()[:16]

    @cached_property
    def tokenizer_id(self) -> str:
        """A hash that changes when text would become other tokens; the first time it takes up to a second."""
        fast = getattr(self._tokenizer, "backend_tokenizer", None)
        if fast is None:
            described = json.dumps(sorted(self._tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
        else:
            # What stands before is how the last call padded and truncated.
            described = fast.to_str()
            described = described[described.index('"added_tokens"') :]
        return hashlib.sha256(described.encode()).hexdigest()

    def _end_ids(self) -> frozenset[int]:
        """What ends an answer: the end token, and the end of turn that a chat template writes and training teaches."""
        ends = {self._tokenizer.eos_token_id}
        if self.is_chat:
            with contextlib.suppress(TemplateError):
                ends.add(self._chat([Message("user", "a")], Message("assistant", "b")).ids[-1])
        return frozenset(ends)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What stands before an answer to `messages`, the last of which is the user's.

        Raises:
            InvalidParameterError: the chat template takes no such conversation.
        """
        if self.is_chat:
            try:
                return self._chat_ids(messages, add_generation_prompt=True)
            except TemplateError as error:
                raise InvalidParameterError(f"the base's chat template refuses these messages: {error}") from error
        return self._plain_ids(_joined(messages) + "\n")

    def template_ids(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> list[int]:
        """What the chat template makes of messages in its own words, up to where the answer begins.

        Raises:
            TemplateError: it takes no such conversation.
        """
        return self._templated(messages, tools=tools, add_generation_prompt=True)

    def text_ids(self, text: str) -> list[int]:
        """A text that the base shall continue, as it stands."""
        return self._plain_ids(text)

    def render(self, sample: Sample, max_tokens: int) -> RenderedSample:
        """Render a training sample.

        Raises:
            InvalidSampleError: longer than `max_tokens` (nothing is ever cut), nothing to learn, or
                a conversation that the chat template does not take.
        """
        *context, answer = sample.messages
        if answer.role != "assistant" or not answer.content.strip():
            raise InvalidSampleError("the last message is not an assistant's with text; there is nothing to learn")
        if not context:
            rendered = self._whole_text(answer.content)
        elif self.is_chat:
            try:
                rendered = self._chat(context, answer)
            except TemplateError as error:
                raise InvalidSampleError(f"the base's chat template refuses this conversation: {error}") from error
        else:
            rendered = self._plain(context, answer)
        if len(rendered.ids) > max_tokens:
            raise InvalidSampleError(f"{len(rendered.ids)} tokens are more than training.max_seq_length = {max_tokens}")
        return rendered

    def _whole_text(self, text: str) -> RenderedSample:
        # The begin token is not learned, nor the first token where there is none: nothing predicts it.
        start = max(1, len(self._plain_ids("")))
        return RenderedSample((*self._plain_ids(text), self._tokenizer.eos_token_id), start)

    def _plain(self, context: Sequence[Message], answer: Message) -> RenderedSample:
        prompt = self._plain_ids(_joined(context) + "\n")
        whole = self._plain_ids(_joined(context) + "\n" + answer.content)
        if whole[: len(prompt)] != prompt:  # a token reaches over the border: cut it there
            whole = prompt + self._encode(answer.content, special=False)
        return RenderedSample((*whole, self._tokenizer.eos_token_id), len(prompt))

    def _chat(self, context: Sequence[Message], answer: Message) -> RenderedSample:
        prompt = self._chat_ids(context, add_generation_prompt=True)
        whole = self._chat_ids([*context, answer], add_generation_prompt=False)
        if whole[: len(prompt)] != prompt:
            # The template rewrites what came before (drops thoughts, say): the rendering that
            # serves is the right one to continue.
            whole = [*prompt, *self._encode(answer.content, special=False), self._tokenizer.eos_token_id]
        return RenderedSample(tuple(self._until_end_of_turn(whole, len(prompt))), len(prompt))

    def _until_end_of_turn(self, ids: list[int], start: int) -> list[int]:
        """Drop the blanks that a template puts after the end of the turn; where it marks no end, mark it."""
        last = len(ids)
        while last > start and not self._tokenizer.decode(ids[last - 1 : last]).strip():
            last -= 1
        if last > start and ids[last - 1] in self._special_ids:
            return ids[:last]
        return [*ids[:last], self._tokenizer.eos_token_id]

    def _chat_ids(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        described = [{"role": message.role, "content": message.content} for message in messages]
        return self._templated(described, add_generation_prompt=add_generation_prompt)

    def _templated(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[int]:
        rendered: str = self._tokenizer.apply_chat_template(list(messages), tokenize=False, **options)
        return self._encode(rendered, special=False)

    def _plain_ids(self, text: str) -> list[int]:
        return self._encode(text, special=True)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)
