"""Servers of others in the engine's place. `python -m tests.backends` is for the real ones: see `real/`."""
