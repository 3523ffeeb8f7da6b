"""Training over a sampled vocabulary beside training over all of it, on the rows of `make run`.

Both begin with the same adapter and take the same steps on the same samples, a few at a time and in turns, by the
recipe's own schedule. It answers three questions. How much faster is a step? Is the full loss on held-out text as
good after as many steps, and do words of other scripts, which are pushed down less often, come up in answers? And
is the loss lower in the same *time*: a third run takes as many more steps as the speed allows, on more samples and
by a schedule of its own. It goes by the measured ratio of speeds, so that noise of its own run is not in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from rich.console import Console

from adapter_service.adapter_names import BASE
from adapter_service.cli.quickstart import RECIPE
from adapter_service.engine.engine import Engine
from adapter_service.engine.loading import base_loader
from adapter_service.engine.turn import Turn
from adapter_service.errors import JobCancelledError
from adapter_service.jobs.learning import lora_config
from adapter_service.languages import Language
from adapter_service.languages.answers import words
from adapter_service.languages.scripts import count, members
from adapter_service.lora.adapter import Adapter
from adapter_service.measuring.evaluation import Evaluation, choose_pairs, evaluate
from adapter_service.measuring.evaluation_run import translations
from adapter_service.measuring.holdout import split_source
from adapter_service.measuring.provenance import Result, write_results
from adapter_service.rendering import RenderedSample
from adapter_service.samples import Sample
from adapter_service.settings import LossSettings, Settings, TrainingSettings, load_settings
from adapter_service.training.batching import sequences_per_step
from adapter_service.training.evaluation import score
from adapter_service.training.loop import Hooks, train
from adapter_service.training.memory import copied_head_rows
from adapter_service.training.state import TrainingState, begin
from adapter_service.training.vocabulary import tokens_of
from benchmarks.training_rows import recipe_rows

RESULTS = Path("benchmarks/results/training_vocabulary.json")
LOSS_RATIO = 1.01
_TITLE, _PEER = "Sampled vocabulary", "the loss over all of it"
_ALL, _SAMPLED, _AS_LONG = "all of it", "sampled", "sampled, for the same time"
_WORDS_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Size:
    """Samples that both train on, in how many turns; held-out ones for the loss, and for answers in each language."""

    samples: int
    rounds: int
    held_out: int
    answers_per_language: int


QUICK = Size(samples=504, rounds=6, held_out=200, answers_per_language=3)
FULL = Size(samples=RECIPE["max_train_samples"], rounds=20, held_out=1000, answers_per_language=10)


@dataclass
class Side:
    """A run over one vocabulary, and the speed of each of its rounds."""

    loss: LossSettings
    training: TrainingSettings
    samples: Sequence[RenderedSample]
    state: TrainingState
    tokens_per_second: list[float] = field(default_factory=list)

    def go_on(self, turn: Turn, *, until: int) -> None:
        """Train up to that step. The run's schedule is that of all its steps, so it is stopped and not shortened."""
        before = (self.state.totals.tokens, self.state.totals.seconds)
        hooks = Hooks(pause=turn.pause, cancelled=lambda: self.state.step >= until)
        try:
            train(turn.base, self.samples, self.state, self.training, hooks, self.loss)
        except JobCancelledError:
            if self.state.step < until:
                raise
        after = self.state.totals
        self.tokens_per_second.append((after.tokens - before[0]) / (after.seconds - before[1]))


@dataclass(frozen=True, slots=True)
class Judged:
    """What a run is on held-out text; `leaks` are the words of other scripts, answer by answer."""

    loss: float
    answers: Evaluation
    leaks: Sequence[Sequence[str]]

    @property
    def leaking(self) -> int:
        return sum(bool(found) for found in self.leaks)


def run(*, full: bool, console: Console | None = None, results: Path = RESULTS) -> None:
    """Train three times, and write the results."""
    console = console or Console()
    settings = load_settings()
    # What a loss leaves likely is seen where foreign letters cost nothing.
    serving = settings.serving.model_copy(update={"foreign_script_penalty": 0.0})
    settings = settings.model_copy(update={"serving": serving})
    engine = Engine(base_loader(settings))
    engine.start()
    try:
        engine.wait_until_ready()
        rows = engine.run(lambda turn: _measure(turn, settings, FULL if full else QUICK, console))
    finally:
        engine.stop()
    write_results(results, rows)
    for row in rows:
        beside = "" if row.ratio is None else f", ratio {row.ratio:.4f}"
        console.print(f"{row.measure}: {row.figure:.4g} {row.unit}{beside}", markup=False, soft_wrap=True)


