"""What the service would do with these settings, found out by trying: `adapter-service check`.

Nothing is trained, fetched or written; sources are opened and their first bytes read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from adapter_service import languages
from adapter_service.base_models.locating import locate
from adapter_service.base_models.own_tokenizer import locate_tokenizer
from adapter_service.connectors.registry import open_source
from adapter_service.errors import AdapterServiceError, SettingsError
from adapter_service.publishing.opening import open_store
from adapter_service.settings import Settings, SourceEntry, StoreSettings
from adapter_service.training.batching import planned_steps, sequences_per_step


@dataclass
class Report:
    """`rows` are (subject, what is so); `notes` change nothing; `problems` keep a job from succeeding."""

    rows: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems


def check(settings: Settings, *, measure_precision: bool = True) -> Report:
    """Look at everything that settings name. `measure_precision=False` leaves out what loads torch."""
    report = Report(notes=list(settings.notes))
    report.rows += _files(settings)
    _try(report, "base model", lambda: _base(settings))
    if measure_precision:
        _try(report, "precision", lambda: _precision(settings))
    report.rows += [("adapter", _adapter(settings)), ("recipe", _recipe(settings))]
    _try(report, "languages", lambda: _languages(settings))
    for entry in settings.sources.values():
        _source(report, entry, settings)
    report.rows.append(("gate", _gate(settings)))
    for store in settings.publishing.stores:
        _store(report, store, settings.storage.state_dir)
    _try(report, "state", lambda: _state(settings.storage.state_dir))
    report.rows.append(("callers", _callers(settings)))
    return report


def _try(report: Report, subject: str, find_out: Callable[[], str]) -> None:
    try:
        report.rows.append((subject, find_out()))
    except AdapterServiceError as error:
        report.rows.append((subject, "see the problems below"))
        report.problems.append(f"{subject}: {error}")


def _files(settings: Settings) -> list[tuple[str, str]]:
    built_in = "none found; the built-in defaults hold"
    return [
        ("settings", str(settings.config_path or built_in)),
        ("sources", str(settings.sources_path or built_in)),
    ]


def _base(settings: Settings) -> str:
    place = locate(settings.model.base, settings.model.revision)
    whence = {
        "package": f"from an installed package ({len(place.parts)} files), imported once into the state",
        "gguf": "from a GGUF file, imported once into the state",
        "folder": f"from the folder {place.folder}",
        "hub": f"from the Hugging Face Hub, revision {place.revision or 'main'}",
    }
    tokenizer = settings.model.tokenizer
    own = "" if tokenizer is None else f", with the tokenizer {locate_tokenizer(tokenizer).name} in place of its own"
    return f"{place.name}, {whence[place.kind]}{own}"


def _precision(settings: Settings) -> str:
    from adapter_service.base_models.precision import choose_precision

    chosen = choose_precision(
        device=settings.model.device,
        dtype=settings.model.dtype,
        use_8bit=settings.quantization.use_8bit,
        use_4bit=settings.quantization.use_4bit,
        threads=settings.model.threads,
    ).to_dict()
    width = "not quantized" if chosen["quantization"] == "none" else f"held as {chosen['quantization']}"
    return f"{chosen['dtype']} on {chosen['device']}, {width}: {chosen['reason']}"


def _adapter(settings: Settings) -> str:
    lora = settings.lora
    targets = lora.target_modules if isinstance(lora.target_modules, str) else ", ".join(lora.target_modules)
    scale = "rank-stabilized" if lora.use_rslora else "plain"
    layers = "" if lora.layers == "all" else " of the upper half of the decoder's layers"
    return f"rank {lora.r}, alpha {lora.alpha} ({scale}), dropout {lora.dropout:g}, on {targets}{layers}"


def _recipe(settings: Settings) -> str:
    training, data = settings.training, settings.data
    steps = planned_steps(data.max_train_samples, training)
    tail = settings.loss.sampled_tokens
    sampled = f"; loss over the samples' tokens and {tail} others" if settings.loss.vocabulary == "sampled" else ""
    return (
        f"up to {data.max_train_samples} samples from '{data.source}', {sequences_per_step(training)} per step, "
        f"at most {steps} steps; at most {training.max_seq_length} tokens each, "
        f"{training.token_budget} padded tokens at a time, preset {training.preset}{sampled}"
    )


def _languages(settings: Settings) -> str:
    found = [languages.find(name) for name in settings.data.languages]
    return ", ".join(f"{language.name} ({language.tag})" for language in found) or "every one in the source"


def _source(report: Report, entry: SourceEntry, settings: Settings) -> None:
    """One row; a fault is a problem where jobs use the source unasked, else a note."""
    used = entry.name in {settings.data.source, settings.data.fallback_source}
    subject = f"source '{entry.name}'"
    try:
        report.rows.append((subject, f"{entry.kind}: {open_source(entry).check()}"))
    except AdapterServiceError as error:
        report.rows.append((subject, f"{entry.kind}: cannot be read now, see below"))
        (report.problems if used else report.notes).append(f"{subject}: {error}")


def _store(report: Report, settings: StoreSettings, state_dir: Path) -> None:
    """One row; a store that is away is a note, because what is to be pushed there waits for it."""
    subject = f"store '{settings.name}'"
    try:
        store = open_store(settings, state_dir)
        report.rows.append((subject, f"{store.shown}, {sum(1 for _ in store.places())} versions"))
    except AdapterServiceError as error:
        report.rows.append((subject, f"{settings.kind}: cannot be reached now, see below"))
        report.notes.append(f"{subject}: {error}")


def _gate(settings: Settings) -> str:
    gate = settings.gate
    if not gate.enabled:
        return "off: whatever is trained is served"
    return (
        f"{gate.holdout_fraction:.0%} held out "
        f"({gate.min_holdout_samples} to {gate.max_holdout_samples} samples); "
        f"a loss lower by more than {gate.min_loss_gain:g} with confidence {gate.confidence:g}, "
        f"at most {gate.max_chrf_loss:g} chrF lost on {gate.generate_samples} answers"
    )


def _state(folder: Path) -> str:
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        raise SettingsError(f"{nearest} is not a folder that may be written to; set ADAPTER_STATE_DIR to one that is")
    return f"{folder}{'' if folder.exists() else ' (made at the first start)'}"


def _callers(settings: Settings) -> str:
    serving = settings.serving
    who = "only peers on this machine" if settings.security.loopback_only else "whoever has an API key"
    return f"{who}, at http://{serving.host}:{serving.port}"
