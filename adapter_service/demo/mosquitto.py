"""A real MQTT broker on a free port of this machine: mosquitto, from the PATH or else out of Debian's package.

The package and those libraries of it that this machine lacks are unpacked without root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from adapter_service.errors import RunFailedError

_PROGRAM = "usr/sbin/mosquitto"
_SYSTEM_PATHS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Program:
    """Where it is, and what its environment needs beside ours."""

    path: str
    environment: dict[str, str]


def find_mosquitto(unpacked: Path) -> Program:
    """The program on the PATH, or the one in `unpacked`, which is made at the first call.

    Raises:
        RunFailedError: there is none, and Debian's package cannot be had.
    """
    path = os.pathsep.join((os.environ.get("PATH", ""), *_SYSTEM_PATHS))
    if (program := shutil.which("mosquitto", path=path)) is not None:
        return Program(program, {})
    if not (unpacked / _PROGRAM).is_file():
        try:
            _unpack(unpacked)
        except (OSError, subprocess.SubprocessError) as error:
            raise RunFailedError(
                f"there is no mosquitto, and Debian's package cannot be had ({error}); install it "
                "(apt install mosquitto, brew install mosquitto)"
            ) from error
    libraries = sorted({str(path.parent) for path in unpacked.rglob("*.so*")})
    return Program(str(unpacked / _PROGRAM), {"LD_LIBRARY_PATH": os.pathsep.join(libraries)})


@dataclass
class Mosquitto:
    """One broker, which keeps what it holds between runs in `folder`; `url` stays the same over all of them.

    `settings` are further lines of its configuration; without a password file everybody may.
    """

    program: Program
    folder: Path
    settings: Sequence[str] = ()
    port: int = field(default_factory=lambda: free_port())  # noqa: PLW0108 - it stands below
    scheme: str = "mqtt"
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://localhost:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text()

    def start(self) -> None:
        """Until it listens.

        Raises:
            RunFailedError: it does not, with what it says.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "mosquitto.conf"
        # Else only what it was asked to keep for longer than half an hour would survive its being killed.
        keeping = ("persistence true", f"persistence_location {self.folder}/", "autosave_on_changes true")
        allowing = () if any("password_file" in line for line in self.settings) else ("allow_anonymous true",)
        listening = (f"listener {self.port} 127.0.0.1", *allowing, "autosave_interval 1", f"user {_user()}")
        config.write_text("\n".join((*listening, *keeping, *self.settings)) + "\n")
        with (self.folder / "mosquitto.log").open("ab") as log:
            command = [self.program.path, "-v", "-c", str(config)]
            environment = os.environ | self.program.environment
            self._process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        ends_at = time.monotonic() + _START_SECONDS
        while not _listens(self.port):
            if self._process.poll() is not None or time.monotonic() > ends_at:
                raise RunFailedError(f"mosquitto does not listen on port {self.port}: {self.log[-500:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """In order, so that it writes down what it holds."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Connections stand, and nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(how)
                self._process.send_signal(signal.SIGCONT)
            self._process.wait(30)
            self._process = None


def _unpack(target: Path) -> None:
    """Debian's package and the libraries that are missing, into `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        work = Path(made)
        apt = _Apt(work / "apt")
        try:
            apt.download_with_libraries("mosquitto", to=work)
        except subprocess.SubprocessError:  # no lists, or old ones
            apt.take_own_lists()
            apt.download_with_libraries("mosquitto", to=work)
        for package in work.glob("*.deb"):
            _run("dpkg-deb", "--extract", str(package), str(work / "root"))
        if not (work / "root" / _PROGRAM).is_file():
            raise FileNotFoundError(_PROGRAM)
        shutil.rmtree(target, ignore_errors=True)
        (work / "root").rename(target)


class _Apt:
    """apt with folders of its own, so that it needs no root."""

    def __init__(self, folder: Path) -> None:
        self._lists = folder / "lists"
        for made in (self._lists / "partial", folder / "cache" / "archives" / "partial"):
            made.mkdir(parents=True)
        self._options = ["-o", f"Dir::Cache={folder / 'cache'}", "-o", f"Debug::NoLocking={True}"]
        self._options += ["-o", f"APT::Sandbox::User={_user()}"]

    def take_own_lists(self) -> None:
        self._options += ["-o", f"Dir::State::Lists={self._lists}"]
        with suppress(subprocess.CalledProcessError):  # another source than Debian's may be away
            _run("apt-get", *self._options, "update")

    def download_with_libraries(self, package: str, *, to: Path) -> None:
        _run("apt-get", *self._options, "download", package, *self._missing_libraries(package), folder=to)

    def _missing_libraries(self, package: str) -> list[str]:
        """Of everything that `package` depends on, the libraries that are not installed."""
        unwanted = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
        without = [f"--no-{kind}" for kind in unwanted]
        listed = _run("apt-cache", *self._options, "depends", "--recurse", *without, package)
        names = {line for line in listed.splitlines() if line.startswith("lib") and ":" not in line}
        return sorted(name for name in names if not _is_installed(name))


def _is_installed(package: str) -> bool:
    asked = subprocess.run(["dpkg-query", "-W", "-f=${db:Status-Status}", package], capture_output=True, check=False)
    return asked.returncode == 0 and b"not-installed" not in asked.stdout


def _user() -> str:
    return Path(f"/proc/{os.getpid()}").owner()


def _run(*command: str, folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def free_port() -> int:
    """Of loopback; somebody else may take it before it is used."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
