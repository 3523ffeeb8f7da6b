"""Languages: their tags, names and scripts; the instruction to translate; what can be said of an answer."""

from __future__ import annotations

from adapter_service.languages.detection import detect
from adapter_service.languages.finding import LANGUAGES, find
from adapter_service.languages.scripts import script_share
from adapter_service.languages.table import Language

__all__ = ["LANGUAGES", "Language", "detect", "find", "script_share"]
