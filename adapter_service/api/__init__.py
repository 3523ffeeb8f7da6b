"""The service over HTTP: `uvicorn adapter_service.api:app`.

`app` is made when it is first asked for, so that importing this package reads no files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapter_service.api.app import create_app
from adapter_service.api.log_lines import log_as_json_lines

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["create_app"]

# Importing the submodule has put it under the name that is promised to users for the application.
globals().pop("app")


def __getattr__(name: str) -> FastAPI:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    log_as_json_lines()
    application = create_app()
    globals()["app"] = application
    return application
