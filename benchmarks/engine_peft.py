"""PEFT's mixed batch in a process of its own: `python -m benchmarks.engine_peft FOLDER`.

`FOLDER/job.json` says what to load; afterwards one line on stdin is one round, and its seconds and token ids go to
stdout as JSON. It has the threads that it is faster on. All prompts have one length, so that nothing is padded.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch


def main() -> None:
    folder = Path(sys.argv[1])
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the libraries print is no answer
    job = json.loads((folder / "job.json").read_text())
    model = load(job)
    ids = torch.tensor(job["prompts"])
    asked: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "adapter_names": [f"a{number}" for number in range(len(job["folders"]))],
        "do_sample": False,
        "eos_token_id": job["ends"],
    }

    def seconds_of(tokens: int) -> tuple[float, Any]:
        started = time.perf_counter()
        made = model.generate(**asked, max_new_tokens=tokens, min_new_tokens=tokens)
        return time.perf_counter() - started, made

    seconds_of(2)
    best = {}
    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        torch.set_num_threads(threads)
        best[threads] = min(seconds_of(job["warm_tokens"])[0] for _ in range(2))
    threads = min(best, key=best.__getitem__)
    torch.set_num_threads(threads)
    say(said, {"threads": threads})
    while sys.stdin.readline():
        taken, made = seconds_of(job["tokens"])
        say(said, {"seconds": taken, "ids": made[:, ids.shape[1] :].tolist()})


def load(job: dict[str, Any]) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(job["base_folder"], dtype=getattr(torch, job["dtype"]))
    first, *others = job["folders"]
    served = PeftModel.from_pretrained(model, first, adapter_name="a0")
    for number, other in enumerate(others, start=1):
        served.load_adapter(other, adapter_name=f"a{number}")
    served.eval()
    # What a model's own file sets to shape its answers is no part of this.
    served.generation_config.update(do_sample=False, top_k=None, top_p=None, temperature=None)
    return served


def say(said: Any, message: dict[str, Any]) -> None:
    said.write(json.dumps(message) + "\n")
    said.flush()


if __name__ == "__main__":
    main()
