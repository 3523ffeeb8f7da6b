"""Requests to a server: who waits, who is told what, and what becomes of them when it is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from adapter_service.backends.dispatcher import Dispatcher, FindLive
from adapter_service.backends.server import Ended, Said
from adapter_service.engine.generations import ChosenToken, Generation, Piece
from adapter_service.engine.measures import Measures
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import (
    AdapterTooLargeError,
    BackendError,
    BackendUnreachableError,
    BusyError,
    InvalidParameterError,
    NotReadyError,
)
from adapter_service.settings import ServingSettings
from tests.backends.scripted import Line, ScriptedServer, spoken, tokens_of
from tests.waiting import eventually

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

LOST = BackendUnreachableError("it is away")
Begin = Callable[..., Dispatcher]


@pytest.fixture
def begin(tiny_base: BaseModel) -> Iterator[Begin]:
    """Starts a dispatcher over a scripted server; all are stopped after the test."""
    begun: list[Dispatcher] = []

    def start(server: ScriptedServer, live: FindLive | Sequence[AdapterFiles] = (), **settings: Any) -> Dispatcher:
        find = live if callable(live) else lambda _: live
        dispatcher = Dispatcher(server, ServingSettings(**settings), find)
        dispatcher.start(tiny_base, Measures())
        begun.append(dispatcher)
        return dispatcher

    yield start
    for dispatcher in begun:
        dispatcher.stop(drain_seconds=0)


def asked(dispatcher: Dispatcher, prompt: str = "hi", **options: Any) -> Generation:
    beside = {name: options.pop(name) for name in ("adapter", "count") if name in options}
    sampling = Sampling(**{"max_new_tokens": 50, **options})
    generation = Generation(Ask(list(tokens_of(prompt)), sampling, **beside))
    dispatcher.submit(generation)
    return generation


def test_an_answer_is_told_piece_by_piece_and_then_whole(begin: Begin) -> None:
    dispatcher = begin(ScriptedServer([[*spoken("grüße"), Ended("stop")]]))
    generation = asked(dispatcher)
    result = generation.result(10)
    assert (result.only.text, result.only.finish_reason, result.only.completion_tokens) == ("grüße", "stop", 7)
    heard: list[Any] = []
    generation.listen(heard.append)
    pieces = [event for event in heard if isinstance(event, Piece)]
    assert "".join(piece.text for piece in pieces) == "grüße"
    assert [piece.finish_reason for piece in pieces][-1] == "stop"


def test_a_stop_text_ends_the_answer_here_and_closes_it_there(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("one. two. three"), Ended("stop")]])
    result = asked(begin(server), stop=("two",)).result(10)
    assert (result.only.text, result.only.finish_reason) == ("one. ", "stop")
    assert server.closed == 1


def test_an_end_token_is_no_part_of_the_answer(begin: Begin, tiny_base: BaseModel) -> None:
    (end,) = tiny_base.eos_ids()
    script = [*spoken("ab"), Said(ChosenToken(end, -0.1)), *spoken("c")]
    result = asked(begin(ScriptedServer([script])), return_tokens=True).result(10)
    assert (result.only.text, result.only.completion_tokens) == ("ab", 2)
    assert result.only.tokens is not None
    assert result.only.tokens.ids[-1] == end
    assert result.only.tokens.sampling_logprobs == [0.0] * 3


def test_what_was_drawn_elsewhere_has_no_sampling_logprobs(begin: Begin) -> None:
    dispatcher = begin(ScriptedServer([[*spoken("ab"), Ended("stop")]]))
    tokens = asked(dispatcher, do_sample=True, return_tokens=True).result(10).only.tokens
    assert tokens is not None
    assert (tokens.logprobs, tokens.sampling_logprobs) == ([-0.5, -0.5], [None, None])


def test_several_answers_have_seeds_of_their_own(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("a"), Ended("stop")], [*spoken("b"), Ended("stop")]])
    result = asked(begin(server), count=2, do_sample=True, seed=7).result(10)
    assert sorted(choice.text for choice in result.choices) == ["a", "b"]
    assert [wanted.sampling.seed for wanted in server.wanted] == [7, 8]


def test_an_answer_without_room_for_a_token_asks_nobody(begin: Begin) -> None:
    server = ScriptedServer()
    assert asked(begin(server), max_new_tokens=0).result(10).only.finish_reason == "length"
    assert not server.wanted


def test_no_more_are_asked_at_a_time_than_there_are_places(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("ab"), Ended("stop")]] * 6, places=2)
    dispatcher = begin(server)
    generations = [asked(dispatcher, count=1 + number % 2) for number in range(4)]
    assert [generation.result(10).choices[0].text for generation in generations] == ["ab"] * 4
    assert server.most_running == 2


def test_who_is_too_many_is_told_to_come_back(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("ab"), Ended("stop")]] * 4, places=1)
    server.waits = True
    dispatcher = begin(server, queue_size=2)
    first = asked(dispatcher)
    wait_for(lambda: dispatcher.active == 1)
    waiting = [asked(dispatcher), asked(dispatcher)]
    assert dispatcher.waiting == 2
    with pytest.raises(BusyError):
        asked(dispatcher)
    waiting[0].cancel()
    assert waiting[0].result(10).only.finish_reason == "cancelled"
    assert (dispatcher.waiting, first.cancelled) == (1, False)


def test_who_goes_away_ends_the_answer_where_it_is(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("abcdef"), Ended("stop")]])
    server.waits = True
    dispatcher = begin(server)
    generation = asked(dispatcher)
    wait_for(lambda: bool(server.running))
    step(dispatcher, server, 3)
    wait_for(lambda: len(heard(generation)) == 3)
    generation.cancel()
    result = generation.result(10)
    assert (result.only.text, result.only.finish_reason) == ("abc", "cancelled")
    assert server.closed == 1


def test_an_answer_goes_on_elsewhere_after_what_was_said(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("abc"), LOST], [*spoken("def"), Ended("stop")]])
    result = asked(begin(server), max_new_tokens=9, min_new_tokens=5).result(20)
    assert result.only.text == "abcdef"
    again = server.wanted[1]
    assert again.prompt_ids == list(tokens_of("hiabc"))
    assert (again.sampling.max_new_tokens, again.sampling.min_new_tokens) == (6, 2)


@pytest.mark.parametrize("options", [{"do_sample": True}, {"repetition_penalty": 1.1}, {"presence_penalty": 0.5}])
def test_what_would_be_said_otherwise_does_not_go_on(begin: Begin, options: dict[str, Any]) -> None:
    server = ScriptedServer([[*spoken("abc"), LOST], [*spoken("def"), Ended("stop")]])
    with pytest.raises(BackendUnreachableError):
        asked(begin(server), **options).result(20)


def test_what_is_told_as_text_alone_begins_anew_and_does_not_go_on(begin: Begin) -> None:
    scripts: list[Sequence[Line]] = [[LOST], [*spoken("abc"), LOST]]
    server = ScriptedServer(scripts, tells_tokens=False)
    with pytest.raises(BackendUnreachableError):
        asked(begin(server)).result(20)
    assert len(server.wanted) == 2


def test_a_server_that_stays_away_is_an_error_after_some_tries(begin: Begin) -> None:
    server = ScriptedServer([[LOST]] * 5)
    with pytest.raises(BackendUnreachableError):
        asked(begin(server)).result(20)
    assert len(server.wanted) == 3


def test_a_refusal_is_no_loss(begin: Begin) -> None:
    server = ScriptedServer([[BackendError("no")], [*spoken("a"), Ended("stop")]])
    with pytest.raises(BackendError, match=r"^no$"):
        asked(begin(server)).result(10)
    assert len(server.wanted) == 1


def test_nobody_is_asked_while_nobody_answers(begin: Begin) -> None:
    server = ScriptedServer()
    dispatcher = begin(server)
    server.fault = "all servers are away"
    with pytest.raises(BackendUnreachableError, match="all servers are away"):
        dispatcher.check(Ask([2], Sampling()))


@pytest.mark.parametrize(
    "ask", [Ask([2], Sampling(script="Latn", foreign_script_penalty=5.0)), Ask([2], Sampling(), prompt_logprobs=1)]
)
def test_what_the_engine_alone_has_is_refused(begin: Begin, ask: Ask) -> None:
    with pytest.raises(InvalidParameterError, match=r"backend\.kind is scripted"):
        begin(ScriptedServer()).check(ask)


def test_an_adapter_is_loaded_once_for_all_who_want_it(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    server = ScriptedServer([[*spoken("a"), Ended("stop")]] * 3)
    dispatcher = begin(server)
    generations = [asked(dispatcher, adapter=files("x")) for _ in range(3)]
    assert [one.result(10).only.text for one in generations] == ["a"] * 3
    assert server.loaded == ["x"]
    assert {wanted.adapter.key for wanted in server.wanted if wanted.adapter} == {"x"}


def test_one_that_cannot_be_loaded_fails_its_requests_alone(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    server = ScriptedServer([[*spoken("a"), Ended("stop")]])
    server.refused.add("bad")
    dispatcher = begin(server)
    bad, good = asked(dispatcher, adapter=files("bad")), asked(dispatcher, adapter=files("good"))
    with pytest.raises(BackendError, match="bad@1 is refused"):
        bad.result(10)
    assert good.result(10).only.text == "a"


def test_live_versions_are_loaded_and_what_they_replaced_goes_after_its_last_answer(
    begin: Begin, files: Callable[[str], AdapterFiles]
) -> None:
    server = ScriptedServer([[*spoken("ab"), Ended("stop")]])
    live = [files("old")]
    dispatcher = begin(server, live)
    wait_for(lambda: server.loaded == ["old"])
    server.waits = True
    generation = asked(dispatcher, adapter=files("old"))
    wait_for(lambda: bool(server.running))
    live[:] = [files("new")]
    dispatcher.look_at_live()
    wait_for(lambda: server.loaded == ["old", "new"])
    assert server.unloaded == []
    step(dispatcher, server, 3)
    assert generation.result(10).only.text == "ab"
    wait_for(lambda: server.unloaded == ["old"])


def test_the_one_used_longest_ago_makes_room(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    server = ScriptedServer([[*spoken("a"), Ended("stop")]] * 3)
    dispatcher = begin(server, max_adapters=2)
    for name in ("x", "y", "z"):
        asked(dispatcher, adapter=files(name)).result(10)
    wait_for(lambda: server.unloaded == ["x"])
    assert dispatcher.resident_adapters() == ["y", "z"]


def test_at_the_end_those_under_way_have_their_time(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("ab"), Ended("stop")]] * 2, places=1)
    server.waits = True
    dispatcher = begin(server)
    first, second = asked(dispatcher), asked(dispatcher)
    wait_for(lambda: dispatcher.active == 1)
    dispatcher.stop(drain_seconds=10)
    with pytest.raises(NotReadyError):
        asked(dispatcher)
    step(dispatcher, server, 6)
    assert [one.result(10).only.text for one in (first, second)] == ["ab", "ab"]


def test_what_has_not_begun_at_the_end_is_refused_and_what_has_is_cut_off(begin: Begin) -> None:
    server = ScriptedServer([[*spoken("ab"), Ended("stop")]], places=1)
    server.waits = True
    dispatcher = begin(server)
    first, second = asked(dispatcher), asked(dispatcher)
    wait_for(lambda: dispatcher.active == 1)
    dispatcher.stop(drain_seconds=0)
    assert first.result(10).only.finish_reason == "cancelled"
    with pytest.raises(NotReadyError):
        second.result(10)


def test_what_is_live_stays_loaded_while_nobody_knows_what_is(
    begin: Begin, files: Callable[[str], AdapterFiles]
) -> None:
    server, looked = ScriptedServer(), 0
    live = [files("x")]

    def find(_: str) -> Sequence[AdapterFiles]:
        nonlocal looked
        looked += 1
        if looked > 1:
            raise OSError("the database is locked")
        return live

    dispatcher = begin(server, find)
    wait_for(lambda: server.loaded == ["x"])
    dispatcher.look_at_live()
    wait_for(lambda: looked > 1)
    dispatcher.load(files("y"))  # which takes its turn after that look
    assert (server.unloaded, dispatcher.resident_adapters()) == ([], ["x", "y"])


def test_live_versions_take_the_room_that_there_is_and_no_more(
    begin: Begin, files: Callable[[str], AdapterFiles]
) -> None:
    server = ScriptedServer()
    dispatcher = begin(server, [files(name) for name in ("x", "y", "z")], max_adapters=2)
    wait_for(lambda: server.loaded == ["x", "y"])
    for _ in range(3):
        dispatcher.look_at_live()
        dispatcher.load(files("x"))
    assert (server.loaded, server.unloaded) == (["x", "y"], [])


def test_what_waits_for_room_is_not_loaded_and_given_up_with_its_last_request(
    begin: Begin, files: Callable[[str], AdapterFiles]
) -> None:
    server = ScriptedServer([[*spoken("a"), Ended("stop")]] * 2)
    server.waits = True
    dispatcher = begin(server, max_adapters=1)
    first = asked(dispatcher, adapter=files("x"))
    wait_for(lambda: dispatcher.active == 1)
    others = [asked(dispatcher, adapter=files(name)) for name in ("y", "z", "y")]
    for other in others:
        other.cancel()
        other.result(10)
    server.waits = False
    step(dispatcher, server, 2)
    assert first.result(10).only.text == "a"
    assert asked(dispatcher, adapter=files("w")).result(10).only.text == "a"
    wait_for(lambda: server.unloaded == ["x"])
    assert server.loaded == ["x", "w"]


def test_one_that_is_too_large_is_loaded_nowhere(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    server = ScriptedServer()
    with pytest.raises(AdapterTooLargeError):
        begin(server, max_adapter_bytes=3).load(files("big"))
    assert server.loaded == []


def test_one_whose_files_cannot_be_read_is_an_error_of_ours(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    (broken := files("broken")).folder.joinpath("adapter_model.safetensors").unlink()
    broken.folder.joinpath("adapter_model.safetensors").symlink_to(broken.folder / "nowhere")
    with pytest.raises(BackendError, match="broken@1 cannot be read"):
        begin(ScriptedServer()).load(broken)


def test_a_load_ends_with_the_service(begin: Begin, files: Callable[[str], AdapterFiles]) -> None:
    server = ScriptedServer()
    server.loads_hang = True
    dispatcher = begin(server)
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(dispatcher.load, files("y"))
        wait_for(lambda: dispatcher.resident_adapters() == ["y"])
        dispatcher.stop(drain_seconds=0)
        with pytest.raises(NotReadyError):
            loading.result(10)
    with pytest.raises(NotReadyError):
        dispatcher.load(files("z"))
    assert dispatcher.metrics() == []


def test_one_that_has_ended_begins_nothing_when_it_is_stopped_again(begin: Begin) -> None:
    class StopsAgain(ScriptedServer):
        async def close(self) -> None:
            dispatcher.stop(drain_seconds=1)

    dispatcher = begin(StopsAgain())
    dispatcher.stop(drain_seconds=0)
    assert len(dispatcher._drains) == 1  # another may be one that never runs, for the loop closes


def wait_for(truth: Callable[[], bool]) -> None:
    eventually(truth, "what was waited for", seconds=20)


def heard(generation: Generation) -> list[Any]:
    events: list[Any] = []
    generation.listen(events.append)
    return events


def step(dispatcher: Dispatcher, server: ScriptedServer, count: int) -> None:
    """Let it say so much more."""
    for _ in range(count):
        dispatcher._soon(server.steps.release)
