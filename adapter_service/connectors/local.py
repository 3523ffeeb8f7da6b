"""The kind `local`: one file or a glob of files on this machine or a mounted share."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from adapter_service.connectors.base import Cursor, Record
from adapter_service.connectors.files import BLOCK_BYTES, FileSpec, read_file
from adapter_service.connectors.registry import register
from adapter_service.errors import SourceFormatError, SourceUnreachableError


class LocalSpec(FileSpec):
    path: str = Field(min_length=1, description="a file or a glob, from the folder of mcp_connectors.yml")


class LocalFile:
    """One file of this machine; a longer one than at the cursor has been added to, a shorter one replaced."""

    def __init__(self, path: Path, label: str, known: Mapping[str, Any] | None = None) -> None:
        self.label = label
        self.stamp: dict[str, Any] = dict(known or {})
        self._path = path

    def blocks(self, offset: int, stop: int | None = None) -> Iterator[bytes]:
        try:
            with self._path.open("rb") as file:
                self._check_size(file.seek(0, 2))
                file.seek(offset)
                while block := file.read(BLOCK_BYTES if stop is None else min(BLOCK_BYTES, stop - file.tell())):
                    yield block
        except OSError as error:
            raise SourceUnreachableError(
                f"{self.label}: cannot be read ({error.strerror}); check that it is there and readable"
            ) from error

    def _check_size(self, size: int) -> None:
        if size < self.stamp.get("size", 0):
            raise SourceFormatError(
                f"{self.label}: had {self.stamp['size']} bytes when it was last read and has {size} now, "
                "so the place in it means nothing any more; start again from the beginning"
            )
        self.stamp = {"size": size}


@register("local", spec=LocalSpec)
class LocalReader:
    """Reads the files that a path or glob names, in the order of their names."""

    def __init__(self, spec: LocalSpec, name: str) -> None:
        self._spec = spec
        self._name = name

    def check(self) -> str:
        files = self._files()
        size = sum(path.stat().st_size for path in files.values())
        first = next(iter(files))
        return f"{len(files)} file(s), {size} bytes, first {first} ({self._spec.required_format_of(first)})"

    def records(self, after: Cursor | None) -> Iterator[Record]:
        files = self._files()
        reached = after["file"] if after else None
        if reached is not None and reached not in files:
            raise SourceUnreachableError(
                f"source '{self._name}': the file {reached!r} that was being read is gone; "
                "put it back, or start again from the beginning"
            )
        for label, path in files.items():
            if reached is not None and label < reached:
                continue
            here = after if label == reached else None
            file = LocalFile(path, label, here["stamp"] if here else None)
            kind = self._spec.required_format_of(label)
            yield from read_file(file, kind, self._spec, source=self._name, after=here, extra={"file": label})

    def _files(self) -> dict[str, Path]:
        """Label → file, sorted; the label is the path below the part without wildcards."""
        pattern = self._spec.path
        if Path(pattern).is_file():
            return {_label(Path(Path(pattern).name)): Path(pattern)}
        root = _fixed_part(pattern)
        # glob.glob, unlike Path.glob, takes an absolute pattern.
        matches = (Path(match) for match in glob.glob(pattern, recursive=True))  # noqa: PTH207
        files = {_label(path.relative_to(root)): path for path in matches if path.is_file()}
        if not files:
            raise SourceUnreachableError(f"source '{self._name}': {_nothing_at(Path(pattern))}")
        return dict(sorted(files.items()))


def _fixed_part(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = [part for i, part in enumerate(parts) if not any(glob.has_magic(p) for p in parts[: i + 1])]
    return Path(*fixed)


def _label(path: Path) -> str:
    r"""As text that can be stored: bytes of a name that are not UTF-8 become `\xe9`."""
    return os.fsencode(path.as_posix()).decode(errors="backslashreplace")


def _nothing_at(path: Path) -> str:
    if path.is_dir():
        return f"`path` is the folder {path.name!r}; name its files, such as {path.name}/*.jsonl"
    return f"no file matches {path.name!r}; check `path`, which counts from the folder of mcp_connectors.yml"
