"""What a package of others has under its entry point: importing it registers the kind."""

from __future__ import annotations

from adapter_service.connectors.registry import register
from tests.connectors.test_registry import CountReader, CountSpec

register("count", spec=CountSpec)(CountReader)
