"""The law of batches: whoever comes, goes and waits beside it, a sequence's numbers are those that it has alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from adapter_service.engine.batch import MixedBatch
from adapter_service.engine.prefix_cache import CHUNK_TOKENS, PrefixCache
from adapter_service.engine.probe import choose_batch
from adapter_service.engine.sequence import Sequence
from adapter_service.lora.layer import install
from adapter_service.lora.resident import ResidentAdapter
from adapter_service.model_utils import load_base
from adapter_service.settings import KernelName
from tests.engine.resident import every_kind
from tests.engine.serial import greedy, mixed, serial_of
from tests.engine.tape import Tapes
from tests.near_ties import assert_equal_up_to_near_ties

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

ROWS = 6
TOKENS = 10
# Beginnings of one text, so that prefixes are found: within a chunk, at its border, and of several chunks.
TEXT = [2 + (31 * place + place // 7) % 250 for place in range(400)]
LENGTHS = (1, 5, 63, 64, 65, 128, 150, 250)
# What is reserved decides which buffer a sequence's place is in.
ROOM = (0, 260, 520)
SCALES = (1.0, 0.5, 0.0, 2.0)


@dataclass(eq=False, repr=False)
class Tracked:
    sequence: Sequence
    wanted: torch.Tensor  # (tokens, vocabulary)
    tokens: list[int] = field(default_factory=list)
    joined: bool = False


class Serials:
    """What sequences come to alone, each computed once; `exactly` where the probe promises the same bits."""

    def __init__(self, base: BaseModel, kernel: KernelName) -> None:
        install(base.model, keep=base.model.get_output_embeddings())
        self.base = base
        self.adapters: list[ResidentAdapter | None] = [None, *every_kind(base)]
        self.kernel = kernel
        prefixes = PrefixCache(CHUNK_TOKENS, 0)
        self.exactly = choose_batch(base, "plain", rows=ROWS, prefixes=prefixes, kernel=kernel).is_invariant
        self._known: dict[tuple[int, int, float], torch.Tensor] = {}

    def of(self, length: int, adapter: int, scale: float) -> torch.Tensor:
        key = (length, adapter, scale)
        if key not in self._known:
            batch = mixed(self.base, kernel=self.kernel)
            self._known[key] = greedy(batch, TEXT[:length], TOKENS, self.adapters[adapter], scale)
        return self._known[key]


class Batches(RuleBasedStateMachine):
    serials: Serials
    batch: MixedBatch

    def __init__(self) -> None:
        super().__init__()
        self.tracked: list[Tracked] = []

    @initialize(prefix_bytes=st.sampled_from([0, 200_000, 2**30]))
    def begin(self, prefix_bytes: int) -> None:
        self.batch = mixed(self.serials.base, ROWS, prefix_bytes, self.serials.kernel)

    def some(self, data: st.DataObject, *, read: bool, joined: bool | None = None) -> Tracked:
        return data.draw(st.sampled_from(self.those(read=read, joined=joined)))

    def those(self, *, read: bool, joined: bool | None = None) -> list[Tracked]:
        return [
            one
            for one in self.tracked
            if bool(one.tokens) == read and (joined is None or one.joined == joined) and len(one.tokens) < TOKENS
        ]

    def take(self, one: Tracked, logits: torch.Tensor) -> None:
        """A row's numbers are compared for as long as what it was made from is the same."""
        wanted, place = one.wanted, len(one.tokens)
        serial = serial_of(wanted)
        if place <= serial.sure(exactly=self.serials.exactly):
            if self.serials.exactly:
                assert torch.equal(logits, wanted[place])
            else:
                assert float((logits - wanted[place]).abs().max() / wanted[place].abs().max()) < 1e-5
        one.sequence.next_token = int(logits.argmax())
        one.tokens.append(one.sequence.next_token)
        assert_equal_up_to_near_ties(one.tokens, serial, exactly=self.serials.exactly)

    @precondition(lambda self: len(self.tracked) < ROWS)
    @rule(
        length=st.sampled_from(LENGTHS),
        adapter=st.integers(0, 3),
        scale=st.sampled_from(SCALES),
        room=st.sampled_from(ROOM),
        at_once=st.booleans(),
    )
    def add(self, length: int, adapter: int, scale: float, room: int, at_once: bool) -> None:
        sequence = Sequence(TEXT[:length], max(room, length + TOKENS), self.serials.adapters[adapter], scale)
        one = Tracked(sequence, self.serials.of(length, adapter, scale))
        self.tracked.append(one)
        with torch.inference_mode():
            self.batch.add(sequence)
            while at_once and not one.tokens:
                self._read(one)
            if at_once:
                self._join(one)

    @precondition(lambda self: self.those(read=False))
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        with torch.inference_mode():
            self._read(self.some(data, read=False))

    def _read(self, one: Tracked) -> None:
        if (logits := self.batch.read(one.sequence)) is not None:
            self.take(one, logits)

    @precondition(lambda self: self.those(read=True) and len(self.tracked) < ROWS)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        one = self.some(data, read=True)
        with torch.inference_mode():
            self.tracked.append(Tracked(self.batch.fork(one.sequence), one.wanted, list(one.tokens)))

    @precondition(lambda self: self.those(read=True, joined=False))
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        with torch.inference_mode():
            self._join(self.some(data, read=True, joined=False))

    def _join(self, one: Tracked) -> None:
        self.batch.join(one.sequence)
        one.joined = True

    @precondition(lambda self: self.those(read=True, joined=True))
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = self.some(data, read=True, joined=True)
        with torch.inference_mode():
            self.batch.leave(one.sequence)
        one.joined = False

    @precondition(lambda self: self.tracked)
    @rule(data=st.data(), poisoned=st.booleans())
    def remove(self, data: st.DataObject, poisoned: bool) -> None:
        one = data.draw(st.sampled_from(self.tracked))
        self._remove(one, poisoned=poisoned)

    def _remove(self, one: Tracked, *, poisoned: bool = False) -> None:
        with torch.inference_mode():
            self.batch.remove(one.sequence, poisoned=poisoned)
        self.tracked.remove(one)

    @precondition(lambda self: self.those(read=True, joined=True))
    @rule(steps=st.integers(1, 4))
    def step(self, steps: int) -> None:
        of = {one.sequence: one for one in self.tracked}
        for _ in range(steps):
            for one in [one for one in self.tracked if len(one.tokens) >= TOKENS]:
                self._remove(one)
            if self.batch.rows:
                with torch.inference_mode():
                    stepped = self.batch.step()
                assert {sequence for sequence, _ in stepped} == {o.sequence for o in self.tracked if o.joined}
                for sequence, logits in stepped:
                    self.take(of[sequence], logits)

    @precondition(lambda self: hasattr(self, "batch"))
    @rule()
    def forget_prefixes(self) -> None:
        self.batch.free_memory()

    @invariant()
    def places_are_held_by_those_who_are_there(self) -> None:
        if hasattr(self, "batch"):
            rooms = [max(256, 1 << (one.sequence.max_tokens - 1).bit_length()) for one in self.tracked]
            assert self.batch._cache.taken_tokens == sum(rooms)
            assert self.batch.rows == sum(one.joined for one in self.tracked)

    def teardown(self) -> None:
        for one in list(self.tracked):
            self._remove(one)
        if hasattr(self, "batch"):
            assert self.batch._cache.taken_tokens == 0


