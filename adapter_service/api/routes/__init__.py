"""The routes, one file per group; they translate between HTTP and the parts below and do nothing else."""

from adapter_service.api.routes import adapters, episodes, generation, health, logs, metrics, sources, tokens, training

ROUTERS = (
    training.router,
    adapters.router,
    logs.router,
    sources.router,
    generation.router,
    episodes.router,
    tokens.router,
    health.router,
    metrics.router,
)
