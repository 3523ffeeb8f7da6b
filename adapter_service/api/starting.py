"""What has to be so before the service answers anybody beyond this machine."""

from __future__ import annotations

from adapter_service.api.hub import service_url
from adapter_service.api.peers import is_loopback, is_loopback_name
from adapter_service.auth import KeyStore
from adapter_service.errors import SettingsError
from adapter_service.settings import Settings

_CREATE = "create one with `adapter-service keys create NAME --scope admin`"


def check_keys(keys: KeyStore, *, loopback_only: bool) -> None:
    """Raises:
    SettingsError: others than this machine's peers are to be answered, and nobody has a key.
    """
    if not loopback_only and not keys.any_active():
        raise SettingsError(
            "'security.loopback_only' is false, so that other machines are answered, and there is no API key that is "
            f"good; {_CREATE}, or set it to true"
        )


def check_address(keys: KeyStore, host: str) -> None:
    """Raises:
    SettingsError: `host` can be reached from other machines, and nobody has a key.
    """
    if not _is_here(host) and not keys.any_active():
        raise SettingsError(
            f"{host!r} is an address that other machines reach, and there is no API key that is good; "
            f"{_CREATE}, or listen on 127.0.0.1"
        )


def address_notes(settings: Settings) -> tuple[str, ...]:
    """What is to be logged where nodes on other machines may not reach what signed URLs name."""
    artifacts, serving = settings.artifacts, settings.serving
    for_others = not settings.security.loopback_only and not _is_here(serving.host)
    if not for_others or artifacts.kind != "folder" or artifacts.public_url is not None:
        return ()
    note = (
        f"'serving.host' is {serving.host!r} and 'artifacts.public_url' is not set: nodes are told to fetch their "
        f"adapters at {service_url(serving)}; set it to the address that they reach this service by, such as "
        f"http://hub.local:{serving.port}"
    )
    return (note,)


def _is_here(host: str) -> bool:
    return is_loopback(host) or is_loopback_name(host)
