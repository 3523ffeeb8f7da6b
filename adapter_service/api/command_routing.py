"""From a sentence to the call that it means: a node's adapter is asked, held to the form of its commands."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from adapter_service.adapter_names import BASE
from adapter_service.adapters import Version
from adapter_service.api.callers import Caller
from adapter_service.api.node_chats import NodeRouter
from adapter_service.api.schemas.commands import HubJobError, RouteAnswer, RoutedCall
from adapter_service.api.services import Services
from adapter_service.commands import nodes
from adapter_service.commands.object_reader import Bounds, ObjectReader, opened, read_trace_id
from adapter_service.commands.prompting import NONE_FITS, Context
from adapter_service.commands.training_request import read_time_zone
from adapter_service.engine.generations import Generation, GenerationResult
from adapter_service.engine.requests import AdapterFiles, Ask, Sampling
from adapter_service.errors import InvalidParameterError, InvalidSchemaError, SchemaFault, UnknownNodeError
from adapter_service.jobs.routed_answers import routed

_MOST_ANSWER_TOKENS, _LEAST_ANSWER_TOKENS = 256, 32
_NAMES = Bounds(64)
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is to be routed, as it was read."""

    node_id: str
    text: str
    rooms: tuple[str, ...]
    devices: tuple[str, ...]
    time_zone: str | None
    trace_id: str | None


@dataclass(frozen=True, slots=True)
class AskedRoute:
    """One sentence under way, at `now`, which its date keys are resolved by."""

    sentence: Sentence
    node: NodeRouter
    generation: Generation
    version: Version | None
    now: datetime
    zone: ZoneInfo
    trace_id: str
    arrived_at: float

    def answer(self, result: GenerationResult) -> RouteAnswer:
        said = routed(result.only.text)
        calls, error = [], None
        if not said.is_valid:
            error = HubJobError(code="no_call", message="the answer was cut off before its end; ask again in few words")
        elif said.name is not None:
            try:
                arguments = self._arguments(said.name, said.arguments or {})
            except InvalidParameterError as fault:
                error = HubJobError(code="invalid_arguments", message=str(fault))
            else:
                calls = [RoutedCall(name=said.name, arguments=arguments)]
        return RouteAnswer(
            message=None if calls or error else NONE_FITS,
            tool_calls=calls,
            error=error,
            node_id=self.sentence.node_id,
            answered_by=self.version.reference if self.version else BASE,
            by_base=self.version is None,
            latency_ms=round((time.monotonic() - self.arrived_at) * 1000, 1),
            trace_id=self.trace_id,
        )

    def _arguments(self, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
        sentence, router = self.sentence, self.node.router
        context = Context(self.now, sentence.rooms, sentence.devices)
        return router.arguments(name, router.grounded(name, given, sentence.text, context), self.now, self.zone)


def read_sentence(body: Any, services: Services, caller: Caller) -> Sentence:
    """The body of a request to route.

    Raises:
        InvalidSchemaError: with every fault in it.
        UnknownNodeError: the key is another node's.
    """
    given = opened(body)
    faults = given.faults
    node_id = given.text("node_id", longest=_LONGEST, required=caller.node_id is None) or (caller.node_id or "")
    if node_id and (fault := nodes.fault_of(node_id)) is not None:
        given.fault("node_id", "invalid_type", fault)
    text = given.text("text", longest=services.settings.commands.max_text_characters)
    trace_id = read_trace_id(given)
    rooms, devices, time_zone = _context(given.value("context"), given, faults)
    given.end()
    if faults:
        raise InvalidSchemaError(faults)
    caller.check_node(node_id, UnknownNodeError(f"node {node_id!r} has posted no commands yet; post them first"))
    return Sentence(node_id, text, rooms, devices, time_zone, trace_id)


def ask_route(sentence: Sentence, services: Services, *, trace_id: str, arrived_at: float) -> AskedRoute:
    """Put the sentence into the engine's queue.

    Raises:
        UnknownNodeError: the node has posted no commands.
        ConflictError: it was trained with its hub's own prompts.
        NotReadyError: the base still loads.
    """
    engine = services.engine
    version = services.versions.live(nodes.adapter_of(sentence.node_id))
    if version is not None and version.base_id != engine.base.identity:
        version = None
    node = services.hub.routers.of(sentence.node_id, version)
    zone = ZoneInfo(sentence.time_zone) if sentence.time_zone else node.zone
    now = datetime.now(UTC).astimezone(zone)
    question = node.router.question(sentence.text, Context(now, sentence.rooms, sentence.devices))
    prompt_ids = engine.prompt_ids(question.messages, as_it_stands=False)
    room = max(_LEAST_ANSWER_TOKENS, min(_MOST_ANSWER_TOKENS, engine.base.context_tokens - len(prompt_ids)))
    sampling = Sampling(max_new_tokens=room, constraint=services.answer_forms.of_calls(question.functions, NONE_FITS))
    generation = engine.submit(Ask(prompt_ids, sampling, AdapterFiles.of(version) if version else None))
    return AskedRoute(sentence, node, generation, version, now, zone, sentence.trace_id or trace_id, arrived_at)


def _context(
    value: Any, given: ObjectReader, faults: list[SchemaFault]
) -> tuple[tuple[str, ...], tuple[str, ...], str | None]:
    """Rooms, devices and time zone."""
    if value is None:
        return (), (), None
    if not isinstance(value, Mapping):
        given.fault("context", "invalid_type", "it is no object; send one, or leave it out")
        return (), (), None
    context = ObjectReader(value, "context", faults)
    rooms = context.texts("rooms", _NAMES, longest=_LONGEST)
    devices = context.texts("devices", _NAMES, longest=_LONGEST)
    zone = read_time_zone(context)
    context.end()
    return rooms, devices, zone
