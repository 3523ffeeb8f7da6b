"""Teach one resident base model new things, and serve what it learned, in one process."""

__version__ = "0.1.0"
