"""The routes, one file per group; they translate between HTTP and the parts below and do nothing else."""

from adapter_service.api.routes import (
    adapters,
    chat,
    completions,
    episodes,
    files,
    fine_tuning,
    generation,
    health,
    logs,
    lora_adapters,
    metrics,
    models,
    sources,
    tokens,
    training,
)

ROUTERS = (
    training.router,
    files.router,
    fine_tuning.router,
    adapters.router,
    logs.router,
    sources.router,
    generation.router,
    models.router,
    chat.router,
    completions.router,
    lora_adapters.router,
    episodes.router,
    tokens.router,
    health.router,
    metrics.router,
)
