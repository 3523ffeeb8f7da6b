"""Which adapters stay loaded; a machine compares it with a naive model."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from adapter_service.engine.residency import Residency
from adapter_service.errors import AdapterFormatError, AdapterTooLargeError, TooManyPinsError


def filled(*keys: str, max_adapters: int = 2, max_bytes: int = 100) -> Residency[str]:
    residency = Residency[str](max_adapters, max_bytes)
    for key in keys:
        assert residency.add(key, key.upper(), 10)
    return residency


def test_the_one_not_used_for_longest_goes_first() -> None:
    residency = filled("a", "b")
    residency.acquire("a")
    residency.release("a")
    assert residency.add("c", "C", 10)
    assert (residency.keys(), residency.loads, residency.evictions) == (["a", "c"], 3, 1)


def test_a_large_one_may_push_out_several() -> None:
    residency = filled("a", "b", "c", max_adapters=8, max_bytes=30)
    assert residency.add("d", "D", 20)
    assert (residency.keys(), residency.size_bytes) == (["c", "d"], 30)


def test_one_in_use_stays_and_the_newcomer_waits() -> None:
    residency = filled("a", max_adapters=1)
    assert residency.acquire("a") == "A"
    assert residency.begin_loading("b")
    assert not residency.add("b", "B", 10)
    assert (residency.keys(), residency.state("b"), residency.evictions) == (["a"], "loading", 0)
    residency.release("a")
    assert residency.add("b", "B", 10)
    assert residency.keys() == ["b"]


def test_one_that_nobody_holds_cannot_be_released() -> None:
    residency = filled("a")
    residency.acquire("a")
    residency.release("a")
    with pytest.raises(ValueError, match="released more often"):
        residency.release("a")


def test_a_pinned_one_stays_though_it_was_not_used_for_longest() -> None:
    residency = filled("a", "b")
    residency.pin("a")
    residency.add("c", "C", 10)
    assert residency.keys() == ["a", "c"]
    residency.unpin("a")
    residency.add("d", "D", 10)
    assert residency.keys() == ["c", "d"]


def test_one_that_two_pinned_stays_until_both_have_let_it_go() -> None:
    residency = filled()
    residency.pin("a")
    residency.pin("a")
    residency.unpin("a")
    assert residency.pinned() == {"a"}
    residency.unpin("a")
    assert residency.pinned() == set()


def test_one_place_is_never_pinned() -> None:
    residency = filled()
    residency.pin("a")
    residency.pin("a")
    with pytest.raises(
        TooManyPinsError, match=r"1 adapters are pinned; of 2 \(serving.max_adapters\) at most 1"
    ) as told:
        residency.pin("b")
    assert "(POST /v1/unload_lora_adapter, or take it from serving.pinned_adapters)" in str(told.value)


def test_one_that_never_fits_says_which_setting_to_raise() -> None:
    residency = filled("a")
    with pytest.raises(
        AdapterTooLargeError, match=r"the adapter takes 101 bytes; serving.max_adapter_bytes allows 100 .*raise"
    ):
        residency.add("x", "X", 101)
    assert residency.keys() == ["a"]


def test_one_that_pins_leave_no_room_for_says_so() -> None:
    residency = filled("a")
    residency.pin("a")
    with pytest.raises(AdapterTooLargeError, match="95 bytes beside 10 bytes of pinned adapters"):
        residency.add("b", "B", 95)


def test_it_is_read_once_at_a_time() -> None:
    residency = filled()
    assert residency.begin_loading("a")
    assert not residency.begin_loading("a")
    residency.add("a", "A", 10)
    assert not residency.begin_loading("a")


def test_what_its_content_is_to_blame_for_is_remembered_until_it_shall_be_tried_again() -> None:
    residency = filled()
    residency.begin_loading("a")
    residency.fail("a", AdapterFormatError("no tensors"), remember=True)
    assert not residency.begin_loading("a")
    assert str(residency.failure("a")) == "no tensors"
    residency.forget("a")
    assert residency.begin_loading("a")


def test_what_another_time_may_mend_is_not_remembered() -> None:
    residency = filled()
    residency.begin_loading("a")
    residency.fail("a", FileNotFoundError(), remember=False)
    assert residency.failure("a") is None
    assert residency.begin_loading("a")


def test_a_remembered_failure_keeps_nothing_alive_of_those_that_it_was_raised_to() -> None:
    class Cache:
        pass

    residency = filled()
    residency.fail("a", AdapterFormatError("no tensors"), remember=True)

    def ask() -> weakref.ref[Cache]:
        cache = Cache()
        with pytest.raises(AdapterFormatError):
            raise residency.failure("a") or AssertionError
        return weakref.ref(cache)

    asked = ask()
    gc.collect()
    assert asked() is None


def test_a_remembered_failure_keeps_nothing_alive_of_what_was_read() -> None:
    class Weights:
        pass

    def read() -> weakref.ref[Weights]:
        weights = Weights()
        try:
            try:
                raise ZeroDivisionError
            except ZeroDivisionError as cause:
                raise AdapterFormatError("not finite") from cause
        except AdapterFormatError as error:
            residency.fail("a", error, remember=True)
        return weakref.ref(weights)

    residency = filled()
    was_read = read()
    gc.collect()
    assert was_read() is None


def test_failures_of_versions_long_gone_do_not_pile_up() -> None:
    residency = filled()
    for number in range(5000):
        residency.fail(str(number), AdapterFormatError("no tensors"), remember=True)
    assert [residency.state(key) for key in ("0", "4999")] == ["absent", "failed"]


def test_one_that_will_be_used_soon_goes_last() -> None:
    residency = filled("a", "b")
    for key in ("a", "c"):
        residency.touch(key)
    residency.add("c", "C", 10)
    assert residency.keys() == ["a", "c"]


KEYS = st.sampled_from("abcdef")
PLACES, BYTES = 3, 10


class NaiveModel(RuleBasedStateMachine):
    """Beside lists that are searched and summed anew each time."""

    def __init__(self) -> None:
        super().__init__()
        self.residency = Residency[str](PLACES, BYTES)
        self.line: list[str] = []  # resident, by last use
        self.sizes: dict[str, int] = {}
        self.uses: list[str] = []
        self.pins: list[str] = []
        self.loading: set[str] = set()
        self.failed: set[str] = set()

    def may_go(self) -> list[str]:
        return [key for key in self.line if key not in self.uses and key not in self.pins]

    def use(self, key: str) -> None:
        self.line.remove(key)
        self.line.append(key)

    @rule(key=KEYS)
    def begin_loading(self, key: str) -> None:
        absent = key not in self.line and key not in self.loading and key not in self.failed
        assert self.residency.begin_loading(key) is absent
        if absent:
            self.loading.add(key)

    @rule(key=KEYS, size=st.integers(1, BYTES + 2))
    def add(self, key: str, size: int) -> None:
        before = list(self.line)
        if key not in self.line:
            pinned = sum(self.sizes[other] for other in self.line if other in self.pins)
            if pinned + size > BYTES:
                with pytest.raises(AdapterTooLargeError):
                    self.residency.add(key, key, size)
                return
            kept = list(self.line)
            for other in self.may_go():
                if len(kept) < PLACES and sum(self.sizes[one] for one in kept) + size <= BYTES:
                    break
                kept.remove(other)
            if len(kept) >= PLACES or sum(self.sizes[one] for one in kept) + size > BYTES:
                assert not self.residency.add(key, key, size)
                assert self.residency.keys() == before
                return
            self.line = [*kept, key]
            self.sizes[key] = size
            self.loading.discard(key)
            self.failed.discard(key)
        assert self.residency.add(key, key, size)

    @rule(key=KEYS, remember=st.booleans())
    def fail(self, key: str, remember: bool) -> None:
        self.residency.fail(key, AdapterFormatError(key), remember=remember)
        self.loading.discard(key)
        if remember and key not in self.line:
            self.failed.add(key)

    @rule(key=KEYS)
    def forget(self, key: str) -> None:
        self.residency.forget(key)
        self.loading.discard(key)
        self.failed.discard(key)

    @rule(key=KEYS)
    def acquire(self, key: str) -> None:
        if key not in self.line:
            with pytest.raises(KeyError):
                self.residency.acquire(key)
            return
        assert self.residency.acquire(key) == key
        self.uses.append(key)
        self.use(key)

    @precondition(lambda self: self.uses)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.uses))
        self.residency.release(key)
        self.uses.remove(key)
        self.use(key)

    @rule(key=KEYS)
    def touch(self, key: str) -> None:
        self.residency.touch(key)
        if key in self.line:
            self.use(key)

    @rule(key=KEYS)
    def pin(self, key: str) -> None:
        if key not in self.pins and len(set(self.pins)) == PLACES - 1:
            with pytest.raises(TooManyPinsError):
                self.residency.pin(key)
            return
        self.residency.pin(key)
        self.pins.append(key)

    @rule(key=KEYS)
    def unpin(self, key: str) -> None:
        self.residency.unpin(key)
        if key in self.pins:
            self.pins.remove(key)

    @invariant()
    def both_say_the_same(self) -> None:
        assert self.residency.keys() == self.line
        assert self.residency.size_bytes == sum(self.sizes[key] for key in self.line) <= BYTES
        assert self.residency.loads == self.residency.evictions + len(self.line)
        for key in "abcdef":
            assert self.residency.users(key) == self.uses.count(key)
            assert (self.residency.state(key) == "resident") is (key in self.line)
            assert (self.residency.state(key) == "loading") is (key in self.loading)
            assert (self.residency.state(key) == "failed") is (key in self.failed)

    @invariant()
    def none_in_use_has_gone(self) -> None:
        assert self.residency.in_use == len(set(self.line) & {*self.uses, *self.pins})
        assert set(self.uses) <= set(self.residency.keys())
        assert len(self.line) <= PLACES


NaiveModel.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestResidencyBesideANaiveModel = NaiveModel.TestCase
