"""What the file that ships must hold, whoever assembled it."""

from __future__ import annotations

import gzip
from collections import Counter
from typing import Any

from adapter_service import sample_corpus
from adapter_service.languages import LANGUAGES
from adapter_service.languages.scripts import script_share
from adapter_service.sample_corpus.catalogue import SOURCES
from adapter_service.sample_corpus.filters import MIN_SCRIPT_SHARE
from adapter_service.sample_corpus.pair import CORPUS_LANGUAGES, Pair
from adapter_service.sample_corpus.reserved import is_reserved, is_reserved_in_some_form

Corpus = list[dict[str, Any]]

# One telling phrase of each paragraph of the reserved articles, in the declaration's own words.
RESERVED_PHRASES = (
    "torture or to cruel",
    "presumed innocent",
    "penal offence",
    "right to own property",
    "deprived of his property",
    "free choice of employment",
    "equal pay for equal work",
    "favourable remuneration",
    "join trade unions",
    "duties to the community",
    "exercise of his rights and freedoms",
    "contrary to the purposes and principles",
)


def test_the_file_is_at_most_two_megabytes_and_five_unpacked() -> None:
    packed = sample_corpus.path().read_bytes()
    assert len(packed) <= 2_000_000
    assert len(gzip.decompress(packed)) <= 5_000_000


def test_the_file_carries_no_time_stamp() -> None:
    assert sample_corpus.path().read_bytes()[4:8] == b"\0\0\0\0"


def test_no_shipped_text_is_reserved_by_its_hash(corpus: Corpus) -> None:
    assert [r["source"] for r in corpus if is_reserved(r["source"])] == []


def test_no_shipped_text_is_a_reserved_one_with_another_closing_mark(corpus: Corpus) -> None:
    assert [r["source"] for r in corpus if is_reserved_in_some_form(r["source"])] == []


def test_no_shipped_text_is_of_a_reserved_article(corpus: Corpus) -> None:
    declaration = [r["source"].lower() for r in corpus if r["origin"] == "udhr"]
    assert [text for text in declaration if any(phrase in text for phrase in RESERVED_PHRASES)] == []


def test_all_ten_languages_have_equally_many_pairs(corpus: Corpus) -> None:
    counts = Counter(r["language"] for r in corpus)
    assert set(counts) == set(CORPUS_LANGUAGES)
    assert min(counts.values()) >= 0.9 * max(counts.values())
    assert 9_000 <= len(corpus) <= 14_000


def test_most_pairs_are_sentences(corpus: Corpus) -> None:
    assert sum(len(r["source"].split()) >= 4 for r in corpus) >= 0.7 * len(corpus)


def test_every_line_states_the_licence_of_its_origin(corpus: Corpus) -> None:
    licences = {source.origin: source.licence for source in SOURCES}
    assert all(r["licence"] == licences[r["origin"]] for r in corpus)


def test_targets_are_in_the_script_of_their_language(corpus: Corpus) -> None:
    shares = [script_share(r["target"], LANGUAGES[r["language"]].script) for r in corpus]
    assert min(shares) >= MIN_SCRIPT_SHARE


def test_sources_are_english_text_on_one_line(corpus: Corpus) -> None:
    assert all(r["source"].strip() and r["source"].isprintable() for r in corpus)
    assert {r["source_language"] for r in corpus} == {"en"}


def test_no_text_is_translated_twice_into_one_language(corpus: Corpus) -> None:
    counts = Counter((r["language"], r["source"].lower()) for r in corpus)
    assert [text for text, count in counts.items() if count > 1] == []


def test_languages_and_origins_are_mixed_from_the_first_line_on(corpus: Corpus) -> None:
    assert {r["language"] for r in corpus[:100]} == set(CORPUS_LANGUAGES)
    assert len({r["origin"] for r in corpus[:100]}) >= 6


def test_every_line_is_a_pair_and_nothing_else(corpus: Corpus) -> None:
    fields = {"source", "target", "source_language", "language", "origin", "licence"}
    assert all(set(r) == fields for r in corpus)
    assert Pair(corpus[0]["source"], corpus[0]["target"], "hi", "udhr").words >= 1


def test_every_licence_ships_with_its_text() -> None:
    folder = sample_corpus.path().parent
    texts = {file.name for file in (folder / "licences").iterdir()}
    assert all(any(name.startswith(source.licence) for name in texts) for source in SOURCES)
    assert (folder / "NOTICE").is_file()


def test_sources_page_names_every_origin() -> None:
    page = (sample_corpus.path().parent / "SOURCES.md").read_text(encoding="utf-8")
    assert all(f"| {source.origin} | {source.title} |" in page for source in SOURCES)
