"""transformers and PEFT in a process of their own, on one thread: `python -m benchmarks.kernels_peft FOLDER`.

As `kernels_llama`: each line on stdin is a job, and its seconds and tokens go to stdout as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_peft import load, say


def main() -> None:
    folder = Path(sys.argv[1])
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    job = json.loads((folder / "job.json").read_text())
    torch.set_num_threads(1)
    model = load(job)
    say(said, {"threads": 1})
    for line in sys.stdin:
        asked = json.loads(line)
        ids = torch.tensor([prompt[: asked["prompt_tokens"]] for prompt in job["prompts"][: asked["rows"]]])
        # One row has PEFT's shorter way: the adapter that is active, and no names.
        one = asked["rows"] == 1
        if one:
            model.set_adapter("a0")
        names: dict[str, Any] = {} if one else {"adapter_names": [f"a{row}" for row in range(asked["rows"])]}
        started = time.perf_counter()
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            eos_token_id=job["ends"],
            max_new_tokens=asked["tokens"],
            min_new_tokens=asked["tokens"],
            **names,
        )
        say(said, {"seconds": time.perf_counter() - started, "ids": made[:, ids.shape[1] :].tolist()})


if __name__ == "__main__":
    main()
