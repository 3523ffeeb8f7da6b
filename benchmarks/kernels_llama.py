"""llama.cpp in a process of its own, on as many threads as its job says: `python -m benchmarks.kernels_llama FOLDER`.

`FOLDER/job.json` says what to load. Each line on stdin is a job {"rows", "tokens", "prompt_tokens"}: so many requests
at one moment, each with its own prompt and adapter. Its seconds and its texts go to stdout as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.engine_peft import say


def main() -> None:
    folder = Path(sys.argv[1])
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads((folder / "job.json").read_text())
    server, adapters = _server(job), len(job["adapters"])

    def answer(row: int, asked: dict[str, Any]) -> dict[str, Any]:
        # Every adapter in every request: what is left out is as the request before had it.
        scales = [{"id": number, "scale": float(number == row)} for number in range(adapters)]
        request = {
            "prompt": job["prompts"][row][: asked["prompt_tokens"]],
            "n_predict": asked["tokens"],
            "temperature": 0.0,
            "ignore_eos": True,
            "cache_prompt": False,
            "lora": scales,
        }
        found: dict[str, Any] = server.handle_completions(request)
        return found

    with ThreadPoolExecutor(8) as pool:
        say(said, {"threads": job["threads"]})
        for line in sys.stdin:
            asked = json.loads(line)
            started = time.perf_counter()
            done = [pool.submit(answer, row, asked) for row in range(asked["rows"])]
            found = [each.result() for each in done]
            seconds = time.perf_counter() - started
            say(said, {"seconds": seconds, "texts": [each["choices"][0]["text"] for each in found]})
    os._exit(0)  # a server's own end may hang


def _server(job: dict[str, Any]) -> Any:
    from xllamacpp import CommonAdapterLoraInfo, CommonParams, Server

    params = CommonParams()
    params.model.path = job["model"]
    params.n_ctx = 1024 * 8
    params.n_parallel = 8
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = job["threads"]
    params.cache_ram_mib = 0
    params.lora_init_without_apply = True
    infos = []
    for path in job["adapters"]:
        info = CommonAdapterLoraInfo()
        info.path, info.scale = path, 1.0
        infos.append(info)
    params.lora_adapters = infos
    return Server(params)


if __name__ == "__main__":
    main()
