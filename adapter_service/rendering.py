"""Conversations to token ids, the same for training and for serving.

A base with a chat template is spoken to in it. A base without one gets plain text: the prompt, a
line break, the answer, the end token. What is trained on is found by rendering the conversation
without and with its last message and comparing tokens: templates' own assistant masks are
all zero for most stock templates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adapter_service.errors import InvalidSampleError
from adapter_service.samples import Message, Sample


@dataclass(frozen=True, slots=True)
class RenderedSample:
    """Token ids, of which those from `completion_start` on are trained on."""

    ids: tuple[int, ...]
    completion_start: int

    @property
    def completion_tokens(self) -> int:
        return len(self.ids) - self.completion_start


class Renderer:
    """Renders for one tokenizer; `template_id` changes when its way of rendering does."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.is_chat = bool(tokenizer.chat_template)
        described = tokenizer.chat_template if self.is_chat else "plain: prompt, line break, answer, end token"
        self.template_id = hashlib.sha256(described.encode()).hexdigest()[:16]

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """What stands before an answer to `messages`, the last of which is the user's."""
        if self.is_chat:
            return self._chat_ids(messages, add_generation_prompt=True)
        return self._plain_ids(_joined(messages) + "\n")

    def text_ids(self, text: str) -> list[int]:
        """A text that the base shall continue, as it stands."""
        return self._plain_ids(text)

    def render(self, sample: Sample, max_tokens: int) -> RenderedSample:
        """Render a training sample.

        Raises:
            InvalidSampleError: longer than `max_tokens` (nothing is ever cut), or nothing to learn.
        """
        *context, answer = sample.messages
        if answer.role != "assistant" or not answer.content.strip():
            raise InvalidSampleError("the last message is not an assistant's with text; there is nothing to learn")
        if not context:
            rendered = self._whole_text(answer.content)
        elif self.is_chat:
            rendered = self._chat(context, answer)
        else:
            rendered = self._plain(context, answer)
        if len(rendered.ids) > max_tokens:
            raise InvalidSampleError(f"{len(rendered.ids)} tokens are more than training.max_seq_length = {max_tokens}")
        return rendered

    def _whole_text(self, text: str) -> RenderedSample:
        start = len(self._plain_ids(""))  # the begin token, where there is one, is not learned
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
        """Drop what a template puts after the end of the turn (a line break, mostly)."""
        eos = self._tokenizer.eos_token_id
        last = max((place for place in range(start, len(ids)) if ids[place] == eos), default=len(ids) - 1)
        return ids[: last + 1]

    def _chat_ids(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> list[int]:
        rendered: str = self._tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
        )
        return self._encode(rendered, special=False)

    def _plain_ids(self, text: str) -> list[int]:
        return self._encode(text, special=True)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=special)["input_ids"]
        return ids


def _joined(messages: Sequence[Message]) -> str:
    return "\n".join(message.content for message in messages)
