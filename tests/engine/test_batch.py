"""What the scheduler may rely on of both kinds of batch, and where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from adapter_service.engine.batch import Batch, SingleBatch
from adapter_service.engine.sequence import Sequence
from tests.engine.resident import KINDS, resident
from tests.engine.serial import greedy, mixed, read, serial_of
from tests.near_ties import assert_equal_up_to_near_ties

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

PROMPT = [2 + (31 * place) % 250 for place in range(150)]
TOKENS = 6


@pytest.fixture(params=["as_loaded", "modules", "single"])
def batch(request: pytest.FixtureRequest, tiny_base: BaseModel) -> Batch:
    """Mixed by each kind of kernel, or one by one."""
    if request.param == "single":
        return SingleBatch(tiny_base)
    return mixed(tiny_base, prefix_bytes=2**24, kernel=request.param)


def tokens_of(batch: Batch, *sequences: Sequence, steps: int = TOKENS - 1) -> dict[Sequence, list[int]]:
    """What each comes to in so many steps, from those that have joined."""
    found: dict[Sequence, list[int]] = {sequence: [sequence.next_token] for sequence in sequences}
    for _ in range(steps):
        for sequence, logits in batch.step():
            sequence.next_token = int(logits.argmax())
            found[sequence].append(sequence.next_token)
    return found


def begun(batch: Batch, sequence: Sequence) -> Sequence:
    batch.add(sequence)
    sequence.next_token = int(read(batch, sequence).argmax())
    return sequence


@torch.inference_mode()
def test_a_prompts_own_tokens_have_the_logprobs_of_one_pass(batch: Batch, tiny_base: BaseModel) -> None:
    wanted = tiny_base.model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    for _ in range(2):  # the second finds nothing ready
        sequence = Sequence(PROMPT, len(PROMPT), prompt_logprobs=2)
        batch.add(sequence)
        last = read(batch, sequence)
        trail = sequence.prompt_trail
        assert [token.id for token in trail] == PROMPT[1:]
        assert [token.logprob for token in trail] == pytest.approx(wanted[range(149), PROMPT[1:]].tolist(), abs=1e-4)
        assert [token.top[0][1] for token in trail] == pytest.approx(wanted[:-1].amax(-1).tolist(), abs=1e-4)
        assert {len(token.top) for token in trail} == {2}
        torch.testing.assert_close(last.log_softmax(-1), wanted[-1], atol=1e-4, rtol=1e-4)
        batch.remove(sequence)


@torch.inference_mode()
def test_scores_that_memory_runs_out_for_are_made_again(
    batch: Batch, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tiny_base.model(torch.tensor([PROMPT])).logits[0].log_softmax(-1)
    sequence = Sequence(PROMPT, len(PROMPT), prompt_logprobs=0)
    batch.add(sequence)
    batch.read(sequence)
    with monkeypatch.context() as patched:
        patched.setattr("adapter_service.engine.batch.scored", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            batch.read(sequence)
    read(batch, sequence)
    found = [token.logprob for token in sequence.prompt_trail]
    assert found == pytest.approx(wanted[range(149), PROMPT[1:]].tolist(), abs=1e-4)


@torch.inference_mode()
def test_branches_grow_as_the_one_they_come_from_would(batch: Batch, tiny_base: BaseModel) -> None:
    wanted = serial_of(greedy(mixed(tiny_base), PROMPT, TOKENS))
    first = begun(batch, Sequence(PROMPT, len(PROMPT) + TOKENS))
    branches = [first, batch.fork(first), batch.fork(first)]
    for sequence in branches:
        batch.join(sequence)
    for found in tokens_of(batch, *branches).values():
        assert_equal_up_to_near_ties(found, wanted)


@torch.inference_mode()
def test_one_that_left_goes_on_where_it_was(batch: Batch, tiny_base: BaseModel) -> None:
    wanted = serial_of(greedy(mixed(tiny_base), PROMPT, TOKENS))
    sequence = begun(batch, Sequence(PROMPT, len(PROMPT) + TOKENS))
    other = begun(batch, Sequence(PROMPT[:9], 30))
    batch.join(other)
    batch.join(sequence)
    found = tokens_of(batch, sequence, other, steps=2)[sequence]
    batch.leave(sequence)
    assert tokens_of(batch, other, steps=3).keys() == {other}
    batch.join(sequence)
    found += tokens_of(batch, sequence, other, steps=TOKENS - 3)[sequence][1:]
    assert_equal_up_to_near_ties(found, wanted)


@torch.inference_mode()
def test_removing_is_possible_at_any_time_and_twice(batch: Batch) -> None:
    never_added = Sequence([5], 10)
    added, half_read, joined = (Sequence(PROMPT, 160) for _ in range(3))
    batch.add(added)
    batch.add(half_read)
    batch.read(half_read)
    batch.join(begun(batch, joined))
    for sequence in (never_added, added, half_read, joined, joined):
        batch.remove(sequence)
    assert batch.rows == 0


@torch.inference_mode()
def test_a_step_that_failed_is_repeated_without_a_trace(
    batch: Batch, tiny_base: BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In each row's turn, after its first layer has kept what it got."""
    wanted = [serial_of(greedy(mixed(tiny_base), prompt, TOKENS)) for prompt in (PROMPT, PROMPT[:9])]
    layer = tiny_base.model.model.layers[1]
    real, faults = layer.forward, {1, 4}
    passes = 0

    def forward(*args: Any, **kwargs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes in faults:
            raise torch.OutOfMemoryError("none left")
        return real(*args, **kwargs)

    sequences = [begun(batch, Sequence(prompt, 160)) for prompt in (PROMPT, PROMPT[:9])]
    for sequence in sequences:
        batch.join(sequence)
    monkeypatch.setattr(layer, "forward", forward)
    found: dict[Sequence, list[int]] = {sequence: [sequence.next_token] for sequence in sequences}
    while len(found[sequences[0]]) < TOKENS:
        try:
            stepped = batch.step()
        except torch.OutOfMemoryError:
            continue
        for sequence, logits in stepped:
            sequence.next_token = int(logits.argmax())
            found[sequence].append(sequence.next_token)
    for sequence, serial in zip(sequences, wanted, strict=True):
        assert_equal_up_to_near_ties(found[sequence], serial)


@torch.inference_mode()
def test_both_kinds_come_to_the_same(tiny_base: BaseModel) -> None:
    adapter = resident(tiny_base, KINDS[2], seed=1)
    for one, scale in ((None, 1.0), (adapter, 1.0), (adapter, 0.5), (adapter, 0.0)):
        found, wanted = (
            greedy(batch, PROMPT, TOKENS, one, scale) for batch in (mixed(tiny_base), SingleBatch(tiny_base))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_prompt_that_was_read_before_is_read_from_where_it_differs(tiny_base: BaseModel) -> None:
    batch = mixed(tiny_base, prefix_bytes=2**24)
    wanted = greedy(batch, PROMPT, TOKENS)
    again, other = Sequence(PROMPT, 200), Sequence([*PROMPT[:70], 9, 9], 200)
    batch.add(again)
    batch.add(other)
    assert (again.cached_tokens, other.cached_tokens) == (128, 64)
    assert torch.equal(read(batch, again), wanted[0])


@torch.inference_mode()
def test_without_strength_an_adapter_shares_the_bases_prefixes(tiny_base: BaseModel) -> None:
    batch = mixed(tiny_base, prefix_bytes=2**24)
    greedy(batch, PROMPT, 1)
    found = []
    for scale in (0.0, 1.0):
        sequence = Sequence(PROMPT, 200, resident(tiny_base, KINDS[0], seed=1), scale)
        batch.add(sequence)
        found.append(sequence.cached_tokens)
    assert found == [128, 0]
