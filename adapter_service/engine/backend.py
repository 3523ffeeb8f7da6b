"""The seam to servers of others: what answers in the scheduler's place. No torch in here."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures, Reading
from adapter_service.engine.requests import AdapterFiles, Ask

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel


class Backend(Protocol):
    """Answers by adapters of a base that the engine has too, to train, to measure and to make tokens of prompts.

    Every method may be called from any thread; those that say what is now never wait.
    """

    @property
    def kind(self) -> str:
        """As in the setting `backend.kind`."""

    @property
    def servers(self) -> list[tuple[str, str | None]]:
        """Each server's name, and why it does not answer now."""

    @property
    def fault(self) -> str | None:
        """Why nobody can be answered now."""

    @property
    def waiting(self) -> int:
        """Requests that nobody has taken up yet."""

    @property
    def active(self) -> int:
        """Answers that are being written."""

    def reading(self) -> Reading:
        """As the engine's own."""

    def resident_adapters(self) -> list[str]:
        """Keys of the versions that are loaded, the one used longest ago first."""

    def when_answering(self, listener: Callable[[], None]) -> None:
        """Call `listener`, which must return at once, whenever a server answers that did not; set it before `start`."""

    def start(self, base: BaseModel, measures: Measures) -> None:
        """Answers are for `base`, which has been loaded; from now on it connects, or starts its server."""

    def check(self, ask: Ask) -> None:
        """Whether it can be answered there at all.

        Raises:
            InvalidParameterError: something is asked that these servers have not.
            PromptTooLongError: prompt and answer do not fit there.
            BackendUnreachableError: nobody can be answered now.
        """

    def submit(self, generation: Generation) -> None:
        """Answer it, and tell it.

        Raises:
            BusyError: as many wait as may.
            NotReadyError: the service is stopping.
            UnknownAdapterError: the version was removed a moment ago.
        """

    def load(self, files: AdapterFiles) -> None:
        """Have a version loaded that is about to go live, and wait until it is.

        Raises:
            AdapterServiceError: why it cannot be, or not now.
        """

    def pin(self, files: AdapterFiles) -> None:
        """As `load`; it then stays until `unpin`."""

    def unpin(self, key: str) -> None:
        """Let it go when its place is wanted."""

    def look_at_live(self) -> None:
        """Other versions went live: load those, and let go of what they replaced once its last answer has ended."""

    def stop(self, *, drain_seconds: float) -> None:
        """Take no more; answers under way have so many seconds. With none, it returns when they have ended."""

    def metrics(self) -> list[tuple[str, str]]:
        """Each server's name and its own metrics in Prometheus' text format, of those that tell any within a second."""
