"""A node's commands, ready to route: the prompt of training, the functions of the node, arguments that make sense."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
import torch

from adapter_service.commands.prompting import Context, prompt_of
from adapter_service.commands.retrieval import MOST_CANDIDATES
from adapter_service.commands.router import Router
from adapter_service.commands.sentences import dataset_of
from adapter_service.commands.tools import tools_of
from adapter_service.conversation import Tool
from adapter_service.errors import InvalidParameterError
from tests.commands.making import command, numbered, read

ZONE = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 3, 4, 12, 0, tzinfo=ZONE)
TIMER = command(
    "set_timer",
    *((f"{n} minutes", {"minutes": n}) for n in range(2, 8)),
    parameters=[{"name": "minutes", "type": "int"}, {"name": "due", "type": "datetime", "required": False}],
)


def test_a_question_is_asked_as_samples_were() -> None:
    commands = read(TIMER, numbered("dance", 5))
    question = Router(commands, holdout_fraction=0.2).question("five minutes", Context(NOW, ("hall",)))
    assert question.messages == prompt_of(commands, "five minutes", Context(NOW, ("hall",)))
    assert [function.name for function in question.functions] == ["set_timer", "dance"]


def test_of_many_commands_the_likeliest_are_offered_and_what_is_no_command_stays() -> None:
    commands = read(TIMER, *(numbered(f"act{n}", 4) for n in range(30)))
    router = Router(commands, holdout_fraction=0.2)
    offered = router.question("five minutes please", Context(NOW)).functions
    assert len(offered) == MOST_CANDIDATES
    assert "set_timer" in {function.name for function in offered}
    chosen = router.candidates([*tools_of(commands), Tool("own", {})], "five minutes please")
    assert [tool.name for tool in chosen] == [*(function.name for function in offered), "own"]


def by_first_word(texts: Sequence[str]) -> torch.Tensor:
    """As a base would that minds nothing else."""
    return torch.nn.functional.one_hot(
        torch.tensor([sum(text.split(maxsplit=1)[0].encode()) % 16 for text in texts]), 16
    ).float()


def test_an_answer_is_held_to_what_a_sentence_can_mean_and_the_prompt_has_all() -> None:
    commands = read(numbered("sing", 25), numbered("dance", 25), command("rest", "rest"))
    router = Router(commands, holdout_fraction=0.2, embed=by_first_word)
    question = router.question("dance with me", Context(NOW))
    assert question.messages == prompt_of(commands, "dance with me", Context(NOW))
    assert [function.name for function in question.functions] == ["dance", "rest"]  # of one example nobody can tell
    sing, own = tools_of(commands)[0], Tool("own", {})
    assert router.likely([sing, own], "dance with me") == (own,)
    assert router.likely([sing], "dance with me") == (sing,)  # it has to be something
    assert router.likely([sing, own], " ") == (sing, own)


def test_a_room_is_filled_in_where_it_was_learned_and_not_where_it_was_held_out() -> None:
    rooms = [f"room{letter}" for letter in "abcdefghijkl"]
    room = {"name": "room", "type": "string", "options_source": "rooms", "required": False}
    commands = read(command("light", *((f"Dim the {one}", {"room": one}) for one in rooms), parameters=[room]))
    router = Router(commands, holdout_fraction=0.25)
    filled_in = {one for one in rooms if router.grounded("light", {}, f"Dim the {one}", Context(NOW))}
    training = dataset_of(commands, holdout_fraction=0.25).training
    assert filled_in == {one.arguments["room"] for one in training if one.command_name} < set(rooms)


def test_arguments_are_the_commands_own_and_of_their_types() -> None:
    router = Router(read(TIMER), holdout_fraction=0.2)
    found = router.arguments("set_timer", {"minutes": 5, "due": "in_10_minutes"}, NOW, ZONE)
    assert found == {"minutes": 5, "due": "2026-03-04T12:10:00+01:00"}
    for wrong in ({"minutes": "five"}, {"hours": 5}, {"minutes": 5, "due": "soon"}):
        with pytest.raises(InvalidParameterError, match="set_timer"):
            router.arguments("set_timer", wrong, NOW, ZONE)
