"""What the Hugging Face Hub is asked about a dataset, with patience; its refusals become errors of ours.

Only cards and listings are fetched, a few kilobytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import datasets
from huggingface_hub import DatasetInfo, HfApi, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx  # type: ignore[attr-defined] # whichever HTTP library it was built on

from adapter_service.connectors.dataset_card import CARDS
from adapter_service.connectors.dataset_spec import HfSpec
from adapter_service.connectors.patience import pause_seconds
from adapter_service.errors import SourceFormatError, SourceUnreachableError

Answer = TypeVar("Answer")

_PUBLIC_HUB = "https://huggingface.co"
# Says nothing of where the files lie, and is fetched by `datasets` all the same.
_OLD_CARD = "dataset_infos.json"
# It is kept on the disk; those with pictures in them have a few megabytes.
MAX_CARD_BYTES = 16 * 1024 * 1024
CONVERTED = "the Hub's own conversion of it can be read: `revision: refs/convert/parquet`, `data_dir: <config>`"

# Addresses are put together with a slash of their own.
datasets.config.HF_ENDPOINT = datasets.config.HF_ENDPOINT.rstrip("/")


def hub_endpoint() -> str:
    """The Hub that is asked: the public one, or another that HF_ENDPOINT names."""
    return str(datasets.config.HF_ENDPOINT)


class HubDataset:
    """The dataset that `spec` names, on the Hub of this moment."""

    def __init__(self, spec: HfSpec) -> None:
        self._spec = spec
        self._endpoint = hub_endpoint()
        self._api = HfApi(endpoint=self._endpoint, token=spec.token or False)

    @property
    def is_public(self) -> bool:
        return self._endpoint == _PUBLIC_HUB

    def info(self, revision: str) -> DatasetInfo:
        """What the Hub says of it, once it is known that it may be read."""
        spec = self._spec
        with translated(spec, revision):
            info = self._patiently(
                lambda: self._api.dataset_info(spec.dataset, revision=revision or None, timeout=spec.timeout_seconds)
            )
            if info.gated:
                self._patiently(lambda: self._api.auth_check(spec.dataset, repo_type="dataset"))
        script = f"{spec.dataset.rpartition('/')[2]}.py"
        if script in _names(info):
            raise SourceFormatError(
                f"dataset '{spec.dataset}' is read by a script of its own ({script}), and code of others is never "
                f"run; {CONVERTED}"
            )
        return info

    def cards(self, info: DatasetInfo) -> list[Path]:
        """Its cards; without the first, if it cannot be fetched, `datasets` would read other files in silence."""
        names = [name for name in (*CARDS, _OLD_CARD) if name in _names(info)]
        if not names:
            return []
        where: dict[str, Any] = {"repo_id": self._spec.dataset, "repo_type": "dataset", "revision": info.sha}
        with translated(self._spec, str(info.sha)):
            for found in self._patiently(partial(self._api.get_paths_info, paths=names, **where)):
                if (size := getattr(found, "size", 0)) > MAX_CARD_BYTES:
                    raise SourceFormatError(
                        f"dataset '{self._spec.dataset}': its card ({found.path}) has {size} bytes, and up to "
                        f"{MAX_CARD_BYTES} are fetched; that is no card"
                    )
            return [Path(self._api.hf_hub_download(filename=name, **where)) for name in names if name != _OLD_CARD]

    def url(self, label: str, commit: str) -> str:
        """The address of one of its files."""
        return str(hf_hub_url(self._spec.dataset, label, repo_type="dataset", revision=commit, endpoint=self._endpoint))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The answer, asked for again where the Hub is busy or does not answer."""
        for failures in range(1, self._spec.retry_attempts + 1):
            try:
                return ask()
            except httpx.TransportError:
                pass
            except HfHubHTTPError as error:
                if error.response.status_code != 429 and error.response.status_code < 500:
                    raise
            time.sleep(pause_seconds(self._spec.backoff_seconds, failures))
        return ask()


def _names(info: DatasetInfo) -> set[str]:
    return {sibling.rfilename for sibling in info.siblings or []}


@contextmanager
def translated(spec: HfSpec, revision: str) -> Iterator[None]:
    """The Hub's refusals as errors of ours, with what to do about them."""
    endpoint = hub_endpoint()
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' is on the Hub, and HF_HUB_OFFLINE forbids asking it; "
            "unset that, or give a folder as `path`"
        ) from error
    except GatedRepoError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' is gated; accept its terms at {endpoint}/datasets/{spec.dataset} and give "
            "that account's token as `token: ${HF_TOKEN}`"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceUnreachableError(
            f"{endpoint} knows no dataset '{spec.dataset}' that may be read"
            f"{' with this token' if spec.token else ' without a token'}; check the name, and for a private one "
            "`token: ${HF_TOKEN}`"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}' has no revision {revision!r}; give a branch, tag or commit that it has"
        ) from error
    except HfHubHTTPError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} answered {error.response.status_code} "
            f"({spec.retry_attempts + 1} attempts); check the token, or try later"
        ) from error
    except LocalEntryNotFoundError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} does not give its card; check the network, or try later"
        ) from error
    except httpx.HTTPError as error:
        raise SourceUnreachableError(
            f"dataset '{spec.dataset}': {endpoint} cannot be reached: {error} ({spec.retry_attempts + 1} attempts); "
            "check the network and HF_ENDPOINT"
        ) from error
