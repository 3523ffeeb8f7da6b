"""Downloads the packages that the sample corpus is assembled from, with their registries' own clients."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from adapter_service.errors import SourceUnreachableError

logger = logging.getLogger(__name__)
Fetch = Callable[[Path], Path]
"""Puts a package below the cache folder and says where: a folder (npm, Debian) or a wheel (PyPI)."""


def npm(name: str, version: str) -> Fetch:
    def fetch(cache: Path) -> Path:
        folder = cache / f"npm-{name.strip('@').replace('/', '-')}-{version}"
        if not folder.exists():
            with _fresh(folder) as work:
                _run(["npm", "pack", "--silent", f"{name}@{version}"], work)
                with tarfile.open(next(work.glob("*.tgz"))) as archive:
                    archive.extractall(work, filter="data")
        return folder

    return fetch


def debian(*names: str) -> Fetch:
    """All packages unpacked into one folder; Debian keeps only its newest version of each."""

    def fetch(cache: Path) -> Path:
        folder = cache / f"debian-{names[0]}"
        if not folder.exists():
            with _fresh(folder) as work:
                _run(["apt-get", "download", *names], work)
                for package in sorted(work.glob("*.deb")):
                    _run(["dpkg-deb", "-x", str(package), str(work)], work)
        return folder

    return fetch


def debian_version(folder: Path) -> str:
    """The version of a folder that `debian` made, from its package's file name."""
    package = next(folder.glob("*.deb"))
    return package.name.split("_")[1].replace("%3a", ":")


def pypi(name: str, version: str) -> Fetch:
    def fetch(cache: Path) -> Path:
        folder = cache / f"pypi-{name}-{version}"
        if not folder.exists():
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", f"{name}=={version}"]
            with _fresh(folder) as work:
                _run(command, work)
        return next(folder.glob("*.whl"))

    return fetch


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """A work folder beside `folder` that takes its name only when all went well."""
    work = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    logger.info("downloading %s", folder.name)
    yield work
    work.rename(folder)


def _run(command: list[str], folder: Path) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SourceUnreachableError(f"{command[0]} is not installed; the corpus is assembled with it") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip().splitlines()[-1:]
        raise SourceUnreachableError(f"`{' '.join(command)}` failed: {' '.join(reason)}") from error
