"""A tokenizer in place of the base's own: a SentencePiece `.model` file, or a folder with `tokenizer.json`.

With another tokenizer the same weights are another base: adapters that were trained with the one are
not served with the other.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from adapter_service.base_models.quiet import quiet_transformers
from adapter_service.errors import BaseModelError
from adapter_service.home_folders import expanded

# Whatever of a tokenizer's folder changes tokens, or the text around them.
_FOLDER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja"
)  # fmt: skip


def locate_tokenizer(name: str) -> Path:
    """The file or folder that `name` means.

    Raises:
        BaseModelError: neither a .model file nor a folder with tokenizer.json, or in a home folder that is not known.
    """
    path = expanded(name, where=f"model.tokenizer {name!r}", error=BaseModelError).resolve()
    if path.is_file() and path.suffix == ".model":
        return path
    if path.is_dir() and (path / "tokenizer.json").is_file():
        return path
    found = "is a folder without tokenizer.json" if path.is_dir() else "is there" if path.exists() else "is missing"
    raise BaseModelError(
        f"model.tokenizer {name!r} {found}; give a SentencePiece .model file or a folder with tokenizer.json, "
        "or null for the base's own"
    )


def load_tokenizer(path: Path) -> Any:
    """Load what `locate_tokenizer` found.

    Raises:
        BaseModelError: it cannot be read, or asks for code of its own.
    """
    if path.is_file():
        from adapter_service.base_models.sentencepiece_tokenizer import SentencePieceTokenizer

        return SentencePieceTokenizer(path)
    from transformers import AutoTokenizer

    _refuse_code(path)
    try:
        with quiet_transformers():
            return AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises no class of its own
        raise BaseModelError(f"tokenizer {path.name!r} cannot be loaded: {error}; save it anew") from error


def check_fits(tokenizer: Any, path: Path, base: str, rows: int) -> None:
    """Refuse a tokenizer with tokens for which the base has no row in its embedding.

    Raises:
        BaseModelError: with both sizes.
    """
    size = places_of(tokenizer)
    if size > rows:
        raise BaseModelError(
            f"tokenizer {path.name!r} has {size} tokens, and the embedding of {base!r} has {rows} rows: it does not "
            f"fit; take a tokenizer of at most {rows} tokens, or a base that was made for this one"
        )


def places_of(tokenizer: Any) -> int:
    """The highest token id and one: more than `len(tokenizer)` where ids have gaps."""
    return int(max([len(tokenizer) - 1, *tokenizer.get_vocab().values()])) + 1


def tokenizer_digest(path: Path) -> str:
    """A hash that changes with what the tokenizer does."""
    files = [path] if path.is_file() else [path / name for name in _FOLDER_FILES if (path / name).is_file()]
    digest = hashlib.sha256()
    for file in files:
        name = b"" if path.is_file() else file.name.encode()
        digest.update(name + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _refuse_code(folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise BaseModelError(f"tokenizer_config.json of {folder.name!r} cannot be read: {error}; mend it") from error
    if "auto_map" in config:
        raise BaseModelError(
            f"the config of tokenizer {folder.name!r} asks for code of its own (auto_map), which is never run here; "
            "save it as tokenizer.json alone"
        )
