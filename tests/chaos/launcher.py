"""Starts the real server again and again, quickly: `python -m tests.chaos.launcher`, for `service.py` to drive.

What takes seconds, importing torch, is done once; each line on standard input then forks a process that
serves the real application with uvicorn. One line of JSON says where it listens, and a second how it ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from tests.chaos.points import patch_all
from tests.ordinary_user import become_ordinary


def main() -> None:
    _die_with_the_parent()
    _import_all()
    assert threading.active_count() == len(list(Path("/proc/self/task").iterdir())) == 1  # else a fork may hang
    for _ in iter(sys.stdin.readline, ""):
        listener = socket.create_server(("127.0.0.1", 0))
        child = os.fork()
        if child == 0:
            _serve(listener)
        _say(pid=child, port=listener.getsockname()[1])
        listener.close()
        _, status = os.waitpid(child, 0)
        _say(exit_code=os.waitstatus_to_exitcode(status))


def _import_all() -> None:
    """What a start imports, without loading or computing anything: a process with threads cannot be forked."""
    import transformers.models.auto.modeling_auto
    import transformers.models.auto.tokenization_auto
    import transformers.models.llama.modeling_llama  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: F401

    import adapter_service.api.app
    import adapter_service.connectors.local
    import adapter_service.engine.probe
    import adapter_service.engine.scheduler
    import adapter_service.jobs.evaluating
    import adapter_service.jobs.pipeline
    import adapter_service.lora.folder
    import adapter_service.model_utils
    import adapter_service.rendering
    import adapter_service.training.checkpoint
    import adapter_service.training.evaluation
    import adapter_service.training.loop  # noqa: F401


def _serve(listener: socket.socket) -> None:
    """Never returns. It may do no more than an ordinary user, also where the tests are root's."""
    _die_with_the_parent()
    become_ordinary()
    import uvicorn

    patch_all(Path(os.environ["ADAPTER_STATE_DIR"]))
    config = uvicorn.Config("adapter_service.api:app", log_level="warning", timeout_graceful_shutdown=1)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        os._exit(0)


def _die_with_the_parent() -> None:
    """However that ends: no server is to be left over from a test that was killed itself."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _say(**what: int) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - it is read by a program


if __name__ == "__main__":
    main()
