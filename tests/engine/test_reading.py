"""Adapters are read beside the engine: in order, once at a time, and no fault is lost."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.adapters.artifact import verify_folder
from adapter_service.engine.reading import AdapterReader
from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import AdapterServiceError
from adapter_service.lora.adapter import Adapter
from adapter_service.lora.folder import read_folder
from adapter_service.lora.layer import install
from tests.engine.conftest import WAIT_SECONDS, MakeFiles

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

A, B, C = (AdapterFiles(key, Path(key), key) for key in "abc")


class Mailbox:
    """What was delivered, in order, and a reader that fills it."""

    def __init__(self) -> None:
        self.delivered: queue.SimpleQueue[tuple[AdapterFiles, Any]] = queue.SimpleQueue()
        self.readers: list[AdapterReader[Any]] = []

    def reader(self, read: Callable[[AdapterFiles], Any]) -> AdapterReader[Any]:
        reader = AdapterReader(read, lambda files, came: self.delivered.put((files, came)))
        self.readers.append(reader)
        return reader

    def next(self) -> tuple[AdapterFiles, Any]:
        return self.delivered.get(timeout=WAIT_SECONDS)


def end(reader: AdapterReader[Any]) -> None:
    reader.close()
    reader._thread.join(WAIT_SECONDS)
    assert not reader._thread.is_alive()


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    mailbox = Mailbox()
    yield mailbox
    for reader in mailbox.readers:
        end(reader)


class SlowDisk:
    """Reads a key once it is let go."""

    def __init__(self) -> None:
        self.reads: list[str] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def read(self, files: AdapterFiles) -> str:
        self.reads.append(files.key)
        self.begun.set()
        assert self.go_on.wait(WAIT_SECONDS)
        return files.key.upper()


def test_a_folder_is_read_and_a_damaged_one_is_told(
    mailbox: Mailbox, tiny_base: BaseModel, make_files: MakeFiles
) -> None:
    layers = install(tiny_base.model, keep=tiny_base.model.get_output_embeddings())

    def read(files: AdapterFiles) -> Adapter:
        verify_folder(files.folder)
        return read_folder(files.folder, layers)

    whole, damaged, other = make_files(1), make_files(2), make_files(3)
    weights = damaged.folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    reader = mailbox.reader(read)
    for files in (whole, damaged, other):
        reader.ask(files)
    came = [mailbox.next() for _ in range(3)]
    assert [files for files, _ in came] == [whole, damaged, other]
    assert [type(outcome) for _, outcome in came[::2]] == [Adapter, Adapter]
    assert isinstance(came[1][1], AdapterServiceError)


def test_a_missing_folder_is_told_and_the_thread_goes_on(mailbox: Mailbox, tmp_path: Path) -> None:
    reader = mailbox.reader(lambda files: list(files.folder.iterdir()))
    reader.ask(AdapterFiles("gone", tmp_path / "gone", "gone"))
    assert isinstance(mailbox.next()[1], FileNotFoundError)
    reader.ask(AdapterFiles("there", tmp_path, "there"))
    assert mailbox.next()[1] == []


def test_they_are_read_in_the_order_of_asking_and_each_once(mailbox: Mailbox) -> None:
    disk = SlowDisk()
    reader = mailbox.reader(disk.read)
    for files in (A, B, A, C, B):
        reader.ask(files)
    disk.go_on.set()
    assert [mailbox.next()[1] for _ in range(3)] == ["A", "B", "C"]
    end(reader)
    assert disk.reads == ["a", "b", "c"]


def test_whoever_it_is_delivered_to_may_ask_again_at_once() -> None:
    numbers, twice = iter(range(10)), threading.Event()

    def deliver(files: AdapterFiles, number: int | Exception) -> None:
        if number == 0:
            reader.ask(files)
        else:
            twice.set()

    reader = AdapterReader(lambda _: next(numbers), deliver)
    reader.ask(A)
    assert twice.wait(WAIT_SECONDS)
    end(reader)


def test_nothing_is_delivered_after_it_was_closed(mailbox: Mailbox) -> None:
    disk = SlowDisk()
    reader = mailbox.reader(disk.read)
    reader.ask(A)
    reader.ask(B)
    assert disk.begun.wait(WAIT_SECONDS)
    reader.close()  # the disk is slow, and nobody waits for it
    assert reader._thread.is_alive()
    reader.ask(C)
    disk.go_on.set()
    end(reader)
    assert (disk.reads, mailbox.delivered.empty()) == (["a"], True)


def test_a_fault_of_whoever_takes_it_is_logged_and_the_next_is_read(caplog: pytest.LogCaptureFixture) -> None:
    taken = threading.Event()

    def deliver(files: AdapterFiles, came: str | Exception) -> None:
        if files is A:
            raise ZeroDivisionError
        taken.set()

    reader = AdapterReader(lambda files: files.key, deliver)
    reader.ask(A)
    reader.ask(B)
    assert taken.wait(WAIT_SECONDS)
    end(reader)
    assert "read for nobody" in caplog.text


def test_the_reader_keeps_nothing_of_what_it_delivered() -> None:
    class Weights:
        pass

    seen: queue.SimpleQueue[weakref.ref[Any]] = queue.SimpleQueue()
    reader = AdapterReader(lambda _: Weights(), lambda _, came: seen.put(weakref.ref(came)))
    reader.ask(A)
    reader.ask(B)
    first = seen.get(timeout=WAIT_SECONDS)
    seen.get(timeout=WAIT_SECONDS)  # the thread is past the first
    gc.collect()
    assert first() is None
    end(reader)
