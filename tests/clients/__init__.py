"""Clients of others at a real service, each in an environment of its own; `make test-clients` runs them."""
