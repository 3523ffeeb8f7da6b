"""vLLM's routes for adapters that come and go while the service runs; answers are its words."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from adapter_service.api.model_choice import check_base_of
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.lora_adapters import LoadAdapterBody, UnloadAdapterBody
from adapter_service.api.services import Wired
from adapter_service.errors import InvalidParameterError, UnknownAdapterError

router = APIRouter(prefix="/v1", tags=["openai"], default_response_class=PlainTextResponse)


@router.post("/load_lora_adapter", responses=can_fail_with(404, 409))
def load_lora_adapter(body: LoadAdapterBody, services: Wired) -> PlainTextResponse:
    """Make a known version resident, and keep it so until it is unloaded."""
    if body.load_inplace:
        raise InvalidParameterError(
            "'load_inplace' is true, but a version never changes; train the next one, and load that",
            parameter="load_inplace",
        )
    if "/" in body.lora_path or "\\" in body.lora_path:
        raise InvalidParameterError(
            f"'lora_path' is {body.lora_path!r}; no path is taken from a request: give a known adapter@version",
            parameter="lora_path",
        )
    try:
        version = services.versions.resolve(body.lora_path)
    except UnknownAdapterError as error:
        raise UnknownAdapterError(
            f"Loading lora {body.lora_name} failed: No adapter found for {body.lora_path}: {error}"
        ) from error
    check_base_of(version, services)
    services.loaded_adapters.load(body.lora_name, version)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/unload_lora_adapter", responses=can_fail_with(404))
def unload_lora_adapter(body: UnloadAdapterBody, services: Wired) -> PlainTextResponse:
    """Let a version that was loaded go when its place is needed; requests for it are still answered."""
    services.loaded_adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")
