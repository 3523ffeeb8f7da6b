"""The back end that the settings name; nothing is started or connected to yet."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from adapter_service.backends.dispatcher import Dispatcher, FindLive
from adapter_service.backends.server import Server
from adapter_service.durable import write_whole
from adapter_service.engine.backend import Backend
from adapter_service.errors import SettingsError
from adapter_service.home_folders import expanded
from adapter_service.settings import Settings
from adapter_service.settings.backend_section import fault_of_server
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
    given = with_values({key: text for key, text in texts.items() if text is not None}, os.environ, whose="backend")
    shared = given.get("adapter_dir")
    own = _own_name(folder)
    return VllmFleet(
        _addresses(backend.servers),
        (_absolute(shared) if shared else folder / "vllm") / own,
        seen_as=f"{given.get('server_adapter_dir', shared).rstrip('/')}/{own}" if shared else None,
        model=given.get("model"),
        api_key=given.get("api_key"),
        zero_adapter=backend.zero_adapter,
        places_each=settings.serving.max_active_requests,
    )


def _addresses(written: Sequence[str]) -> dict[str, str]:
    """The servers by host and port.

    Raises:
        SettingsError: one is no address, or is there twice.
    """
    found: dict[str, str] = {}
    for text in written:
        url = with_values({"server": text}, os.environ, whose="backend").get("server", "")
        if (fault := fault_of_server(url)) is not None:
            raise SettingsError(f"'backend.servers': {fault}")
        name = urlsplit(url).netloc.lower()
        if name in found:
            raise SettingsError(f"'backend.servers' has {name} twice; take one out")
        found[name] = url
    return found


def _absolute(text: str) -> Path:
    """Servers read from it too, so that no working folder is a beginning.

    Raises:
        SettingsError: it is not.
    """
    path = expanded(text, where="'backend.adapter_dir'")
    if not path.is_absolute():
        raise SettingsError(f"'backend.adapter_dir' is {text!r}; give an absolute path")
    return path


def _own_name(folder: Path) -> str:
    """This service's own folder among those of others who write to the same place: the same at every start."""
    path = folder / "name"
    if not path.exists():
        write_whole(path, secrets.token_hex(6))
    return path.read_text(encoding="utf-8").strip()
