"""How the files of a source are read: their format and compression, by their names or as the source says."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field

from adapter_service.connectors.files.compression import Compression
from adapter_service.connectors.spec import SourceSpec
from adapter_service.errors import SourceFormatError

FileFormat = Literal["jsonl", "json", "csv", "text", "parquet", "arrow"]
_FORMATS: dict[str, FileFormat] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrow": "arrow",
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
CONTENT_TYPES: dict[str, FileFormat] = {
    "application/json": "json",
    "application/jsonl": "jsonl",
    "application/x-jsonlines": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/vnd.apache.parquet": "parquet",
    "text/csv": "csv",
    "text/plain": "text",
}


class FileSpec(SourceSpec):
    """The options of every kind that reads files, in the same words."""

    file_format: Literal["auto", "jsonl", "json", "csv", "text", "parquet", "arrow"] = "auto"
    compression: Literal["auto", "none", "gz", "zst"] = "auto"
    records: str = Field(default="", description="keys down to the array in a JSON object: `data.items`")
    split: Literal["line", "paragraph"] = "line"
    delimiter: str = Field(default="", max_length=1, description="of CSV; else a comma, or a tab for .tsv")
    max_line_bytes: int = Field(default=1_000_000, ge=100, le=16_000_000)

    def compression_of(self, name: str) -> Compression | None:
        if self.compression == "auto":
            return _COMPRESSIONS.get(PurePosixPath(name.lower()).suffix)
        return None if self.compression == "none" else self.compression

    def format_of(self, name: str) -> FileFormat | None:
        """The given format, or the one that the file's name shows."""
        return _FORMATS.get(_suffix(name)) if self.file_format == "auto" else self.file_format

    def required_format_of(self, name: str) -> FileFormat:
        found = self.format_of(name)
        if found is None:
            raise SourceFormatError(
                f"cannot tell the format of {name!r} from its name (known: {', '.join(_FORMATS)}, "
                "each but .parquet also .gz and .zst); say `file_format: jsonl` (or json, csv, text, parquet, arrow)"
            )
        return found

    def delimiter_of(self, name: str) -> str:
        return self.delimiter or ("\t" if _suffix(name) == ".tsv" else ",")


def _suffix(name: str) -> str:
    """The ending that shows the format, behind that of the compression."""
    path = PurePosixPath(name.lower())
    return PurePosixPath(path.stem).suffix if path.suffix in _COMPRESSIONS else path.suffix
