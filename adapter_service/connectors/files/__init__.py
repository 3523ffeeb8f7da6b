"""Files: their bytes from any place, decompressed, and the records within; wherever a file lies.

A kind that reads files gives each as a `ByteFile` and takes `FileSpec` for its options; `read_file` does the rest.
"""

from __future__ import annotations

from adapter_service.connectors.files.byte_file import BLOCK_BYTES, ByteFile
from adapter_service.connectors.files.reading import read_file
from adapter_service.connectors.files.spec import CONTENT_TYPES, FileFormat, FileSpec

__all__ = ["BLOCK_BYTES", "CONTENT_TYPES", "ByteFile", "FileFormat", "FileSpec", "read_file"]
