"""A run's checkpoints in its hands: found or thrown away at the start, saved on the way and when the run is stopped.

How a checkpoint lies on the disk is `training/checkpoint.py`'s affair.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapter_service.errors import JobCancelledError, NotReadyError

if TYPE_CHECKING:
    from adapter_service.training.state import TrainingState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunCheckpoint:
    """The checkpoints in `folder` of the run called `run_key`; `note` tells whoever follows the run.

    `made_with` is what the bytes of a result depend on beside its recipe: dtype, threads, token budget.
    A checkpoint of another run or release is an error, or with `discards_other` thrown away: a job cannot
    be given back the samples or the settings that it began with, and shall not fail for it.
    """

    folder: Path
    run_key: str
    note: Callable[[str], None]
    made_with: Mapping[str, Any]
    discards_other: bool = False

    def load(self, state: TrainingState) -> None:
        """Go on where the run was left, if it was begun before.

        Raises:
            TrainingError: the checkpoint is of another run or release, and is not to be thrown away.
        """
        from adapter_service.training.checkpoint import load_checkpoint

        configured = state.token_budget
        made_with = load_checkpoint(
            state, self.folder, run_key=self.run_key, discards_other=self.discards_other, note=self.note
        )
        if made_with is not None:
            self.note(f"going on from the checkpoint at step {state.step}")
            self._compare(made_with, state, configured)

    def save(self, state: TrainingState) -> None:
        """Save, or say that it was not possible: hours of training are worth more than one checkpoint."""
        from safetensors import SafetensorError

        from adapter_service.training.checkpoint import save_checkpoint

        try:
            save_checkpoint(state, self.folder, run_key=self.run_key, made_with=self.made_with)
        except (OSError, SafetensorError) as error:
            logger.warning("no checkpoint at step %s", state.step, exc_info=True)
            self.note(f"no checkpoint could be written at step {state.step} ({type(error).__name__}); going on")

    @contextmanager
    def saved_when_stopped(self, state: TrainingState) -> Iterator[None]:
        """Keep every step that is done when the run is stopped.

        Weights change only when a step is whole; gradients of the one under way are not kept.
        """
        try:
            yield
        except (JobCancelledError, NotReadyError):
            if state.step:
                self.save(state)
            raise

    def _compare(self, made_with: Mapping[str, Any], state: TrainingState, configured_budget: int) -> None:
        """Say what is different now: the recipe is the same, but the result may differ in its last bits."""
        if made_with.get("token_budget") != configured_budget:
            state.token_budget = configured_budget
        elif state.token_budget != configured_budget:
            self.note(f"the token budget stays at {state.token_budget}, because memory was short before")
        changed = [
            f"{name} was {made_with.get(name)} and is {now}"
            for name, now in self.made_with.items()
            if made_with.get(name) != now
        ]
        if changed:
            self.note(f"since the checkpoint {'; '.join(changed)}: the result may differ in its last bits")
