"""Requests to train one adapter: what they are, where they are kept, and the thread that runs them."""
