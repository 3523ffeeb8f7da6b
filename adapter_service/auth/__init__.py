"""Who may: API keys, of which only digests are kept, and what each scope allows."""

from __future__ import annotations

from adapter_service.auth.keys import Key, KeyStore
from adapter_service.auth.scopes import ADMIN, APP, READ, allows, node_in, node_scope

__all__ = ["ADMIN", "APP", "READ", "Key", "KeyStore", "allows", "node_in", "node_scope"]
