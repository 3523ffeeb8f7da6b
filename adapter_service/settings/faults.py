"""Faults of settings as people read them: place, key, value found, what is allowed, what to do."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from adapter_service.errors import SettingsError
from adapter_service.settings.masking import MASK, is_secret_key
from adapter_service.suggestions import did_you_mean

Model = TypeVar("Model", bound=BaseModel)
Place = Callable[[tuple[str, ...]], str]


def unknown_key(path: Sequence[str], allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    return f"unknown key '{'.'.join(path)}'{did_you_mean(path[-1], names)} allowed: {', '.join(names)}"


def settings_error(faults: Sequence[str]) -> SettingsError:
    """All faults as one error, one on a line."""
    if len(faults) == 1:
        return SettingsError(faults[0])
    return SettingsError(f"{len(faults)} faults in the settings:\n" + "\n".join(f"  {f}" for f in faults))


def validate_section(
    model: type[Model],
    values: Mapping[str, Any],
    *,
    where: str,
    lines: Mapping[str, int] | int | None = None,
    prefix: str = "",
) -> Model:
    """Check a mapping against a model; every fault is in one SettingsError.

    Args:
        where: the file's name (or whatever the values come from), first in each message.
        lines: the line of each dotted key within `values`, or one line for them all.
        prefix: dotted, put before the keys in messages (`sources.web`).
    """

    def place(path: tuple[str, ...]) -> str:
        if isinstance(lines, int):
            return f"{where} line {lines}"
        keys = (".".join(path[:end]) for end in range(len(path), 0, -1))
        line = next((lines[key] for key in keys if key in lines), None) if lines else None
        return where if line is None else f"{where} line {line}"

    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        # Without the cause: pydantic's own text repeats the values, and a value may be a secret.
        faults = faults_of(error, model, place=place, prefix=tuple(prefix.split(".")) if prefix else ())
    raise settings_error(faults)


def faults_of(
    error: ValidationError, model: type[BaseModel], *, place: Place, prefix: tuple[str, ...] = ()
) -> list[str]:
    """One sentence for each fault that pydantic found; `place` is asked with keys below `prefix`."""
    faults: dict[tuple[str, ...], str] = {}
    for detail in error.errors(include_url=False):
        path = _key_path(detail["loc"], model)
        text = _sentence(detail, (*prefix, *path), _fields_at(model, path[:-1]))
        # The members of a union each complain of one value; the first is the plainest.
        faults.setdefault(path, f"{place(path)}: {text}")
    return list(faults.values())


def _sentence(detail: Any, path: tuple[str, ...], allowed: Iterable[str]) -> str:
    kind, message = detail["type"], str(detail["msg"])
    if kind == "extra_forbidden":
        return unknown_key(path, allowed)
    if kind == "missing":
        return f"'{'.'.join(path)}' is missing; add it"
    wish = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if not path or isinstance(detail["input"], Mapping):
        return f"in '{'.'.join(path)}': {wish}" if path else wish
    value = MASK if any(is_secret_key(part) for part in path) else repr(detail["input"])[:80]
    return f"'{'.'.join(path)}' is {value}; {wish.replace('Input should', 'it should')}"


def _key_path(loc: Sequence[int | str], model: type[BaseModel]) -> tuple[str, ...]:
    """pydantic's location without the names of union members that it puts in."""
    path: list[str] = []
    current: type[BaseModel] | None = model
    for i, part in enumerate(loc):
        if isinstance(part, str) and current is None and i and _is_member_name(part):
            continue
        path.append(str(part))
        if isinstance(part, str) and current is not None:
            field = current.model_fields.get(part)
            current = _model_in(field.annotation) if field else None
    return tuple(path)


def _is_member_name(part: str) -> bool:
    return "[" in part or part in {"str", "int", "float", "bool", "[key]"}


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    current: type[BaseModel] | None = model
    for part in path:
        if part.isdecimal():  # a place in a list of models
            continue
        field = current.model_fields.get(part) if current else None
        current = _model_in(field.annotation) if field else None
    return list(current.model_fields) if current else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a field holds: itself, or the only one of an optional or of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in {types.UnionType, typing.Union, typing.Annotated, list}:
        models = [found for member in typing.get_args(annotation) if (found := _model_in(member))]
        return models[0] if len(models) == 1 else None
    return None
