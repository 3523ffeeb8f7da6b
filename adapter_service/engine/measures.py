"""What the engine counts, as Prometheus metrics: under vLLM's names where they mean the same, else under ours.

vLLM's are those of its `v1/metrics/loggers.py`; a dashboard made for it shows this service. A counter's name
is written out with `_total` behind it. All is in the registry of one engine, for one process may have several.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from adapter_service.engine.generations import FinishReason, GenerationResult

# vLLM's bounds, and finer ones below them: a small base answers sooner.
_FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
                80.0, 160.0, 640.0, 2560.0)  # fmt: skip
_BETWEEN_TOKENS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0,
                   7.5, 10.0, 20.0, 40.0, 80.0)  # fmt: skip
_LATENCY = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0,
            40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0)  # fmt: skip
_LOADING = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ABORTED = "abort"
# vLLM's words; of several answers to one request the first of these that applies to any is the request's.
_REASONS: tuple[tuple[FinishReason, str], ...] = (("cancelled", _ABORTED), ("length", "length"), ("stop", "stop"))
_FAILED = "error"


@dataclass(frozen=True, slots=True)
class Reading:
    """How the engine is at a moment; what is counted is since its start. Adapters are version keys."""

    running: int = 0
    waiting: int = 0
    kv_cache_share: float = 0.0
    prefix_queried_tokens: int = 0
    prefix_found_tokens: int = 0
    max_adapters: int = 0
    resident_adapters: int = 0
    resident_bytes: int = 0
    adapter_loads: int = 0
    adapter_evictions: int = 0
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()
    served_seconds: float = 0.0
    trained_seconds: float = 0.0
    recent_train_share: float = 0.0


class Measures:
    """Written by the engine's thread, read by whoever scrapes `registry`; neither waits for the other."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._first_token = self._histogram(
            "vllm:time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer.",
            _FIRST_TOKEN,
        )
        self._between_tokens = self._histogram(
            "vllm:inter_token_latency_seconds", "From one token of an answer to the next.", _BETWEEN_TOKENS
        )
        self._whole = self._histogram(
            "vllm:e2e_request_latency_seconds", "From a request's arrival to the end of its answer.", _LATENCY
        )
        self._queue = self._histogram(
            "vllm:request_queue_time_seconds", "From a request's arrival until the engine took it up.", _LATENCY
        )
        self._loading = self._histogram(
            "adapter_service_adapter_load_seconds", "From the wish for an adapter until it was resident.", _LOADING
        )
        self._prompt = self._counter(
            "vllm:prompt_tokens", "Prompt tokens that have been read, or found in the prefix cache."
        )
        self._generated = self._counter(
            "vllm:generation_tokens", "Tokens of answers, those that are being written too."
        )
        self._corrupted = self._counter(
            "vllm:corrupted_requests", "Requests that ended because a logit was not finite."
        )
        self._ended = Counter(
            "vllm:request_success",
            "Requests that have ended, by the reason.",
            ["finished_reason"],
            registry=self.registry,
        )
        for reason in (*(word for _, word in _REASONS), _FAILED):
            self._ended.labels(reason)  # there from the start, at 0: a rate has nothing to start from otherwise
        self._watched = _Watched()
        self.registry.register(self._watched)

    def watch(self, read: Callable[[], Reading]) -> None:
        """Tell what `read` says whenever somebody scrapes; it is called on that thread and must not wait."""
        self._watched.read = read

    # What happened.

    def admitted(self, queue_seconds: float) -> None:
        """A request left the line."""
        self._queue.observe(queue_seconds)

    def prompt_read(self, tokens: int) -> None:
        """All of a request's, those that were in the prefix cache too."""
        self._prompt.inc(tokens)

    def generated(self, tokens: int) -> None:
        """More of an answer."""
        self._generated.inc(tokens)

    def first_token(self, seconds: float) -> None:
        """Since the request arrived."""
        self._first_token.observe(seconds)

    def token(self, seconds: float) -> None:
        """Since the same answer's token before."""
        self._between_tokens.observe(seconds)

    def finished(self, result: GenerationResult) -> None:
        """Also one that never began; that, from any thread."""
        reasons = {choice.finish_reason for choice in result.choices}
        self._ended.labels(next(word for reason, word in _REASONS if reason in reasons)).inc()
        self._whole.observe(result.waited_seconds + result.seconds)

    def failed(self, *, aborted: bool = False) -> None:
        """A request ended with an error after it had been admitted; `aborted`, because of whoever asked."""
        self._ended.labels(_ABORTED if aborted else _FAILED).inc()

    def corrupted(self) -> None:
        """It failed because logits were not finite."""
        self._corrupted.inc()

    def adapter_loaded(self, seconds: float) -> None:
        """From the wish for it to its being resident."""
        self._loading.observe(seconds)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(name, text, registry=self.registry)


class _Watched(Collector):
    """A `Reading` as metrics, made when they are asked for."""

    def __init__(self) -> None:
        self.read: Callable[[], Reading] = Reading

    def collect(self) -> Iterator[Metric]:
        now = self.read()
        gauge, counter = GaugeMetricFamily, CounterMetricFamily
        yield gauge("vllm:num_requests_running", "Requests that are being answered.", now.running)
        yield gauge("vllm:num_requests_waiting", "Requests that wait to be taken up.", now.waiting)
        yield gauge("vllm:kv_cache_usage_perc", "Share of the allocated KV cache in use; 1 is all.", now.kv_cache_share)
        yield counter(
            "vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", now.prefix_queried_tokens
        )
        yield counter("vllm:prefix_cache_hits", "Prompt tokens found in the prefix cache.", now.prefix_found_tokens)
        yield _lora_requests(now)
        yield gauge("adapter_service_resident_adapters", "Adapters in memory.", now.resident_adapters)
        yield gauge("adapter_service_resident_adapter_bytes", "Bytes of adapters in memory.", now.resident_bytes)
        yield counter("adapter_service_adapter_loads", "Adapters that came into memory.", now.adapter_loads)
        yield counter("adapter_service_adapter_evictions", "Adapters that went from memory.", now.adapter_evictions)
        seconds = counter("adapter_service_engine_seconds", "Busy time of the engine's thread.", labels=["doing"])
        seconds.add_metric(["serving"], now.served_seconds)
        seconds.add_metric(["training"], now.trained_seconds)
        yield seconds
        yield gauge(
            "adapter_service_train_share",
            "Training's share of the engine's last half minute of work.",
            now.recent_train_share,
        )


def _lora_requests(now: Reading) -> Metric:
    """vLLM's way to tell names: they are labels, and the value is the time at which that was so."""
    info = GaugeMetricFamily(
        "vllm:lora_requests_info",
        "When these adapters had requests running and waiting.",
        labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
    )
    names = (",".join(now.running_adapters), ",".join(now.waiting_adapters))
    info.add_metric([str(now.max_adapters), *names], time.time())
    return info
