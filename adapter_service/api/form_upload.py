"""Takes a multipart form apart as it comes, so that its file goes to the disk and never through memory.

FastAPI's own form would keep the file in the system's temporary folder first, which on small machines is
memory. One file and a few short fields; whatever else is in the form is refused by its name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from typing import TYPE_CHECKING

from anyio import to_thread
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from adapter_service.errors import InvalidParameterError
from adapter_service.suggestions import did_you_mean

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

_MAX_FIELD_BYTES = 1024
# A step to another thread for each piece of the network's size would cost more than the writing.
_BATCH_BYTES = 1 << 20


class FormUpload:
    """A form with one file, called `file`, and fields called as in `names`; the file's bytes go to `write`.

    `filename` and `fields` are there when `read` returns.
    """

    def __init__(self, content_type: str, file: str, names: Collection[str], write: Callable[[bytes], object]) -> None:
        self.filename: str | None = None
        self.fields: dict[str, str] = {}
        self._file = file
        self._names = names
        self._write = write
        self._ended = False
        self._part_begins()
        self._parser = _parser_of(
            content_type,
            {
                "on_part_begin": self._part_begins,
                "on_header_field": self._header_field,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._part_data,
                "on_part_end": self._part_ends,
                "on_end": self._form_ends,
            },
        )

    async def read(self, body: AsyncIterator[bytes]) -> None:
        """Read the whole form; `write` is called on another thread than the event loop's.

        Raises:
            InvalidParameterError: it is no form, not whole, or has other fields than it may.
        """
        batch = bytearray()
        async for piece in body:
            batch += piece
            if len(batch) >= _BATCH_BYTES:
                await to_thread.run_sync(self._take, bytes(batch))
                batch.clear()
        await to_thread.run_sync(self._take, bytes(batch))
        if not self._ended:
            raise InvalidParameterError("the form ends before its last boundary; send all of it")
        if self.filename is None:
            raise InvalidParameterError(f"'{self._file}' is missing; add it, as a file", parameter=self._file)

    def _take(self, batch: bytes) -> None:
        try:
            self._parser.write(batch)
        except FormParserError as error:
            raise InvalidParameterError(f"the form cannot be read ({error}); send multipart/form-data") from error

    def _part_begins(self) -> None:
        self._header, self._value = bytearray(), bytearray()
        self._disposition = b""
        self._name = ""
        self._is_file = False
        self._content = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def _headers_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, filename = options.get(b"name", b"").decode(errors="replace"), options.get(b"filename")
        if name not in {self._file, *self._names}:
            known = [self._file, *self._names]
            raise InvalidParameterError(
                f"unknown field {name[:80]!r}{did_you_mean(name, known)} allowed: {', '.join(known)}",
                parameter=name[:80],
            )
        if name in self.fields or (name == self._file and self.filename is not None):
            raise InvalidParameterError(f"'{name}' is in the form twice; give it once", parameter=name)
        if (filename is not None) != (name == self._file):
            wanted = "a file, with its filename" if name == self._file else "a text, without a filename"
            raise InvalidParameterError(f"'{name}' has to be {wanted}; send it so", parameter=name)
        self._name, self._is_file = name, name == self._file
        if filename is not None:
            self.filename = filename.decode(errors="replace")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._write(data[start:end])
            return
        self._content += data[start:end]
        if len(self._content) > _MAX_FIELD_BYTES:
            raise InvalidParameterError(
                f"'{self._name}' has over {_MAX_FIELD_BYTES} bytes; shorten it", parameter=self._name
            )

    def _part_ends(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._content.decode(errors="replace")

    def _form_ends(self) -> None:
        self._ended = True


def _parser_of(content_type: str, callbacks: MultipartCallbacks) -> MultipartParser:
    kind, options = parse_options_header(content_type)
    try:
        if kind == b"multipart/form-data" and options.get(b"boundary"):
            return MultipartParser(options[b"boundary"], callbacks)
    except FormParserError:
        pass  # a boundary that is too long
    raise InvalidParameterError(
        f"the body is {content_type[:80]!r}; send multipart/form-data with its boundary, as `curl -F` does"
    )