@pytest.mark.parametrize("kernel", ["as_loaded", "float16", "int8", "modules"])
def test_every_row_of_every_batch_is_as_alone(tiny_base: BaseModel, kernel: KernelName) -> None:
    check(Serials(tiny_base, kernel))


def test_every_row_of_a_recorded_step_is_as_alone(tiny_base: BaseModel, tapes: Tapes) -> None:
    check(Serials(tiny_base, "graphs"))
    assert tapes.replayed > tapes.recorded > 0


def test_compiled_steps_are_as_alone_to_the_bit(tiny_base: BaseModel) -> None:
    assert Serials(tiny_base, "as_loaded").exactly


def test_where_the_probe_promises_it_every_row_is_as_alone_to_the_bit(tiny_base_folder: Path) -> None:
    """Of the modules' kernels, those for 8 bits are the ones that add up each row by itself."""
    folder = tiny_base_folder
    base = load_base(str(folder), bases_dir=folder, device="cpu", dtype="bfloat16", use_8bit=True)
    in_8_bits = Serials(base, "modules")
    if not in_8_bits.exactly:
        pytest.skip("the probe does not promise it of this processor")
    check(in_8_bits)


def check(serials: Serials) -> None:
    machine = type("Machine", (Batches,), {"serials": serials})
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=25, deadline=None))
