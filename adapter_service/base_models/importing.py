"""Turn a GGUF file into a folder in transformers' format, once.

transformers reads GGUF itself but takes most of a minute for it and does so at every start. Here
the result is kept: `<state>/bases/<sha256>/`, written beside its final name and renamed when it is
whole, so a folder that is there is complete.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapter_service.base_models.quiet import quiet_transformers
from adapter_service.durable import make_folder, sync, sync_folder
from adapter_service.errors import BaseModelError

log = logging.getLogger(__name__)

_BLOCK_BYTES = 1 << 20
_FORMAT = 1  # raise when a folder that an older version wrote must be made anew


def import_gguf(parts: Sequence[Path], bases_dir: Path, note: Callable[[str], None]) -> Path:
    """Return the folder made from the GGUF file in `parts`, making it when it is not there yet.

    `note` is told what is happening, in words for people.

    Raises:
        BaseModelError: no GGUF, or an architecture that transformers does not read.
    """
    digest = _sha256(parts)
    target = bases_dir / f"{digest[:32]}-{_FORMAT}"
    if target.is_dir():
        return target
    note("importing the GGUF base, once (about a minute)")
    bases_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="import-", dir=bases_dir))
    try:
        gguf_file = _joined(parts, work)
        folder = work / "model"
        _convert(gguf_file, folder)
        (folder / "base.json").write_text(json.dumps({"sha256": digest, "format": _FORMAT}))
        sync_folder(folder)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():  # another process was faster: its folder is as good as ours
                raise
        sync(bases_dir)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    note("the base is imported")
    return target


def whole_gguf(parts: Sequence[Path], folder: Path) -> Path:
    """The GGUF file that `parts` are, as one; where they are several, it is put together in `folder`, once."""
    if len(parts) == 1:
        return parts[0]
    target = folder / f"{_sha256(parts)[:32]}.gguf"
    if not target.exists():
        make_folder(folder)
        with tempfile.TemporaryDirectory(prefix="join-", dir=folder) as work:
            whole = _joined(parts, Path(work))
            sync(whole)
            whole.replace(target)
        sync(folder)
    return target


def _sha256(parts: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    return digest.hexdigest()


def _joined(parts: Sequence[Path], work: Path) -> Path:
    if len(parts) == 1:
        return parts[0]
    whole = work / "base.gguf"
    with whole.open("wb") as out:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, out, _BLOCK_BYTES)
    return whole


def _convert(gguf_file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": gguf_file.name, "local_files_only": True}
    try:
        with quiet_transformers(), _one_parse():
            tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, **where)
            model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, dtype=torch.bfloat16, **where)
    except (ValueError, KeyError, NotImplementedError, OSError) as error:
        raise BaseModelError(
            f"{gguf_file.name} cannot be imported: {error}. Name a folder or a Hub id of the same model instead"
        ) from error
    # A model read from GGUF says that it is quantized, and save_pretrained refuses it; its weights
    # are plain by now.
    del model.config.quantization_config
    model.hf_quantizer = None
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _one_parse() -> Iterator[None]:
    """transformers parses a GGUF's metadata three times, 5 to 18 s each for a big vocabulary; once will do."""
    import gguf

    reader = gguf.GGUFReader
    parsed: dict[str, Any] = {}

    def cached(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) not in parsed:
            parsed[str(path)] = reader(path, *args, **kwargs)
        return parsed[str(path)]

    gguf.GGUFReader = cached
    try:
        yield
    finally:
        gguf.GGUFReader = reader
