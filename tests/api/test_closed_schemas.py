"""Schemas that allow what they name and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from adapter_service.api.closed_schemas import closed

NAME = {"type": "object", "properties": {"name": {"type": "string"}}}
CLOSED = {**NAME, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (NAME, CLOSED),
        ({"properties": {"a": NAME}}, {"properties": {"a": CLOSED}, "additionalProperties": False}),
        ({"type": "array", "items": NAME}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [NAME, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/N", "$defs": {"N": NAME}}, {"$ref": "#/$defs/N", "$defs": {"N": CLOSED}}),
    ],
)
def test_an_object_that_does_not_say_has_its_own_properties_alone(schema: Any, wanted: Any) -> None:
    assert closed(schema) == wanted


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {**NAME, "additionalProperties": {"type": "integer"}},
        {**NAME, "patternProperties": {"^x": {}}},
        {"allOf": [NAME, {"type": "object", "properties": {"age": {"type": "integer"}}}]},
        {"properties": {"a": {"$ref": "#/$defs/N"}}, "$defs": {"N": {"allOf": [NAME]}}},
        {"items": True},
        {"const": {"properties": 5}},
    ],
)
def test_what_says_more_stays_as_it_is(schema: Any) -> None:
    assert closed(schema) == schema
