"""Teach one resident base model new things, and serve what it learned, in one process."""

import os

__version__ = "0.1.0"

# OpenMP threads that wait for each other shall spin for some microseconds and then sleep. Training, 14
# steps on two idle cores: 21 s spinning, 31 s sleeping, 23 s so; with another process on one of the
# cores spinning takes many times as long. Read when torch is imported, so set before.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")

# The matrix library keeps a program for each shape it has multiplied, 1,024 of them, and samples of all lengths have
# many shapes: 48 of 24 to 512 tokens trained on SmolLM2-135M with preset small took 459 MB, 421 with 256 programs and
# 355 with 64, in equal times.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
