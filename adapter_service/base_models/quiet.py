"""transformers without its progress bars and advice: what a user shall know, this service says itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

# How loud transformers is, and for as long as it loads a model that no weights are tied, is the process's: two threads
# that load at once would leave it so for good, and the next base would lack its head.
_one_at_a_time = threading.RLock()


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Errors alone are shown inside, by one thread at a time; afterwards it is as loud as before."""
    with _one_at_a_time:
        yield from _quiet()


def _quiet() -> Iterator[None]:
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
