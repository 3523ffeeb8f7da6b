"""Measurements of real work, each written by the program into `benchmarks/results`."""
