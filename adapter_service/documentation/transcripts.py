"""The README's commands with their real output: `make transcripts` runs them and writes it.

They stand in `console` blocks, a command behind `$` and `>`, its output below. A running service
answers at the address that the README names, or at `--url`. `$JOB_ID` is the last job that a
command made; `<!-- when the job has ended -->` above a block waits for it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.request import urlopen

from adapter_service.documentation import README, ROOT

# Where the README's commands expect the service.
ADDRESS = "localhost:8100"

_BLOCK = re.compile(r"(?P<waits><!-- when the job has ended -->\n)?```console\n(?P<content>.*?)```", re.DOTALL)
_COMMAND = re.compile(r"^\$ (?P<first>.*\n)(?P<rest>(?:> .*\n)*)(?P<output>(?:(?!\$ ).*\n)*)", re.MULTILINE)
_JOB = re.compile(r'"job_id": ?"(job_\w+)"')


@dataclass(frozen=True, slots=True)
class Command:
    """One command as a shell takes it, and what stands below it."""

    text: str
    output: str


def commands(readme: str) -> list[Command]:
    """Every command of the `console` blocks, in their order."""
    return [command for block in _BLOCK.finditer(readme) for _, command in _commands_of(block["content"])]


def _commands_of(content: str) -> Iterator[tuple[re.Match[str], Command]]:
    for found in _COMMAND.finditer(content):
        rest = re.sub(r"^> ", "", found["rest"], flags=re.MULTILINE)
        yield found, Command(found["first"] + rest, found["output"])


@dataclass(slots=True)
class Session:
    """Runs commands one after the other against the service at `url`; `environment` is theirs."""

    url: str
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    job_id: str = ""

    def run(self, command: Command) -> str:
        """The output of a command, with the README's address in the place of `url`, and paths from the checkout on.

        Raises:
            subprocess.CalledProcessError: it ended with another status than 0.
        """
        address = self.url.removeprefix("http://")
        done = subprocess.run(
            ["bash", "-c", command.text.replace(ADDRESS, address)],
            env={**self.environment, "JOB_ID": self.job_id, "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"},
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        if made := _JOB.search(done.stdout):
            self.job_id = made[1]
        output = done.stdout.replace(address, ADDRESS).replace(f"{ROOT}/", "")
        return output if output.endswith("\n") or not output else f"{output}\n"

    def wait_for_job(self) -> None:
        while True:
            with urlopen(f"{self.url}/adapter/status/{self.job_id}") as answer:  # noqa: S310 - the service's own
                if json.load(answer)["finished_at"] is not None:
                    return
            time.sleep(0.5)


def with_outputs(readme: str, session: Session) -> str:
    """The README with the output that every command gives now."""

    def run_block(block: re.Match[str]) -> str:
        if block["waits"]:
            session.wait_for_job()
        shown = [
            "$ " + found["first"] + found["rest"] + session.run(command)
            for found, command in _commands_of(block["content"])
        ]
        return f"{block['waits'] or ''}```console\n{''.join(shown)}```"

    return _BLOCK.sub(run_block, readme)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Write the output of the README's commands anew.")
    parser.add_argument("--url", default=f"http://{ADDRESS}", help="a running service with a live adapter")
    url = parser.parse_args(arguments).url
    try:
        README.write_text(with_outputs(README.read_text(), Session(url)))
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error.cmd[-1]}ended with status {error.returncode}: {error.stdout}{error.stderr}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
