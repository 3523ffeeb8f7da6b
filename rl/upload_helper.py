"""Send recorded episodes: `python rl/upload_helper.py --folder rl_runs --upload-path s3://bucket/episodes/`.

Shards of processes that ended are sealed, whatever has not gone is sent, and what an interruption left is
gone on with. Running it again sends nothing twice.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

if __name__ == "__main__":  # run as a file: the folder above the package is what Python shall look in
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rl.command import ended
from rl.destination import Destination, Place
from rl.episodes import checked_run_id
from rl.errors import ConfigError
from rl.to_folder import FolderDestination
from rl.to_http import HttpDestination
from rl.to_s3 import S3Destination
from rl.uploading import Report, Uploader

_KINDS = "s3://bucket/prefix/, file:///folder/ or https://host/prefix/"


def destination_of(
    upload_path: str,
    *,
    endpoint_url: str | None = None,
    region: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Destination:
    """The storage that an address names.

    Raises:
        ConfigError: no such kind, or a secret in it.
    """
    environ = os.environ if environ is None else environ
    try:
        parts = urlsplit(upload_path)
    except ValueError as error:
        raise ConfigError(f"the upload path is no address ({error}); wanted is {_KINDS}") from error
    is_http = parts.scheme in {"http", "https"}
    # A path ends there, and what follows would be lost in silence.
    if lost := next((mark for mark in ("#" if is_http else "#?") if mark in upload_path), None):
        raise ConfigError(f"the upload path has a {lost!r} in it, which no folder and no key may have: choose another")
    if "@" in parts.netloc:
        raise ConfigError("the upload path has a user or password in it; put a token into RL_UPLOAD_TOKEN instead")
    if parts.scheme == "s3" and parts.netloc:
        place = Place(parts.path.lstrip("/"))
        endpoint_url = endpoint_url or environ.get("S3_ENDPOINT_URL")
        return S3Destination(parts.netloc, place, endpoint_url=endpoint_url, region=region)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and len(parts.path) > 1:
        return _folder(unquote(parts.path))
    if is_http and parts.netloc:
        return HttpDestination(upload_path, token=environ.get("RL_UPLOAD_TOKEN"))
    shown = f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.scheme else upload_path
    raise ConfigError(f"the upload path is {shown[:200]!r}; wanted is {_KINDS}")


def _folder(path: str) -> FolderDestination:
    """The folder that is named has to be there; those that a run id makes are made."""
    fixed = path.partition("{")[0]
    root = fixed if fixed == path and not path.endswith(".jsonl") else fixed.rpartition("/")[0]
    return FolderDestination(Path(root or "/"), Place(path[len(root) :].lstrip("/")))


def said_of(report: Report, label: str) -> str:
    """What a pass did, in lines for people."""
    lines = [f"  sent           {name}" for name in report.sent]
    lines += [f"  already there  {name}" for name in report.already_there]
    lines += [f"  not sent       {name}: {reason}" for name, reason in report.failed.items()]
    done = len(report.sent) + len(report.already_there)
    return "\n".join([f"{done} shards at {label}, {len(report.failed)} not sent", *lines])


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="upload_helper.py",
        description="Send recorded episodes; what was sent is not sent again.",
        allow_abbrev=False,
    )
    made.add_argument("--folder", type=Path, default=Path("rl_runs"), help="where the shards lie (default: rl_runs)")
    made.add_argument("--upload-path", "--upload_path", required=True, help=_KINDS)
    made.add_argument("--s3-endpoint-url", "--s3_endpoint_url", help="MinIO and the like (or S3_ENDPOINT_URL)")
    made.add_argument("--s3-region", "--s3_region")
    made.add_argument("--run-id", "--run_id", help="only this run's shards")
    made.add_argument("--attempts", type=int, default=5, help="tries of an unreachable destination (default: 5)")
    made.add_argument("--remove-sent", action="store_true", help="remove shards from the folder once they went")
    made.add_argument("--watch", type=_seconds, metavar="SECONDS", help="go on, and look for new shards this often")
    return made


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text} is no pause; more than 0 seconds are wanted")
    return seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when everything went, 1 for a reason that is said, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    return ended(
        lambda: _run(options),
        disk_advice="make room, or make it a folder that may be written to",
        when_stopped="the same command goes on where it was",
    )


def _run(options: argparse.Namespace) -> int:
    if not options.folder.is_dir():
        raise ConfigError(f"there is no folder {str(options.folder)!r}; name the one that rl/collect.py wrote to")
    destination = destination_of(options.upload_path, endpoint_url=options.s3_endpoint_url, region=options.s3_region)
    uploader = Uploader(
        options.folder,
        destination,
        keep_bytes=0 if options.remove_sent else None,
        only=None if options.run_id is None else checked_run_id(options.run_id),
        attempts=max(1, options.attempts),
        poll_seconds=options.watch or 0.0,
    )
    if options.watch:
        return _watch(uploader)
    report = uploader.upload()
    sys.stdout.write(said_of(report, destination.label) + "\n")
    return 1 if report.failed else 0


def _watch(uploader: Uploader) -> int:
    """Until SIGINT or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    uploader.start()
    ended.wait()
    uploader.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
