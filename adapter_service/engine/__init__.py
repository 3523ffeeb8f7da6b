"""The engine: one thread that owns the base and its adapters, and takes turns with them."""
