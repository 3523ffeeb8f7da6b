"""How good an adapter translates held-out text, with the controls that make the figure mean something."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from adapter_service.adapter_names import BASE
from adapter_service.errors import EmptySourceError, InvalidInputError
from adapter_service.languages import LANGUAGES, Language
from adapter_service.languages.answers import MIN_SCRIPT_SHARE, Verdict, corpus_chrf, judge, words
from adapter_service.languages.instructions import canonical
from adapter_service.measuring.provenance import Result
from adapter_service.measuring.retrieval import NearestNeighbour
from adapter_service.samples import Sample

# Prompts and the name of an adapter (or BASE) in, one answer for each prompt out.
Generate = Callable[[list[str], str], list[str]]

MIN_OK_SHARE = 0.9
MIN_GAIN_OVER_BASE = 25.0
MIN_GAIN_OVER_UNRELATED = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """One held-out pair, its answers, and the answers of two translators that understand nothing.

    `unrelated` is another pair's reference in the same language (None where there is none);
    `retrieved` the target of the most similar training pair.
    """

    language: Language
    source: str
    reference: str
    answer: str
    base: str
    unrelated: str | None
    retrieved: str
    verdict: Verdict
    base_verdict: Verdict


@dataclass(frozen=True, slots=True)
class Score:
    """Counts and corpus chrF over some pairs. `unrelated_chrf` is what the language alone brings.

    That is the higher of two figures: an unrelated reference given as the answer, and the answer
    held against an unrelated reference.
    """

    pairs: int
    ok: int
    base_ok: int
    in_script: int
    echoes: int
    degenerate: int
    chrf: float
    base_chrf: float
    unrelated_chrf: float
    retrieval_chrf: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`languages` is in the order of the pairs; `total` is over all pairs together, not a mean of means."""

    adapter: str
    rows: tuple[Scored, ...]
    total: Score
    languages: dict[str, Score]

    def targets(self) -> list[Result]:
        """What was aimed at, reached or not, as rows of a results file."""
        total = self.total
        wanted = MIN_OK_SHARE * total.pairs
        return [
            Result(
                measure="held-out pairs in the right language and script, no echo, not degenerate",
                figure=total.ok,
                unit=f"of {total.pairs}",
                peer="the base alone",
                peer_figure=total.base_ok,
                target=wanted,
                met=total.ok >= wanted,
            ),
            _gain(total.chrf, "the base with the same prompt", total.base_chrf, MIN_GAIN_OVER_BASE),
            _gain(total.chrf, "an unrelated reference", total.unrelated_chrf, MIN_GAIN_OVER_UNRELATED),
            _gain(total.chrf, "nearest-neighbour retrieval", total.retrieval_chrf, 0.0),
        ]


def _gain(chrf: float, peer: str, peer_chrf: float, target: float) -> Result:
    """A row for the points over a peer's chrF; with a target of 0 the gain has to be a real one."""
    gain = chrf - peer_chrf
    return Result(
        measure=f"corpus chrF over that of {peer}",
        figure=round(gain, 2),
        unit="chrF points",
        peer=peer,
        peer_figure=round(peer_chrf, 2),
        ratio=round(chrf / peer_chrf, 2) if peer_chrf else None,
        target=target,
        met=gain >= target and gain > 0,
    )


def choose_pairs(samples: Iterable[Sample], per_language: int = 10, min_words: int = 4) -> list[Sample]:
    """The same pairs for the same samples in any order: the first of each language by key.

    Only parallel text is taken, each source text once per language.
    """
    chosen: dict[str, dict[str, Sample]] = defaultdict(dict)
    for sample in sorted(samples, key=lambda sample: sample.key):
        source, language = _source(sample), sample.language
        if not source or language not in LANGUAGES or len(words(source)) < min_words:
            continue
        if len(chosen[language]) < per_language:
            chosen[language].setdefault(source, sample)
    return [sample for language in LANGUAGES for sample in chosen.get(language, {}).values()]


