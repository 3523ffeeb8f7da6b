"""Adapters that cannot be had, or should not: who asks for one is told why, and nobody else notices."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.adapters.artifact import verify_folder
from adapter_service.engine.engine import Engine
from adapter_service.engine.generations import Event, Generation, Piece
from adapter_service.engine.requests import AdapterFiles
from adapter_service.engine.waiting import MAX_OVERTAKEN
from adapter_service.errors import AdapterFormatError, AdapterTooLargeError, NonFiniteLogitsError
from adapter_service.settings import ServingSettings
from tests.engine.asking import alone, assert_as_alone, assert_nothing_is_held, held, result_of, submit
from tests.engine.conftest import WAIT_SECONDS, MakeEngine, MakeFiles
from tests.waiting import READY_SECONDS

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

# Finite in the file, and more than float32 has room for when a few of it are added up.
OVERFLOWING = 3e37


@pytest.fixture(scope="module")
def engine(tiny_base: BaseModel) -> Iterator[Engine]:
    """One for all tests that need no settings of their own: what a fault leaves behind, the next would meet."""
    engine = Engine(lambda note: tiny_base, ServingSettings(max_active_requests=4))
    engine.start()
    engine.wait_until_ready(READY_SECONDS)
    yield engine
    engine.stop(WAIT_SECONDS)


# Numbers that are none.


def test_an_adapter_that_overflows_fails_alone(engine: Engine, make_files: MakeFiles) -> None:
    good, bad = make_files(1), make_files(20, std=OVERFLOWING)
    wanted = [alone(engine, "Once"), alone(engine, "Hello", good)]
    with held(engine):
        failing = submit(engine, "any prompt", bad)
        others = [submit(engine, "Once"), submit(engine, "Hello", good)]
    with pytest.raises(NonFiniteLogitsError, match="ask another version, or the base alone"):
        result_of(failing)
    for generation, serial in zip(others, wanted, strict=True):
        assert_as_alone(result_of(generation).only, serial)
    assert_nothing_is_held(engine, good, bad)


def test_the_place_of_numbers_that_are_none_is_clean_for_the_next(engine: Engine, make_files: MakeFiles) -> None:
    """What is masked is multiplied by zero, and zero times no number is no number."""
    wanted = alone(engine, "Once")
    with pytest.raises(NonFiniteLogitsError):
        result_of(submit(engine, "some forty tokens that stay in its place", make_files(20, std=OVERFLOWING)))
    assert_as_alone(result_of(submit(engine, "Once")).only, wanted)


def test_a_prompt_that_is_given_up_half_read_leaves_its_place_clean(
    engine: Engine, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing has been chosen yet, so nobody has seen that its numbers are none."""
    wanted = alone(engine, "Once")
    read = cancelled_after_chunk(engine, monkeypatch, 1)
    read.generation = submit(engine, "x" * 200, make_files(20, std=OVERFLOWING))
    assert result_of(read.generation).only.finish_reason == "cancelled"
    monkeypatch.undo()
    assert_as_alone(result_of(submit(engine, "Once")).only, wanted)
    assert_nothing_is_held(engine)


class Reads:
    """Chunks that were read of prompts."""

    generation: Generation
    count = 0


def cancelled_after_chunk(engine: Engine, monkeypatch: pytest.MonkeyPatch, chunk: int) -> Reads:
    """Cancels `generation`, once it is set, while its `chunk`-th chunk is read."""
    assert engine._serving is not None
    batch = engine._serving.scheduler._batch
    reads, real = Reads(), batch.read
    may_go_on = threading.Event()

    def read(sequence: Any) -> Any:
        reads.count += 1
        if reads.count == chunk:
            while not hasattr(reads, "generation"):
                may_go_on.wait(0.001)
            reads.generation.cancel()
        return real(sequence)

    monkeypatch.setattr(batch, "read", read)
    return reads


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_client_that_leaves_while_its_prompt_is_read_frees_its_place_at_once(
    engine: Engine, make_files: MakeFiles, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """The fourth chunk is the last, from which the first token would be chosen."""
    files = make_files(1)
    engine._prefixes.forget()
    reads = cancelled_after_chunk(engine, monkeypatch, chunk)
    reads.generation = submit(engine, "x" * 200, files)
    result = result_of(reads.generation)
    assert (reads.count, result.only.finish_reason) == (chunk, "cancelled")
    assert result.completion_tokens == 0
    assert_nothing_is_held(engine, files)


def test_without_strength_an_overflowing_adapter_is_the_base(engine: Engine, make_files: MakeFiles) -> None:
    wanted = alone(engine, "Once")
    assert_as_alone(result_of(submit(engine, "Once", make_files(20, std=OVERFLOWING), scale=0.0)).only, wanted)


# Reading.


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], None]:
    """Has something done each time before a folder is read."""

    def install(before: Callable[[Path], None]) -> None:
        def verify(folder: Path, *args: Any) -> Any:
            before(folder)
            return verify_folder(folder, *args)

        monkeypatch.setattr("adapter_service.engine.serving.verify_folder", verify)

    return install


