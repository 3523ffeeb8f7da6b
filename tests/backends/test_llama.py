"""llama.cpp's children: which adapters they have, who takes over from whom, and what is lost with one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import psutil
import pytest

from adapter_service.backends import gguf_adapter, llama, llama_process
from adapter_service.backends.dispatcher import Dispatcher
from adapter_service.backends.llama import LlamaServer
from adapter_service.engine.generations import Generation
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import (
    BackendError,
    BackendUnreachableError,
    InvalidParameterError,
    NotReadyError,
    PromptTooLongError,
)
from adapter_service.settings import ServingSettings
from tests.waiting import eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

DOUBLE = "tests.backends.llama_double"
FOREVER, PROMPT, CRASH = [2, 3], [2, 3, 4], [2]


@pytest.fixture
def dispatcher(tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dispatcher]:
    """Over children that are doubles; their adapter files are empty."""
    monkeypatch.setattr(llama_process, "CHILD", DOUBLE)
    monkeypatch.setattr(llama, "_FIRST_WAIT_SECONDS", 0.05)
    monkeypatch.setattr(llama, "find_spec", lambda _: True)
    monkeypatch.setattr(llama, "read_version", lambda *_: {})
    monkeypatch.setattr(gguf_adapter, "architecture_of", lambda _: "llama")
    monkeypatch.setattr(gguf_adapter, "write_gguf_adapter", lambda _, path, *__: path.touch())
    server = LlamaServer(lambda: Path("/m.gguf"), tmp_path / "llama", places=4, context_tokens=64, threads=1)
    made = Dispatcher(server, ServingSettings(max_adapters=4), lambda _: ())
    made.start(tiny_base, Measures())
    eventually(lambda: made.fault is None, "it answers", seconds=30)
    yield made
    made.stop(drain_seconds=0)
    eventually(lambda: not children(), "no process stays", seconds=20)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_of_llama(child)]


def is_of_llama(child: psutil.Process) -> bool:
    """And has not ended, which it may do while it is asked."""
    try:
        return child.status() != "zombie" and DOUBLE in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        return False


def asked(
    dispatcher: Dispatcher,
    adapter: AdapterFiles | None = None,
    prompt: list[int] = PROMPT,
    scale: float = 1.0,
    **options: Any,
) -> Generation:
    ask = Ask(prompt, Sampling(**{"max_new_tokens": 60, **options}), adapter, scale)
    dispatcher.check(ask)
    generation = Generation(ask)
    dispatcher.submit(generation)
    return generation


def test_every_request_names_every_adapter(dispatcher: Dispatcher, files: Callable[[str], AdapterFiles]) -> None:
    assert asked(dispatcher).result(20).only.text == "none"
    a, b = files("a"), files("b")
    assert asked(dispatcher, a).result(20).only.text == "0:1.0"
    assert asked(dispatcher, b, scale=0.5).result(20).only.text == "0:0.0 1:0.5"
    assert asked(dispatcher, a).result(20).only.text == "0:1.0 1:0.0"
    assert asked(dispatcher).result(20).only.text == "0:0.0 1:0.0"
    assert len(children()) == 1


def test_the_one_that_is_replaced_ends_with_its_last_answer(
    dispatcher: Dispatcher, files: Callable[[str], AdapterFiles]
) -> None:
    going_on = asked(dispatcher, files("a"), FOREVER, max_new_tokens=50)
    endless = asked(dispatcher, files("a"), FOREVER, max_new_tokens=62)
    dispatcher.load(files("b"))
    assert asked(dispatcher, files("b")).result(20).only.text == "0:0.0 1:1.0"
    assert going_on.result(30).only.finish_reason == endless.result(30).only.finish_reason == "length"
    eventually(lambda: len(children()) == 1, "the first one has ended", seconds=20)


def test_one_that_ends_by_itself_is_started_again_with_all_adapters(
    dispatcher: Dispatcher, files: Callable[[str], AdapterFiles]
) -> None:
    dispatcher.load(files("a"))
    (child,) = children()
    os.kill(child.pid, signal.SIGKILL)
    eventually(lambda: [one.pid for one in children()] not in ([], [child.pid]), "another is started", seconds=20)
    eventually(lambda: dispatcher.fault is None, "it answers", seconds=20)
    assert asked(dispatcher, files("a")).result(20).only.text == "0:1.0"


def test_what_was_said_before_it_ended_cannot_go_on(dispatcher: Dispatcher) -> None:
    with pytest.raises(BackendUnreachableError):
        asked(dispatcher, prompt=CRASH).result(20)


def test_an_adapter_that_it_refuses_harms_no_other(
    dispatcher: Dispatcher, files: Callable[[str], AdapterFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_DOUBLE_SECONDS", "0.3")
    with ThreadPoolExecutor(3) as pool:
        first, bad, good = (pool.submit(dispatcher.load, files(name)) for name in ("first", "bad", "good"))
        first.result(30)
        good.result(30)
        with pytest.raises(BackendError, match=r"failed to load bad\.gguf"):
            bad.result(30)
    assert sorted(dispatcher.resident_adapters()) == ["first", "good"]
    assert asked(dispatcher, files("good")).result(20).only.text.endswith("1.0")


def test_one_that_is_unloaded_while_a_child_starts_harms_nobody(
    dispatcher: Dispatcher, files: Callable[[str], AdapterFiles], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    dispatcher.load(files("old"))
    monkeypatch.setenv("LLAMA_DOUBLE_SECONDS", "0.5")
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(dispatcher.load, files("new"))
        eventually(lambda: len(children()) == 2, "the next one starts", seconds=20)
        dispatcher._wait_for(lambda: dispatcher._server.unload("old"))
        loading.result(20)
    dispatcher.load(files("newer"))
    server = cast("LlamaServer", dispatcher._server)
    eventually(lambda: len(server._processes) == 1, "others are known to have ended", seconds=20)
    dispatcher.load(files("newest"))
    assert {path.stem for path in (tmp_path / "llama").glob("*.gguf")} == {"new", "newer", "newest"}


def test_files_of_an_earlier_run_go(
    tmp_path: Path, dispatcher: Dispatcher, files: Callable[[str], AdapterFiles]
) -> None:
    (tmp_path / "llama" / "older.gguf").touch()
    dispatcher.load(files("a"))
    assert {path.stem for path in (tmp_path / "llama").glob("*.gguf")} == {"a"}


def test_no_child_stays_when_the_service_ends_while_one_starts(
    dispatcher: Dispatcher, files: Callable[[str], AdapterFiles], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_DOUBLE_SECONDS", "5")
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(dispatcher.load, files("a"))
        eventually(lambda: len(children()) == 2, "the next one starts", seconds=20)
        dispatcher.stop(drain_seconds=0)
        with pytest.raises(NotReadyError):
            loading.result(20)
    eventually(lambda: not children(), "none stays", seconds=3)


def test_ctrl_c_is_not_for_the_child(dispatcher: Dispatcher) -> None:
    (child,) = children()
    assert os.getpgid(child.pid) != os.getpgid(0)


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (Ask([2], Sampling(min_new_tokens=3)), InvalidParameterError),
        (Ask([2], Sampling(return_tokens=True)), InvalidParameterError),
        (Ask([2] * 40, Sampling(max_new_tokens=30)), PromptTooLongError),
    ],
)
def test_what_it_cannot_do_is_refused(dispatcher: Dispatcher, ask: Ask, error: type[Exception]) -> None:
    with pytest.raises(error):
        dispatcher.check(ask)


def test_a_number_that_it_refuses_is_the_callers(dispatcher: Dispatcher) -> None:
    with pytest.raises(InvalidParameterError, match="temperature is too high"):
        asked(dispatcher, do_sample=True, temperature=10.0).result(20)


def test_its_metrics_have_its_name(dispatcher: Dispatcher) -> None:
    assert dispatcher.metrics() == [("llama.cpp", "# TYPE llamacpp:x counter\nllamacpp:x 1\n")]


def test_one_that_cannot_be_started_says_why_and_is_tried_again(
    tiny_base: BaseModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda _: True)
    monkeypatch.setattr(llama_process, "CHILD", "tests.backends.nobody")
    server = LlamaServer(lambda: Path("/m.gguf"), tmp_path / "llama", places=1, context_tokens=64, threads=1)
    made = Dispatcher(server, ServingSettings(), lambda _: ())
    made.start(tiny_base, Measures())
    try:
        eventually(lambda: "No module named tests.backends.nobody" in (made.fault or ""), "it says so", seconds=20)
        monkeypatch.setattr(llama_process, "CHILD", DOUBLE)
        eventually(lambda: made.fault is None, "it is tried again", seconds=20)
    finally:
        made.stop(drain_seconds=0)
