"""What qdrant-client and the server say went wrong, as errors of a source with what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import ValidationError
from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from adapter_service.errors import SourceError, SourceFormatError, SourceUnreachableError
from adapter_service.suggestions import did_you_mean

# An unknown collection is a ValueError in an embedded folder.
FAILURES = (ApiException, QdrantException, ValueError)


def is_transient(error: Exception) -> bool:
    """Whether another try is worth it: no connection, too busy, or a fault of the server's own."""
    if isinstance(error, UnexpectedResponse):
        return error.status_code == 429 or (error.status_code or 0) >= 500
    if isinstance(error, ResponseHandlingException):
        return not isinstance(error.source, ValidationError)
    return isinstance(error, QdrantException)


def asked_pause_seconds(error: Exception) -> float:
    """What a busy server asks to wait."""
    return float(error.retry_after_s) if isinstance(error, ResourceExhaustedResponse) else 0.0


def explained(
    error: Exception, *, where: str, collection: str, attempts: int, collections: Callable[[], Iterable[str]]
) -> SourceError:
    """The error of ours; `collections` is asked for names where the collection is unknown."""
    times = f" ({attempts} attempts)" if attempts > 1 else ""
    if isinstance(error, ResponseHandlingException) and not is_transient(error):
        return SourceFormatError(f"{where} answers, but not as Qdrant does; check that `url` is a Qdrant server's")
    if isinstance(error, ResponseHandlingException):
        return SourceUnreachableError(
            f"{where} cannot be reached: {error.source}{times}; check the address and whether the server runs"
        )
    status = error.status_code if isinstance(error, UnexpectedResponse) else None
    if status in {401, 403}:
        return SourceUnreachableError(
            f"{where} answered {status}; give a key that may read {collection!r} as `api_key: ${{QDRANT_API_KEY}}`"
        )
    if status == 404 or isinstance(error, ValueError):
        return _unknown(where, collection, collections)
    return SourceUnreachableError(f"{where} answered {status or 429}{times}; look at the server, or try later")


def _unknown(where: str, collection: str, collections: Callable[[], Iterable[str]]) -> SourceError:
    try:
        names = sorted(collections())
    except FAILURES:
        # A key for one collection may not list them.
        names = []
    return SourceUnreachableError(
        f"{where} has no collection {collection!r}{did_you_mean(collection, names)} "
        f"collections: {', '.join(names[:20]) or 'none that this key may see'}; mend `collection`"
    )
