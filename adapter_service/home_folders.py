"""Paths as people write them: `~` is their home folder, `~name` that of somebody else."""

from __future__ import annotations

from pathlib import Path

from adapter_service.errors import SettingsError


def expanded(path: Path | str, *, where: str, error: type[Exception] = SettingsError) -> Path:
    """The path with the home folder in the place of `~`.

    Args:
        where: whatever has the path, first in the message.

    Raises:
        error: nobody of that name has a home folder here, nor has whoever runs this without a name.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        home = Path(path).parts[0]
    raise error(f"{where}: no home folder is known for '{home}'; write the whole path")
