"""Teach one resident base model new things, and serve what it learned, in one process."""

import os

__version__ = "0.1.0"

# OpenMP threads that wait shall sleep, not spin: where another process wants a core too, a spinning
# pair of threads takes 8 ms for an operation of 0.6 ms. Read when torch is imported, so set before.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
