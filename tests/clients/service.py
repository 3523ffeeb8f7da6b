"""The service that the clients are sent at: the small real base, one adapter that is live."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapter_service.api.services import build_services
from adapter_service.settings import ModelSettings, Settings, StorageSettings
from tests.api.conftest import QuickPipeline
from tests.api.listening import listening
from tests.api.test_adapters_answer import trained
from tests.conftest import ROOT, SMALL_BASE


@contextmanager
def running(state: Path) -> Iterator[str]:
    """Its address; the adapter is called `taught`."""
    bases = Path(os.environ.get("ADAPTER_TEST_BASES", ROOT / ".state" / "test-bases"))
    bases.mkdir(parents=True, exist_ok=True)
    (state / "bases").symlink_to(bases)
    settings = Settings(model=ModelSettings(base=SMALL_BASE), storage=StorageSettings(state_dir=state))
    services = build_services(settings, make_pipeline=lambda *_: QuickPipeline())
    services.start()
    try:
        services.engine.wait_until_ready(300)
        folder = state / "adapter"
        folder.mkdir()
        trained(services, folder, "taught", "a")
        with listening(services) as address:
            yield address
    finally:
        services.stop()
