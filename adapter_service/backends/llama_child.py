"""The process that is llama.cpp's server: `python -m adapter_service.backends.llama_child`.

A job comes as one line of JSON, the server's address goes out as another, and when the other end of the pipe is
closed, whoever closed it and however, the process ends. In a process of its own because a server cannot be taken
down safely (its end may hang), and because a fault in native code takes its process with it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    job = json.loads(sys.stdin.readline())
    server = _server(job)
    sys.stdout.write(json.dumps({"url": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    os._exit(0)  # a server's own end may hang


def _server(job: dict[str, Any]) -> Any:
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path = job["model"]
    params.n_parallel = job["places"]
    params.n_ctx = job["context_tokens"] * job["places"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    params.api_keys = [job["api_key"]]
    params.port = 0
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.ui = False
    params.warmup = False
    params.verbosity = 1  # faults and warnings, not a page for every request
    params.cache_ram_mib = 0  # that cache gives one adapter's states to another (llama.cpp#26207)
    params.lora_init_without_apply = True  # else all of them apply wherever a request says nothing
    params.lora_adapters = [_adapter(CommonAdapterLoraInfo(), path) for path in job["adapters"]]
    return Server(params)


def _adapter(info: Any, path: str) -> Any:
    info.path, info.scale = path, 1.0
    return info


if __name__ == "__main__":
    main()
