"""Record episodes and send them: `python rl/collect.py --episodes 20 --upload-path s3://bucket/episodes/`.

Prompts are put to a running service (or `--record FILE` takes episodes that are there already), the
answers scored, and written as JSON lines. Options go before rl_config.yaml.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # run as a file: the folder above the package is what Python shall look in
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rl.command import ended
from rl.config import NO_SECRETS, Config, Prompt, read_config, section
from rl.destination import Destination
from rl.episodes import Episode, checked_run_id, new_run_id, row_of
from rl.errors import ConfigError
from rl.given import episodes_of
from rl.service import answered
from rl.shards import ShardWriter
from rl.upload_helper import destination_of, said_of
from rl.uploading import Uploader

CONFIG = Path(__file__).resolve().with_name("rl_config.yaml")
_UTF_8 = "utf-8-sig"  # with or without the mark that Windows puts before it
_SECRET_OPTIONS = ("--aws-access-key", "--aws_access_key", "--aws-secret-key", "--aws_secret_key")


class _Parser(argparse.ArgumentParser):
    """Says what was probably meant, and where secrets go."""

    def error(self, message: str) -> NoReturn:
        word = message.partition("unrecognized arguments: ")[2].partition(" ")[0].partition("=")[0]
        if word in _SECRET_OPTIONS:
            message = f"{word}: {NO_SECRETS}"
        elif word and (close := difflib.get_close_matches(word, self._option_string_actions, n=1)):
            message += f"; did you mean {close[0]}?"
        super().error(message)


def parser() -> argparse.ArgumentParser:
    made = _Parser(prog="collect.py", description="Record episodes and send them to a bucket, share or server.",
                   allow_abbrev=False)  # fmt: skip

    def option(*names: str, **more: Any) -> None:
        spelt = dict.fromkeys(spelling for name in names for spelling in (name, "--" + name[2:].replace("-", "_")))
        made.add_argument(*spelt, **more)

    option("--config", type=Path, default=CONFIG, help="rl_config.yaml to use (default: the one beside this file)")
    option("--url", dest="service_url", help="the running service")
    option("--episodes", "--max-episodes", dest="max_episodes", type=int, help="how many")
    option("--prompt", action="append", help="asked instead of those of the configuration; may be repeated")
    option("--prompts", type=Path, help='file of prompts: {"prompts": [{"prompt", "language_code"}]} or a line each')
    option("--language", help="of the answers to --prompt and --prompts (BCP-47 tag or name)")
    option("--record", metavar="FILE", help="record the episodes of this JSONL file (- is stdin) instead of asking")
    option("--out", dest="output_path", help="folder and beginning of the shards' names")
    option("--env-name", dest="env_name", help="stands in every episode")
    option("--run-id", help="of this run (default: a new one)")
    option("--adapter", "--adapter-path", dest="adapter", help="name or name@version; base (or none) is the base alone")
    option("--base-model", dest="base_model", help="the base that the service has to hold")
    option("--max-new-tokens", dest="max_new_tokens", type=int)
    option("--temperature", type=float)
    option("--top-p", dest="top_p", type=float)
    option("--top-k", dest="top_k", type=int)
    option("--seed", type=int, help="the first episode's; each further one adds 1")
    option("--upload", action="store_true", help="send to the configured destination, or to RL_UPLOAD_PATH")
    option("--upload-path", "--upload-url", dest="upload_path",
           help="send there: s3://bucket/prefix/, file:///folder/, https://host/prefix/, or a signed one")  # fmt: skip
    option("--s3-bucket", dest="s3_bucket", help="send to this bucket")
    option("--s3-key", dest="s3_key", help="under this key; {run_id} stands for the run's")
    option("--s3-endpoint-url", dest="s3_endpoint_url", help="MinIO and the like (or S3_ENDPOINT_URL)")
    option("--s3-region", dest="s3_region")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all is recorded and sent, 1 for a reason that is said, 130 for Ctrl-C."""
    options = parser().parse_args(arguments)
    return ended(
        lambda: _run(options),
        disk_advice="make room, or name another folder with --out",
        when_stopped="the same command begins another run",
    )


def _run(options: argparse.Namespace) -> int:
    config = _with_options(read_config(options.config), options)
    run_id = new_run_id() if options.run_id is None else checked_run_id(options.run_id)
    destination = _destination(config, options)
    output = Path(config.episodes.output_path)
    folder, name = (output.parent, output.stem) if output.suffix == ".jsonl" else (output, "episodes")
    writer = ShardWriter(
        folder,
        run_id=run_id,
        name=name,
        max_bytes=config.episodes.shard_max_mb << 20,
        max_age_seconds=config.episodes.shard_max_seconds,
    )
    sending = f"python rl/upload_helper.py --folder {folder} --run-id {run_id} --upload-path …"
    try:
        count = _write(writer, _episodes(config, options, run_id), config)
    except BaseException:
        if writer.seal() is not None:
            _say(f"what was recorded lies in {folder}; to send it: {sending}")
        raise
    writer.seal()
    _say(f"{count} episodes of {run_id} in {folder}")
    if destination is None:
        _say("not sent: name --upload-path, or --s3-bucket and --s3-key")
        return 0
    report = Uploader(folder, destination, only=run_id, attempts=config.cloud.attempts).upload()
    _say(said_of(report, destination.label))
    if report.failed:
        _say(f"to go on: {sending}")
    return 1 if report.failed else 0