def _measure(turn: Turn, settings: Settings, size: Size, console: Console) -> list[Result]:
    held_out, rest = split_source(settings, settings.data.source)
    random.Random(0).shuffle(held_out)
    random.Random(0).shuffle(rest)

    per_step = sequences_per_step(settings.training)
    steps = size.samples // per_step
    over = {_ALL: "all", _SAMPLED: "sampled", _AS_LONG: "sampled"}
    losses = {name: settings.loss.model_copy(update={"vocabulary": vocabulary}) for name, vocabulary in over.items()}
    samples = recipe_rows(turn.renderer, settings, rest, size.samples)
    sides = {name: _side(turn, settings, losses[name], samples, steps) for name in (_ALL, _SAMPLED)}
    _check_differs(turn, sides[_SAMPLED])
    for number in range(size.rounds):
        for name in sorted(sides, reverse=number % 2 == 1):
            sides[name].go_on(turn, until=steps * (number + 1) // size.rounds)
        speeds = ", ".join(f"{name} {side.tokens_per_second[-1]:.1f} tokens/s" for name, side in sides.items())
        console.print(f"round {number + 1} of {size.rounds}: {speeds}", soft_wrap=True)
    more = max(1, round(steps * faster(sides[_SAMPLED], sides[_ALL])))
    sides[_AS_LONG] = _side(
        turn, settings, losses[_AS_LONG], recipe_rows(turn.renderer, settings, rest, more * per_step), more
    )
    sides[_AS_LONG].go_on(turn, until=more)
    scored = recipe_rows(turn.renderer, settings, held_out, size.held_out)
    judge = _judge(turn, settings, scored, choose_pairs(held_out, size.answers_per_language))
    judged = {name: judge(side.state.adapter) for name, side in sides.items()}
    for name, found in judged.items():
        leaked = " ".join([word for answer in found.leaks for word in answer][:_WORDS_SHOWN])
        console.print(f"{name}: words of other scripts: {leaked or 'none'}", markup=False, soft_wrap=True)
    return rows_of(sides, judged)


def _side(turn: Turn, settings: Settings, loss: LossSettings, samples: Sequence[RenderedSample], steps: int) -> Side:
    # Where the corpus is shorter than the run, it is gone through again.
    epochs = -(-steps * sequences_per_step(settings.training) // len(samples))
    training = settings.training.model_copy(
        update={"max_steps": steps, "num_epochs": epochs, "save_steps": steps + 1, "preset": "fast"}
    )
    adapter = Adapter.fresh(lora_config(settings), turn.layers, seed=training.seed, device=turn.base.device)
    return Side(loss, training, samples, begin(adapter, training))


def _check_differs(turn: Turn, sampled: Side) -> None:
    if not copied_head_rows(turn.base, sampled.loss, lambda: len(tokens_of(sampled.samples))):
        raise SystemExit(
            f"{turn.base.name}: the samples' tokens and {sampled.loss.sampled_tokens} more are all that it has, so "
            "there is nothing to compare; lower loss.sampled_tokens, or take a base with a larger one"
        )


def _judge(
    turn: Turn, settings: Settings, held_out: Sequence[RenderedSample], pairs: Sequence[Sample]
) -> Callable[[Adapter], Judged]:
    """Scores an adapter by the full loss, and by its answers on `pairs`."""

    def judge(trained: Adapter) -> Judged:
        adapter = trained.frozen_copy(turn.base.adapter_dtype)

        def generate(prompts: list[str], name: str) -> list[str]:
            # The base's answers are no question here.
            return [""] * len(prompts) if name == BASE else translations(turn, settings, prompts, adapter)

        budget = settings.training.token_budget
        losses = score(turn.base, adapter, held_out, budget_tokens=budget, pause=turn.pause)
        answers = evaluate(pairs, generate, adapter="trained", training_pairs=[])
        return Judged(losses.per_token, answers, [foreign_words(r.answer, r.source, r.language) for r in answers.rows])

    return judge


def foreign_words(answer: str, source: str, language: Language) -> list[str]:
    """Words of `answer` in another script than its language's; but not what it copies from `source`, as names are."""
    own, copied = members(language.script), set(words(source))
    return [word for word in words(answer) if word not in copied and not count(word).keys() <= own]


def rows_of(sides: Mapping[str, Side], judged: Mapping[str, Judged]) -> list[Result]:
    """The rows of the results file, of the three runs."""
    sampled, full = sides[_SAMPLED].tokens_per_second, sides[_ALL].tokens_per_second
    rows = [
        Result(
            f"{_TITLE}: speed", median(sampled), f"tokens/s, median of {len(full)} rounds", _PEER, median(full),
            faster(sides[_SAMPLED], sides[_ALL]),
        )
    ]  # fmt: skip
    for name, when in ((_SAMPLED, ""), (_AS_LONG, ", the same time")):
        after = f"after {sides[name].state.step} steps{when}"
        rows.extend(_beside_all(after, judged[name], judged[_ALL], is_target=name == _SAMPLED))
    return rows


def faster(side: Side, other: Side) -> float:
    """How many times the other's speed a side has: the median of the rounds' own ratios."""
    return median(a / b for a, b in zip(side.tokens_per_second, other.tokens_per_second, strict=True))


def _beside_all(after: str, judged: Judged, over_all: Judged, *, is_target: bool) -> Iterator[Result]:
    loss = judged.loss / over_all.loss
    yield Result(
        f"{_TITLE}: full holdout loss {after}", judged.loss, "nats/token", _PEER, over_all.loss, loss,
        LOSS_RATIO if is_target else None, loss <= LOSS_RATIO if is_target else None,
    )  # fmt: skip
    answers, peers = judged.answers.total, over_all.answers.total
    for measure, unit, figure, of_peer in (
        ("answers with a word of another script", f"of {answers.pairs}", judged.leaking, over_all.leaking),
        ("answers in the right language and script", f"of {answers.pairs}", answers.ok, peers.ok),
        ("chrF", "0..100", answers.chrf, peers.chrf),
    ):
        yield Result(f"{_TITLE}: {measure} {after}", figure, unit, _PEER, of_peer)


if __name__ == "__main__":
    run(full=False)
