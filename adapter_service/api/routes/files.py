"""Files to train on: send, list, read and delete them, as OpenAI's clients do."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect

from adapter_service.api.form_upload import FormUpload
from adapter_service.api.openapi import can_fail_with
from adapter_service.api.schemas.files import PURPOSE, UPLOAD_FORM, FileAnswer, FileDeleted, FileList, FileListQuery
from adapter_service.api.services import Wired
from adapter_service.errors import InvalidParameterError, UnknownFileError
from adapter_service.jobs.training_file import TrainingFile

router = APIRouter(prefix="/v1/files", tags=["files"])

_MAX_FILENAME = 255
_BLOCK_BYTES = 1 << 16
_CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The file as it was sent.", "content": {"application/octet-stream": {}}}
}


@router.post("", openapi_extra=UPLOAD_FORM, responses=can_fail_with(507))
async def send_file(request: Request, services: Wired) -> FileAnswer:
    """Keep a file to train on; every line is read, and `status` says whether a job can take it."""
    announced = request.headers.get("content-length", "")
    try:
        with services.files.landing(int(announced) if announced.isdecimal() else 0) as landing:
            form = FormUpload(request.headers.get("content-type", ""), "file", ["purpose"], landing.write)
            await form.read(request.stream())
            keep = partial(services.files.keep, landing, filename=_checked(form), purpose=PURPOSE)
            kept = await to_thread.run_sync(keep)
    except ClientDisconnect as error:  # nobody reads this answer
        raise InvalidParameterError("the connection ended before the form did; send it again") from error
    return _answer(await to_thread.run_sync(services.files.check, kept))


@router.get("", responses=can_fail_with(404))
def list_files(query: Annotated[FileListQuery, Query()], services: Wired) -> FileList:
    """The files that are there."""
    page = services.files.list(after=query.after, limit=query.limit, order=query.order, purpose=query.purpose)
    answers = [_answer(file) for file in page.items]
    first, last = (answers[0].id, answers[-1].id) if answers else (None, None)
    return FileList(data=answers, first_id=first, last_id=last, has_more=page.has_more)


@router.get("/{file_id}", responses=can_fail_with(404))
def get_file(file_id: str, services: Wired) -> FileAnswer:
    """One file: how large it is, and whether a job can take it."""
    return _answer(services.files.get(file_id))


@router.get("/{file_id}/content", response_class=StreamingResponse, responses={**_CONTENT, **can_fail_with(404)})
def get_content(file_id: str, services: Wired) -> StreamingResponse:
    """The file itself, byte for byte."""
    file = services.files.get(file_id)
    headers = {
        "Content-Length": str(file.bytes),
        "Content-Disposition": f"attachment; filename*=utf-8''{quote(file.filename, safe='')}",
    }
    return StreamingResponse(_blocks(file.path, file.id), headers=headers, media_type="application/octet-stream")


@router.delete("/{file_id}", responses=can_fail_with(404, 409, 507))
def delete_file(file_id: str, services: Wired) -> FileDeleted:
    """Remove a file; one that an unfinished job trains on stays."""
    services.files.delete(file_id)
    return FileDeleted(id=file_id)


def _checked(form: FormUpload) -> str:
    """The file's name; the other field has to be what it may be."""
    purpose = form.fields.get("purpose")
    if purpose != PURPOSE:
        found = "is missing" if purpose is None else f"is {purpose[:80]!r}"
        raise InvalidParameterError(f"'purpose' {found}; files are kept for {PURPOSE!r} alone", parameter="purpose")
    name = form.filename or ""
    if not 1 <= len(name) <= _MAX_FILENAME:
        raise InvalidParameterError(
            f"the file's name has {len(name)} characters; 1 to {_MAX_FILENAME} are allowed: rename it", parameter="file"
        )
    return name


def _blocks(path: Path, file_id: str) -> Iterator[bytes]:
    """Opened at once, so that a file which was deleted meanwhile is a 404 and no broken answer."""
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UnknownFileError(f"{file_id} was deleted just now; GET /v1/files lists what there is") from error

    def read() -> Iterator[bytes]:
        with file:
            while block := file.read(_BLOCK_BYTES):
                yield block

    return read()


def _answer(file: TrainingFile) -> FileAnswer:
    return FileAnswer(
        id=file.id,
        bytes=file.bytes,
        created_at=int(file.created_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
        status=file.status,
        status_details=file.status_details,
        expires_at=None,
    )
