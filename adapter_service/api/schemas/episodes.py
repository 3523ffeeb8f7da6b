"""What `POST /rl/collect` takes and answers, and what is recorded and sent."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from adapter_service.api.schemas.fields import Answer, Body, TraceId
from adapter_service.api.schemas.generation import TokenDetails

RUN_ID_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
MAX_EPISODES = 100
ShortName = Annotated[str, Field(min_length=1, max_length=200)]
SmallNumber = Annotated[int, Field(ge=0, le=2**31 - 1)]


class GivenEpisode(Body):
    """A prompt and its answer, from wherever they come."""

    prompt: str = Field(min_length=1, examples=["Translate to Hindi: Good morning"])
    output: str = Field(examples=["सुप्रभात"])
    reward: float | None = Field(default=None, description="Of a person or a task; without one it is worked out.")
    language: str | None = Field(
        default=None, max_length=100, description="That was asked for: a BCP-47 tag or a name.", examples=["hi"]
    )
    latency_s: float | None = Field(default=None, ge=0.0)
    session_id: ShortName | None = None
    group_id: ShortName | None = Field(
        default=None, description="The same for answers to the same prompt; without one it is made of the prompt."
    )
    stop_reason: ShortName | None = None
    adapter_id: ShortName | None = Field(default=None, description="Who answered.")
    adapter_version: SmallNumber | None = None
    base_model: ShortName | None = None
    temperature: float | None = Field(default=None, ge=0.0, le=100.0)
    max_new_tokens: SmallNumber | None = None
    tokens: TokenDetails | None = Field(
        default=None,
        description="As `/generate-lite` answered them; the fields above stand in place of what they say.",
    )
    meta: dict[str, Any] = Field(default={}, description="Anything; it is kept as JSON text in `meta.extra`.")


class CollectBody(Body):
    episodes: Annotated[list[GivenEpisode], Field(min_length=1, max_length=MAX_EPISODES)]
    run_id: str | None = Field(default=None, pattern=RUN_ID_PATTERN, description="Without one, the service's own.")
    env_name: ShortName | None = Field(default=None, description="Without one, `rl.env_name`.")
    trace_id: TraceId | None = None


class ScoredEpisode(Answer):
    episode_id: str
    episode_index: int
    reward: float | None
    reward_components: dict[str, float | None] = Field(description="Each 0 to 1; null where it cannot be measured.")
    reward_source: str = Field(description="`given`, or what worked it out.")


class CollectAnswer(Answer):
    """They are written when this is answered, and go with the next shard."""

    run_id: str
    episodes: list[ScoredEpisode]
    trace_id: str


class EpisodeCounts(Answer):
    """Since the start of the service."""

    recorded: int
    dropped: int = Field(description="Answers that found no room in the queue.")
    failed: int = Field(description="Could not be written; the log says why.")
    waiting: int = Field(description="In the queue.")


class RlStatus(Answer):
    log_generations: bool
    run_id: str
    episodes: EpisodeCounts
    upload_to: str | None = Field(description="Null where nothing is sent.")
    shards_waiting: int = Field(description="Sealed, and not sent yet.")
    shards_sent: int = Field(description="Since the start of the service.")
    upload_error: str | None = Field(description="Why the last shard was not sent; null after one that was.")
