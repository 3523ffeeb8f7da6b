"""The back end that the settings name; nothing is started or connected to yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from adapter_service.backends.dispatcher import Dispatcher, FindLive
from adapter_service.backends.server import Server
from adapter_service.engine.backend import Backend
from adapter_service.errors import SettingsError
from adapter_service.settings import Settings
from adapter_service.settings.sources import with_values

# What a chat template may add to a prompt, beside what requests may have.
_TEMPLATE_TOKENS = 512


def open_backend(settings: Settings, live: FindLive) -> Backend | None:
    """None where the engine answers itself; `live` as in `Dispatcher`.

    Raises:
        SettingsError: something is missing that its kind needs.
    """
    kind = settings.backend.kind
    if kind == "engine":
        return None
    folder = settings.storage.state_dir / "backend"
    server = _llama(settings, folder) if kind == "llama.cpp" else _vllm(settings, folder)
    return Dispatcher(server, settings.serving, live)


def _llama(settings: Settings, folder: Path) -> Server:
    from adapter_service.backends.llama import LlamaServer

    serving = settings.serving
    return LlamaServer(
        _model_finder(settings, folder),
        folder / "llama.cpp",
        places=serving.max_active_requests,
        context_tokens=serving.max_prompt_tokens + _TEMPLATE_TOKENS + serving.max_new_tokens_limit,
        threads=settings.backend.threads,
    )


def _model_finder(settings: Settings, folder: Path) -> Callable[[], Path]:
    """The base's own GGUF file, or the one that the settings name.

    Raises:
        SettingsError: the base is none, and none is named.
    """
    from adapter_service.base_models.importing import whole_gguf
    from adapter_service.base_models.locating import locate

    named = settings.backend.gguf
    parts = locate(named or settings.model.base).parts
    if not parts:
        raise SettingsError(
            f"'backend.kind' is llama.cpp and {named or settings.model.base!r} is no GGUF file; name one that was made "
            "of the same base with 'backend.gguf'"
        )
    return cache(lambda: whole_gguf(parts, folder))


def _vllm(settings: Settings, folder: Path) -> Server:
    from adapter_service.backends.vllm import VllmFleet

    backend = settings.backend
    texts = {key: getattr(backend, key) for key in ("model", "api_key", "adapter_dir", "server_adapter_dir")}
    texts |= {str(place): url for place, url in enumerate(backend.servers)}
    given = with_values({key: text for key, text in texts.items() if text is not None}, os.environ, whose="backend")
    return VllmFleet(
        [given[str(place)] for place in range(len(backend.servers))],
        Path(given["adapter_dir"]) if "adapter_dir" in given else folder / "vllm",
        seen_as=given.get("server_adapter_dir"),
        model=given.get("model"),
        api_key=given.get("api_key"),
        zero_adapter=backend.zero_adapter,
        places_each=settings.serving.max_active_requests,
    )
