"""A version's weights, verified, in the shape in which they are written for a server; on a thread that may wait."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapter_service.engine.requests import AdapterFiles
from adapter_service.errors import BackendError
from adapter_service.storage_faults import storage_fault

if TYPE_CHECKING:
    from adapter_service.lora.folder import FileWeights
    from adapter_service.lora.layer import LowRankLinear
    from adapter_service.model_utils import BaseModel


def layers_of(base: BaseModel) -> dict[str, LowRankLinear]:
    """The linear layers that an adapter may change, by their paths."""
    from adapter_service.lora.layer import LowRankLinear

    return {module.path: module for module in base.model.modules() if isinstance(module, LowRankLinear)}


def read_version(files: AdapterFiles, base: BaseModel) -> Mapping[str, FileWeights]:
    """Matrices and scale of each layer.

    Raises:
        AdapterFormatError: it is damaged, or for another base.
    """
    from adapter_service.adapters.artifact import verify_folder
    from adapter_service.lora.folder import read_weights

    verify_folder(files.folder)
    return read_weights(files.folder, layers_of(base))[1]


def weight_bytes(files: AdapterFiles) -> int:
    """What its weights take on the disk."""
    return sum(path.stat().st_size for path in files.folder.glob("*.safetensors"))


@contextmanager
def disk_faults(doing: str) -> Generator[None, None, None]:
    """What a disk comes to inside, as an error of ours that says what was being done.

    Raises:
        StorageError: it is full, or cannot be written.
        BackendError: anything else.
    """
    try:
        yield
    except OSError as error:
        if (fault := storage_fault(error)) is not None:
            raise fault from error
        raise BackendError(f"{doing}: {error.strerror or error}") from error
