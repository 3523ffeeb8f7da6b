"""Where training text comes from: kinds of sources, and how each becomes a stream of samples."""