def _write(writer: ShardWriter, episodes: Iterator[Episode], config: Config) -> int:
    count = 0
    for count, episode in enumerate(episodes, 1):
        row = row_of(episode, count - 1, config.reward)
        writer.append(row)
        writer.seal_if_due()
        reward = "none" if row["reward"] is None else f"{row['reward']:.3f}"
        _say(f"{count:5}  reward {reward}  {' '.join(episode.output.split())[:80]}")
    return count


def _episodes(config: Config, options: argparse.Namespace, run_id: str) -> Iterator[Episode]:
    env_name = config.episodes.env_name
    if options.record is None:
        prompts = config.prompts
        if not prompts:
            raise ConfigError("there are no prompts; give --prompt, --prompts, or some in the configuration")
        yield from answered(prompts, config.episodes.max_episodes, config.model, run_id=run_id, env_name=env_name)
        return
    with _lines_of(options.record) as lines:
        given = episodes_of(lines, options.record, run_id=run_id, env_name=env_name)
        yield from itertools.islice(given, options.max_episodes)


@contextlib.contextmanager
def _lines_of(name: str) -> Iterator[Any]:
    try:
        if name == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):  # whatever the terminal's own encoding
                sys.stdin.reconfigure(encoding=_UTF_8, errors="strict")
            yield sys.stdin
            return
        with Path(name).open(encoding=_UTF_8) as file:
            yield file
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--record {name}: cannot be read ({error}); name a JSONL file in UTF-8") from error


def _with_options(config: Config, options: argparse.Namespace) -> Config:
    """The configuration with what the command line says in its place, checked as the file was."""
    faults: list[str] = []
    changed: dict[str, Any] = {}
    for name in ("model", "episodes", "cloud"):
        part = getattr(config, name)
        given = {key: getattr(options, key, None) for key in type(part).__dataclass_fields__}
        given = {key: value for key, value in given.items() if value is not None}
        values = {key: getattr(part, key) for key in type(part).__dataclass_fields__}
        if given and (made := section(type(part), {**values, **given}, name, faults)) is not None:
            changed[name] = made
    if faults:
        raise ConfigError("; ".join(faults))
    if given_prompts := _prompts(options):
        changed["prompts"] = given_prompts
    return replace(config, **changed)


def _prompts(options: argparse.Namespace) -> tuple[Prompt, ...]:
    found = [Prompt(prompt=text, language=options.language) for text in options.prompt or ()]
    if options.prompts is not None:
        found += _read_prompts(options.prompts, options.language)
    if any(not prompt.prompt.strip() for prompt in found):
        raise ConfigError("a prompt is blank; write what shall be answered")
    return tuple(found)


def _read_prompts(path: Path, language: str | None) -> list[Prompt]:
    try:
        text = path.read_text(encoding=_UTF_8)
        if path.suffix != ".json":
            return [Prompt(prompt=line, language=language) for line in text.split("\n") if line.strip()]
        listed = json.loads(text)
        return [
            Prompt(
                prompt=str(entry["prompt"]), language=language or entry.get("language_code") or entry.get("language")
            )
            for entry in (listed["prompts"] if isinstance(listed, Mapping) else listed)
        ]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--prompts {path}: cannot be read ({error}); name a JSON file, or one of lines") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"--prompts {path}: has no list of objects with 'prompt'; see test_prompts/") from error


def _destination(config: Config, options: argparse.Namespace) -> Destination | None:
    """Where the run goes; None is nowhere. What the command line names is enough to send."""
    cloud = config.cloud
    if options.upload_path and options.s3_bucket:
        raise ConfigError("--upload-path and --s3-bucket both say where to send; give one of them")
    if options.s3_key and not cloud.s3_bucket:
        raise ConfigError("--s3-key wants a bucket; give --s3-bucket too")
    wanted = options.upload or options.upload_path or options.s3_bucket or options.s3_key or cloud.upload_enabled
    if not wanted:
        return None
    # An address that is signed is a secret for as long as it holds; the variable keeps it off the command line.
    path = options.upload_path or (None if options.s3_bucket else cloud.upload_path or os.environ.get("RL_UPLOAD_PATH"))
    if path is None and cloud.s3_bucket:
        path = f"s3://{cloud.s3_bucket}/{cloud.s3_key}"
    if path is None:
        raise ConfigError("nothing says where to send; give --upload-path, or set cloud.upload_path or cloud.s3_bucket")
    return destination_of(path, endpoint_url=cloud.s3_endpoint_url, region=cloud.s3_region)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
