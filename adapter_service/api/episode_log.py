"""What is asked and answered here, as episodes: handed to `rl`, which scores, writes and sends them.

Whoever answers hands over what it has anyway; the episode is made on the writing thread.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adapter_service.languages import Language
from adapter_service.languages.answers import MIN_SCRIPT_SHARE, judge
from adapter_service.settings import RlSettings
from rl.episodes import Episode, from_details, process_run_id
from rl.recording import Recorder
from rl.shards import ShardWriter
from rl.upload_helper import destination_of
from rl.uploading import Uploader


@dataclass(frozen=True, slots=True)
class Given:
    """One episode that a caller has: the fields of its body, and the language that it names."""

    values: Mapping[str, Any]
    language: Language | None
    run_id: str
    env_name: str
    trace_id: str


class EpisodeLog:
    """The recorder and the uploader of one service, in `folder`; both have threads of their own."""

    def __init__(self, settings: RlSettings, folder: Path) -> None:
        self.settings = settings
        self.run_id = process_run_id()
        self.uploader = _uploader(settings, folder)
        writer = ShardWriter(
            folder,
            run_id=self.run_id,
            max_bytes=settings.shard_max_mb << 20,
            max_age_seconds=settings.shard_max_seconds,
            max_folder_bytes=settings.max_local_mb << 20,
        )
        sealed = self.uploader.wake if self.uploader else lambda: None
        self.recorder = Recorder(writer, settings.rewards(), capacity=settings.queue_size, sealed=sealed)

    @property
    def logs_generations(self) -> bool:
        return self.settings.log_generations

    def start(self) -> None:
        self.recorder.start()
        if self.uploader:
            self.uploader.start()

    def stop(self, timeout_seconds: float) -> None:
        """Write what waits and seal it; what has not gone yet goes after the next start."""
        ends_at = time.monotonic() + timeout_seconds
        self.recorder.stop(timeout_seconds)
        if self.uploader:
            self.uploader.stop(max(0.0, ends_at - time.monotonic()))

    def record_all(self, given: Sequence[Given]) -> list[Future[Mapping[str, Any]]] | None:
        """Hand over episodes of a caller who waits; None when there is no room for them."""
        return self.recorder.record_all([_Making(one) for one in given])


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes an episode of what was given, on the writing thread."""

    given: Given

    def __call__(self) -> Episode:
        given, values = self.given, self.given.values
        beside = {name: values[name] for name in _BESIDE_TOKENS}
        policy, sampled_with, tokens = from_details(values["tokens"] or {}, **beside)
        return Episode(
            prompt=values["prompt"],
            output=values["output"],
            env_name=given.env_name,
            run_id=given.run_id,
            source="POST /rl/collect",
            timestamp=datetime.now(UTC),
            session_id=values["session_id"],
            group_id=values["group_id"],
            policy=policy,
            sampled_with=sampled_with,
            tokens=tokens,
            stop_reason=values["stop_reason"],
            latency_seconds=values["latency_s"],
            language=given.language.lang_tag if given.language else None,
            language_ok=in_its_language(values["output"], values["prompt"], given.language),
            reward=values["reward"],
            trace_id=given.trace_id,
            extra=values["meta"],
        )


_BESIDE_TOKENS = ("adapter_id", "adapter_version", "base_model", "temperature", "max_new_tokens")


def in_its_language(answer: str, prompt: str, language: Language | None) -> bool | None:
    """Whether an answer has the script and language asked for; None when none was."""
    if language is None:
        return None
    verdict = judge(answer, prompt=prompt, language=language)
    return verdict.script_share >= MIN_SCRIPT_SHARE and verdict.detected == language.tag


def _uploader(settings: RlSettings, folder: Path) -> Uploader | None:
    if settings.upload_path is None:
        return None
    destination = destination_of(settings.upload_path, endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
    return Uploader(folder, destination, keep_bytes=settings.keep_uploaded_mb << 20)
