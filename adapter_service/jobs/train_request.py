"""What a training request may say, and how that becomes the job's settings.

One table serves the HTTP API, the trainer's command line and the quickstart: a parameter that is in
it reaches the trainer from all three, and one that is not is an error.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, Field

from adapter_service.errors import InvalidParameterError
from adapter_service.settings import Section, Settings, validate_section
from adapter_service.settings.section import AdapterName

# Field of a request → (section, key) of the settings that it replaces for this job.
OVERRIDES: dict[str, tuple[str, str]] = {
    "source": ("data", "source"),
    "max_train_samples": ("data", "max_train_samples"),
    "languages": ("data", "languages"),
    "preset": ("training", "preset"),
    "num_epochs": ("training", "num_epochs"),
    "max_steps": ("training", "max_steps"),
    "per_device_train_batch_size": ("training", "per_device_train_batch_size"),
    "gradient_accumulation_steps": ("training", "gradient_accumulation_steps"),
    "learning_rate": ("training", "learning_rate"),
    "loraplus_lr_ratio": ("training", "loraplus_lr_ratio"),
    "lr_scheduler_type": ("training", "lr_scheduler_type"),
    "warmup_steps": ("training", "warmup_steps"),
    "weight_decay": ("training", "weight_decay"),
    "max_grad_norm": ("training", "max_grad_norm"),
    "max_seq_length": ("training", "max_seq_length"),
    "token_budget": ("training", "token_budget"),
    "save_steps": ("training", "save_steps"),
    "seed": ("training", "seed"),
    "lora_r": ("lora", "r"),
    "lora_alpha": ("lora", "alpha"),
    "lora_dropout": ("lora", "dropout"),
    "target_modules": ("lora", "target_modules"),
    "lora_layers": ("lora", "layers"),
    "use_rslora": ("lora", "use_rslora"),
    "loss_vocabulary": ("loss", "vocabulary"),
}


class TrainRequest(Section):
    """A request to train one adapter; what is None comes from adapter_config.yaml.

    `init_adapter` is `name` or `name@version`: training starts from a copy of it.
    """

    model_config = ConfigDict(title="train request")

    adapter: AdapterName
    init_adapter: str | None = Field(default=None, max_length=100)
    source: str | None = Field(default=None, min_length=1, max_length=1000)
    max_train_samples: int | None = None
    languages: list[str] | None = None
    preset: str | None = None
    num_epochs: int | None = None
    max_steps: int | None = None
    per_device_train_batch_size: int | None = None
    gradient_accumulation_steps: int | None = None
    learning_rate: float | None = None
    loraplus_lr_ratio: float | None = None
    lr_scheduler_type: str | None = None
    warmup_steps: int | None = None
    weight_decay: float | None = None
    max_grad_norm: float | None = None
    max_seq_length: int | None = None
    token_budget: int | None = None
    save_steps: int | None = None
    seed: int | None = None
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float | None = None
    target_modules: str | list[str] | None = None
    lora_layers: str | None = None
    use_rslora: bool | None = None
    loss_vocabulary: str | None = None

    def given(self) -> dict[str, Any]:
        """What this request says itself, as JSON."""
        return self.model_dump(mode="json", exclude_none=True)


def settings_for(request: TrainRequest, settings: Settings) -> Settings:
    """The settings with what `request` says in their place, checked as a file's would be.

    A longer `max_seq_length` without a `token_budget` raises the budget with it (`raised_budget`).

    Raises:
        SettingsError: a value out of its bounds, with the bounds.
    """
    sections: dict[str, dict[str, Any]] = {}
    for field, (section, key) in OVERRIDES.items():
        value = getattr(request, field)
        if value is not None:
            sections.setdefault(section, getattr(settings, section).model_dump())[key] = value
    if (budget := raised_budget(request, settings)) is not None:
        sections["training"]["token_budget"] = budget
    changed: Mapping[str, Any] = {
        name: validate_section(type(getattr(settings, name)), values, where=f"request, {name}")
        for name, values in sections.items()
    }
    return settings.model_copy(update=dict(changed))


def raised_budget(request: TrainRequest, settings: Settings) -> int | None:
    """The token budget that takes the configured one's place, where samples of the requested length would not fit."""
    length = request.max_seq_length
    if length is None or request.token_budget is not None or length <= settings.training.token_budget:
        return None
    return length


def going_on_from(lora: Mapping[str, Any], request: TrainRequest, settings: Settings) -> Settings:
    """The settings with the shape of the adapter that training goes on from, `lora` being how it was trained.

    Its matrices are there already, so nothing but dropout can be chosen anew.

    Raises:
        InvalidParameterError: the request asks for another shape.
    """
    # A version from before there was a choice of layers has weights in all of them, and does not say so.
    shape = {key: value for key, value in ({"layers": "all"} | dict(lora)).items() if key != "dropout"}
    for field, (section, key) in OVERRIDES.items():
        wanted = getattr(request, field)
        if section == "lora" and key in shape and wanted is not None and wanted != shape[key]:
            raise InvalidParameterError(
                f"{field} = {wanted!r}, but {request.init_adapter!r} was trained with {reprlib.repr(shape[key])} "
                f"and keeps it; leave {field} out, or train without init_adapter",
                parameter=field,
            )
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=shape)})
