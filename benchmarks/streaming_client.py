"""One reading of a remote corpus in a process of its own, which says what it took.

`python -m benchmarks.streaming_client READER URL SAMPLES [CURSOR]` prints JSON; readers are http
and s3 (ours) and datasets (the peer). Memory is counted from before whatever the reader imports, and
again from after it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from adapter_service.connectors.registry import kind_named, open_source
from adapter_service.settings import SourceEntry

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def http_options(url: str) -> dict[str, Any]:
    return {"url": f"{url}/corpus.jsonl", "allow_private": True}


def s3_options(url: str) -> dict[str, Any]:
    keys = {"access_key_id": "key", "secret_access_key": "secret"}
    return {"bucket": "corpus", "prefix": "", "endpoint_url": url, **keys}


def ours(kind: str, options: dict[str, Any], after: Any) -> Iterator[int]:
    """Gives the offset behind each sample."""
    entry = SourceEntry(name="corpus", kind=kind, options=options)
    for cursor, _ in open_source(entry).stream(after):
        yield cursor["at"]["byte"]


def peer(url: str) -> Iterator[int]:
    """Says nothing of offsets: its samples are the same."""
    import datasets

    for record in datasets.load_dataset("json", data_files=f"{url}/corpus.jsonl", streaming=True, split="train"):
        assert record["text"]
        yield 0


def kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> None:
    reader, url, samples = sys.argv[1], sys.argv[2], int(sys.argv[3])
    after = json.loads(sys.argv[4]) if len(sys.argv) > 4 else None
    before = kilobytes("VmRSS")
    if reader == "datasets":
        import datasets  # noqa: F401 - to count what it takes

        stream = peer(url)
    else:
        kind_named(reader)
        stream = ours(reader, http_options(url) if reader == "http" else s3_options(url), after)
    imported = kilobytes("VmRSS")
    CLEAR.write_text("5")  # the peak counts from here
    began = time.perf_counter()
    count = end = 0
    for offset in islice(stream, samples):
        count, end = count + 1, offset
    seconds = time.perf_counter() - began
    stream.close()  # type: ignore[attr-defined] # a generator
    peak = kilobytes("VmHWM")
    print(json.dumps({
        "samples": count,
        "end": end,
        "grown_mb": (max(peak, imported) - before) / 1024,
        "grown_after_imports_mb": (peak - imported) / 1024,
        "seconds": seconds,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
