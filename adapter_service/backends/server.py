"""The seam between requests and one kind of server: what it has to do, and what it tells of an answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

from adapter_service.engine.generations import ChosenToken
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer: `sampling` has its seed and what is left of its length, `ends` are all tokens that end it."""

    prompt_ids: list[int]
    sampling: Sampling
    ends: frozenset[int]
    adapter: AdapterFiles | None = None
    scale: float = 1.0

    def after(self, tokens: list[int]) -> Wanted:
        """What is still wanted once `tokens` are there."""
        sampling = self.sampling
        left = sampling.max_new_tokens - len(tokens)
        least = max(0, sampling.min_new_tokens - len(tokens))
        return replace(
            self,
            prompt_ids=[*self.prompt_ids, *tokens],
            sampling=replace(sampling, max_new_tokens=left, min_new_tokens=least),
        )


@dataclass(frozen=True, slots=True)
class Said:
    """More of an answer: its newest token, or `text` that so many of them came to, of which the last is known."""

    token: ChosenToken
    text: str | None = None
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """The server has ended an answer by itself."""

    reason: Literal["stop", "length"]


class Server(Protocol):
    """One kind of server. All of it is called on the dispatcher's event loop, but for what is read from elsewhere."""

    kind: str
    tells_tokens: bool
    """Whether an answer's tokens are all known: else none can go on elsewhere, once something was said."""

    @property
    def places(self) -> int:
        """Answers that are asked of it at a time; the others wait here."""

    @property
    def fault(self) -> str | None:
        """Why nobody can be answered now; from any thread."""

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        """Each machine's or process's name, and why it does not answer now; from any thread."""

    def check(self, ask: Ask) -> None:
        """As `Backend.check`; from any thread."""

    async def run(self, base: BaseModel, answers: Callable[[], None]) -> None:
        """Connect, and stay so until cancelled; `answers` is called when it answers, at first or again.

        What was loaded and is lost with a server, it loads again by itself. After a fault that nobody foresaw it is
        called once more.
        """

    async def close(self) -> None:
        """After `run`, for good: no connection and no process stays."""

    async def load(self, files: AdapterFiles) -> None:
        """Have it loaded wherever it is not yet; nothing of it stays where that fails.

        Raises:
            AdapterServiceError: why it is not.
        """

    async def unload(self, key: str) -> None:
        """Have it loaded nowhere; what fails is done at the next opportunity."""

    def answer(self, wanted: Wanted) -> AsyncGenerator[Said | Ended, None]:
        """One answer as it is written; closing it before its end is telling the server so.

        Raises:
            BackendUnreachableError: the connection is lost or could not be made; another try may succeed.
            BackendError: the server refuses.
        """

    async def metrics(self) -> list[tuple[str, str]]:
        """As `Backend.metrics`."""