def test_a_disk_that_fails_once_is_asked_again_the_next_time(
    engine: Engine, make_files: MakeFiles, reading: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    files, reads = make_files(11), []

    def fail_once(folder: Path) -> None:
        reads.append(folder)
        if len(reads) == 1:
            raise OSError(5, "Input/output error")

    reading(fail_once)
    with pytest.raises(OSError, match="Input/output error"):
        result_of(submit(engine, "Once", files))
    assert result_of(submit(engine, "Once", files)).completion_tokens
    assert "an adapter could not be read" in caplog.text
    assert_nothing_is_held(engine, files)


def test_a_damaged_version_is_read_once_and_its_reason_is_kept(
    engine: Engine, make_files: MakeFiles, reading: Callable[..., None]
) -> None:
    reads: list[AdapterFiles] = []
    files = make_files(12)
    (files.folder / "adapter_config.json").write_text("{}")
    reading(reads.append)
    for _ in range(2):
        with pytest.raises(AdapterFormatError, match=r"random@12: .*damaged: adapter_config\.json"):
            result_of(submit(engine, "Once", files))
    assert len(reads) == 1
    assert_nothing_is_held(engine, files)


def test_a_slow_disk_delays_those_who_wait_for_it_and_nobody_else(
    engine: Engine, make_files: MakeFiles, reading: Callable[..., None]
) -> None:
    slow, quick, may_go_on = make_files(13), make_files(1), threading.Event()
    wanted = [alone(engine, "Once"), alone(engine, "Once", quick)]

    def wait(folder: Path) -> None:
        if folder == slow.folder:
            assert may_go_on.wait(WAIT_SECONDS)

    reading(wait)
    waiting = submit(engine, "Once", slow)
    for files, serial in zip((None, quick), wanted, strict=True):
        assert_as_alone(result_of(submit(engine, "Once", files)).only, serial)
    left = submit(engine, "Once", slow)
    left.cancel()
    assert result_of(left).only.finish_reason == "cancelled"
    may_go_on.set()
    assert result_of(waiting).completion_tokens
    assert_nothing_is_held(engine, slow, quick)


# Room.


def test_sixteen_adapters_over_two_slots_are_all_answered(make_engine: MakeEngine, make_files: MakeFiles) -> None:
    engine = make_engine(max_adapters=2, max_active_requests=4)
    files = [make_files(seed) for seed in range(16)]
    wanted = [alone(engine, "Hello", one) for one in files]
    with held(engine):
        generations = [submit(engine, "Hello", one) for one in (*files, *reversed(files))]
    for generation, serial in zip(generations, [*wanted, *reversed(wanted)], strict=True):
        assert_as_alone(result_of(generation).only, serial)
    assert len(engine.resident_adapters()) == 2
    assert_nothing_is_held(engine, *files)


def test_whoever_asks_for_a_rare_adapter_is_not_overtaken_for_ever(
    make_engine: MakeEngine, make_files: MakeFiles
) -> None:
    """Two common ones fill both places, and each of their answers is followed by the next request at once."""
    engine = make_engine(max_adapters=2, max_active_requests=4)
    common, rare = [make_files(1), make_files(2)], make_files(3)
    ended: list[str] = []
    is_over = threading.Event()

    def ask_again(files: AdapterFiles) -> None:
        def next_one(event: Event) -> None:
            if not isinstance(event, Piece) and not is_over.is_set():
                ended.append(files.key)
                ask_again(files)

        submit(engine, "Hello", files).listen(next_one)

    with held(engine):
        for files in common * 3:
            ask_again(files)
        waiting = submit(engine, "Once", rare)
        waiting.listen(lambda event: None if isinstance(event, Piece) else is_over.set())
    assert result_of(waiting).completion_tokens
    assert len(ended) <= len(common * 3) + MAX_OVERTAKEN + 4  # before it, past it, and beside it


def test_an_adapter_larger_than_all_room_is_read_once_and_told_so(
    make_engine: MakeEngine, make_files: MakeFiles, reading: Callable[..., None]
) -> None:
    engine, files, reads = make_engine(max_adapter_bytes=1), make_files(1), list[Path]()
    reading(reads.append)
    wanted = alone(engine, "Once")
    with held(engine):
        too_large = submit(engine, "Once", files)
        base = submit(engine, "Once")
    for generation in (too_large, submit(engine, "Once", files)):
        with pytest.raises(AdapterTooLargeError, match=r"random@1: .* serving\.max_adapter_bytes allows 1"):
            result_of(generation)
    assert len(reads) == 1
    assert_as_alone(result_of(base).only, wanted)
    assert_nothing_is_held(engine)


def test_one_that_was_too_large_beside_a_pinned_one_is_answered_once_that_may_go(
    make_engine: MakeEngine, make_files: MakeFiles
) -> None:
    one, two = make_files(1), make_files(2)
    size = make_engine(max_active_requests=1)
    result_of(submit(size, "Hello", one))
    engine = make_engine(max_adapter_bytes=size._residency.size_bytes + 1)
    engine.pin(one)
    with pytest.raises(AdapterTooLargeError, match=r"random@2: .* beside \d+ bytes of pinned adapters"):
        result_of(submit(engine, "Hello", two))
    engine.unpin(one.key)
    assert result_of(submit(engine, "Hello", two)).completion_tokens


def test_bytes_for_one_are_used_by_one_after_the_other(make_engine: MakeEngine, make_files: MakeFiles) -> None:
    files = [make_files(seed) for seed in (1, 2, 3)]
    size = make_engine(max_active_requests=1)
    assert result_of(submit(size, "Hello", files[0])).completion_tokens
    engine = make_engine(max_adapter_bytes=size._residency.size_bytes + 1, max_active_requests=4)
    wanted = [alone(engine, "Hello", one) for one in files]
    with held(engine):
        generations = [submit(engine, "Hello", one) for one in files]
    for generation, serial in zip(generations, wanted, strict=True):
        assert_as_alone(result_of(generation).only, serial)
    assert len(engine.resident_adapters()) == 1


def test_a_pinned_adapter_stays_whoever_comes(make_engine: MakeEngine, make_files: MakeFiles) -> None:
    engine = make_engine(max_adapters=2, max_active_requests=2)
    pinned = make_files(1)
    engine.pin(pinned)
    for seed in (2, 3, 4):
        assert result_of(submit(engine, "Hello", make_files(seed))).completion_tokens
        assert pinned.key in engine.resident_adapters()
    assert engine._residency.loads == 4
    engine.unpin(pinned.key)
    assert engine._residency.pinned() == frozenset()
    for seed in (2, 3):
        result_of(submit(engine, "Hello", make_files(10 + seed)))
    assert pinned.key not in engine.resident_adapters()


def test_a_pin_of_what_cannot_be_read_says_why_and_holds_no_place(
    make_engine: MakeEngine, make_files: MakeFiles
) -> None:
    engine, files = make_engine(max_adapters=2, max_active_requests=2), make_files(1)
    (files.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterFormatError, match="damaged"):
        engine.pin(files)
    assert engine._residency.pinned() == frozenset()
    engine.pin(make_files(2))


# Two on one prompt.


@pytest.mark.parametrize("keeps", [True, False], ids=["prefixes kept", "no prefixes"])
def test_adapters_and_scales_on_one_prompt_in_every_order(
    make_engine: MakeEngine, make_files: MakeFiles, keeps: bool
) -> None:
    """Of the prompt's three chunks two are kept; the next one's are never another adapter's, or another strength's."""
    engine = make_engine(max_active_requests=4, prefix_cache_bytes=2**24 if keeps else 0)
    prompt = "z" * 150
    one, two = make_files(1), make_files(2)
    asks = [(None, 1.0), (one, 1.0), (two, 1.0), (one, 0.5)]
    cold = []
    for files, scale in asks:
        engine._prefixes.forget()
        cold.append(alone(engine, prompt, files, scale=scale))
    assert len({tuple(serial.tokens) for serial in cold}) == len(asks)
    for first in range(len(asks)):
        for second in range(len(asks)):
            engine._prefixes.forget()
            for place in (first, second, first):
                files, scale = asks[place]
                result = result_of(submit(engine, prompt, files, scale=scale))
                assert_as_alone(result.only, cold[place])
            assert result.cached_tokens == (128 if keeps else 0)