def evaluate(
    pairs: Sequence[Sample], generate: Generate, *, adapter: str, training_pairs: Iterable[Sample]
) -> Evaluation:
    """Score `adapter` on `pairs` beside the base, an unrelated text and retrieval from `training_pairs`.

    Raises:
        EmptySourceError: there are no pairs.
        InvalidInputError: `generate` did not give one answer for each prompt.
    """
    if not pairs:
        raise EmptySourceError(
            "the holdout has no pair to evaluate; it needs parallel text of at least four words: "
            "train on more samples, or set gate.holdout_fraction higher"
        )
    prompts = [canonical(_source(pair), _language(pair)) for pair in pairs]
    answers, base = (_answers(generate, prompts, name) for name in (adapter, BASE))
    rows = tuple(_rows(pairs, prompts, answers, base, training_pairs))
    by_language: dict[str, list[Scored]] = defaultdict(list)
    for row in rows:
        by_language[row.language.tag].append(row)
    return Evaluation(adapter, rows, score(rows), {tag: score(some) for tag, some in by_language.items()})


def score(rows: Sequence[Scored]) -> Score:
    references = [row.reference for row in rows]
    controlled = [(row, row.unrelated) for row in rows if row.unrelated is not None]
    unrelated = [text for _, text in controlled]
    return Score(
        pairs=len(rows),
        ok=sum(row.verdict.ok for row in rows),
        base_ok=sum(row.base_verdict.ok for row in rows),
        in_script=sum(row.verdict.script_share >= MIN_SCRIPT_SHARE for row in rows),
        echoes=sum(row.verdict.echo for row in rows),
        degenerate=sum(row.verdict.degenerate for row in rows),
        chrf=corpus_chrf([row.answer for row in rows], references),
        base_chrf=corpus_chrf([row.base for row in rows], references),
        unrelated_chrf=max(
            corpus_chrf(unrelated, [row.reference for row, _ in controlled]),
            corpus_chrf([row.answer for row, _ in controlled], unrelated),
        ),
        retrieval_chrf=corpus_chrf([row.retrieved for row in rows], references),
    )


def _answers(generate: Generate, prompts: list[str], adapter: str) -> list[str]:
    given = generate(prompts, adapter)
    if len(given) != len(prompts):
        raise InvalidInputError(
            f"{len(given)} answers of {adapter!r} for {len(prompts)} prompts; one for each is needed"
        )
    return given


def _rows(
    pairs: Sequence[Sample],
    prompts: Sequence[str],
    answers: Sequence[str],
    base: Sequence[str],
    training_pairs: Iterable[Sample],
) -> Iterator[Scored]:
    unrelated = _unrelated(pairs)
    neighbours = _neighbours(training_pairs)
    for place, pair in enumerate(pairs):
        language, prompt = _language(pair), prompts[place]
        nearest = neighbours.get(language.tag)
        yield Scored(
            language=language,
            source=_source(pair),
            reference=pair.completion,
            answer=answers[place],
            base=base[place],
            unrelated=unrelated[place],
            retrieved=nearest.target(_source(pair)) if nearest else "",
            verdict=judge(answers[place], prompt=prompt, language=language),
            base_verdict=judge(base[place], prompt=prompt, language=language),
        )


def _unrelated(pairs: Sequence[Sample]) -> list[str | None]:
    """For each pair the next other reference of its language, going round; never its own."""
    references: dict[str | None, list[str]] = defaultdict(list)
    places = []
    for pair in pairs:
        places.append(len(references[pair.language]))
        references[pair.language].append(pair.completion)
    found: list[str | None] = []
    for pair, place in zip(pairs, places, strict=True):
        same = references[pair.language]
        others = same[place + 1 :] + same[:place]
        found.append(next((other for other in others if other != pair.completion), None))
    return found


def _neighbours(training_pairs: Iterable[Sample]) -> dict[str, NearestNeighbour]:
    texts: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for pair in training_pairs:
        if pair.language and (source := _source(pair)):
            texts[pair.language].append((source, pair.completion))
    return {language: NearestNeighbour(some) for language, some in texts.items()}


def _source(sample: Sample) -> str:
    return str(sample.metadata.get("source_text") or "")


def _language(sample: Sample) -> Language:
    if sample.language not in LANGUAGES:
        raise InvalidInputError(
            f"pair {sample.origin or sample.key} has the language {sample.language!r}; "
            "evaluation needs the tag of a known one: take the pairs from choose_pairs()"
        )
    return LANGUAGES[sample.language]
