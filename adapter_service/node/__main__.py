"""`python -m adapter_service.node`: listen for adapters, and say in a line of JSON what happens."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from adapter_service.commands import nodes
from adapter_service.errors import AdapterServiceError
from adapter_service.node.active import NodeFolder
from adapter_service.node.listening import Broker, Listener
from adapter_service.node.service import Service
from adapter_service.node.taking import Outcome, Taker

_TOPIC = "jarvis/nodes/{node_id}/adapters"
_TAKEN = frozenset({Outcome.ACTIVATED, Outcome.DUPLICATE, Outcome.OLDER})


def main(arguments: Sequence[str] | None = None) -> int:
    """0 once the one notice of `--once` was taken, 1 where it was not."""
    asked = _parser().parse_args(arguments)
    if (fault := nodes.fault_of(asked.node_id)) is not None:
        _parser().error(fault)
    service = None
    if asked.service is not None:
        service = Service(asked.service, _variable(asked.key_env))
    taker = Taker(NodeFolder(asked.folder), tell, service=service, max_bytes=asked.max_mb << 20)
    broker = Broker(
        asked.broker,
        asked.topic.replace("{node_id}", asked.node_id),
        username=asked.username,
        password=_variable(asked.password_env),
        ca_file=asked.ca_file,
    )
    try:
        outcome = Listener(asked.node_id, broker, taker, tell).listen(once=asked.once)
    except KeyboardInterrupt:
        return 0
    except (AdapterServiceError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - what is wrong with what was given
        return 2
    return 0 if outcome in _TAKEN else 1


def tell(event: str, **what: object) -> None:
    """One line: `{"at": …, "event": "activated", …}`."""
    line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **what}
    print(json.dumps(line, ensure_ascii=False), flush=True)  # noqa: T201 - this is the program's answer


def _variable(name: str | None) -> str | None:
    """A secret, which stands in the environment alone."""
    if name is None:
        return None
    if not (value := os.environ.get(name)):
        _parser().error(f"the environment variable {name} is not set; export {name}=… and start again")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m adapter_service.node", description=__doc__)
    add = parser.add_argument
    add("--node-id", required=True, help="as which node; one process a node")
    add("--broker", required=True, help="mqtt://host:1883, or mqtts://host:8883 with TLS")
    add("--folder", required=True, type=Path, help="where its adapters go")
    add("--service", help="the service's address, to acknowledge what came and to ask for new URLs")
    add("--key-env", metavar="VARIABLE", help="environment variable with the node's API key")
    add("--username", help="who it is to the broker")
    add("--password-env", metavar="VARIABLE", help="environment variable with the password for that")
    add("--ca-file", type=Path, help="certificates to know the broker by, where the system does not")
    add("--topic", default=_TOPIC, help="where notices come, as mqtt.topic says (default: %(default)s)")
    add("--max-mb", type=int, default=512, help="larger artifacts are refused (default: %(default)s)")
    add("--once", action="store_true", help="end when one notice is done with")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
