"""Adapters that other machines pull: stores, what is pushed to them, and what is taken from them."""
