"""A small Hub on loopback: the routes of huggingface.co that reading a dataset takes, and its ways to refuse."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import Quiet, started

_API = re.compile(r"/api/datasets/([^/]+/[^/]+)(?:/(revision|tree|paths-info|auth-check)(?:/(.*))?)?")
_RESOLVE = re.compile(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
COMMITS = ("a" * 40, "b" * 40, "c" * 40)


@dataclass
class HubDataset:
    """Its files at one commit after the other; `token` is who may read it, `is_gated` what others are told."""

    commits: list[dict[str, bytes]]
    token: str = ""
    is_gated: bool = False

    def files_at(self, revision: str) -> dict[str, bytes] | None:
        if revision in {"main", ""}:
            return self.commits[-1]
        known = dict(zip(COMMITS, self.commits, strict=False))
        return known.get(revision)

    def commit_of(self, revision: str) -> str:
        return COMMITS[len(self.commits) - 1] if revision in {"main", ""} else revision


@dataclass
class HubServer:
    """Datasets by id, what was asked for, how many answers are `503` before one is right, and a file never given."""

    datasets: dict[str, HubDataset] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    busy: int = 0
    refuses: str = ""
    url: str = ""

    def start(self) -> ThreadingHTTPServer:
        httpd, self.url = started(_Handler, self)
        return httpd

    def put(self, name: str, files: dict[str, bytes], **access: Any) -> None:
        """The dataset, or its next commit."""
        if name in self.datasets:
            self.datasets[name].commits.append(files)
        else:
            self.datasets[name] = HubDataset([files], **access)

    def fetched(self) -> list[str]:
        """Paths of the data files that were fetched, each once for every range."""
        gets = [path for method, path, _ in self.requests if method == "GET"]
        return [path.partition("/resolve/")[2] for path in gets if "/resolve/" in path]


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: HubServer

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _route(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        self.state.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        if self.state.busy:
            self.state.busy -= 1
            self._answer(503, {}, b"")
        elif self.state.refuses and path.endswith(f"/{self.state.refuses}"):
            # Not 503, for which huggingface_hub would wait half a minute.
            self._answer(400, {}, b"")
        elif match := _API.fullmatch(path):
            self._api(match[1], match[2] or "revision", match[3] or "main", body)
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match[1], match[2], match[3])
        else:
            self._answer(404, {}, b"unknown route")

    def _dataset(self, name: str, *, is_file: bool) -> HubDataset | None:
        """The dataset, if the caller may see it; else it is answered as the Hub does."""
        dataset = self.state.datasets.get(name)
        may = dataset is not None and self.headers.get("Authorization", "") == f"Bearer {dataset.token}"
        if dataset and (not dataset.token or may or (dataset.is_gated and not is_file)):
            return dataset
        code = "GatedRepo" if dataset and dataset.is_gated else "RepoNotFound"
        self._answer(401, {"X-Error-Code": code, "X-Error-Message": "refused"}, b"")
        return None

    def _api(self, name: str, route: str, rest: str, body: bytes) -> None:
        dataset = self._dataset(name, is_file=route == "auth-check")
        if dataset is None:
            return
        revision, _, below = rest.partition("/")
        files = dataset.files_at(revision)
        if files is None:
            self._answer(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "no such revision"}, b"")
        elif route == "revision":
            self._json(
                {
                    "id": name, "sha": dataset.commit_of(revision), "private": False, "disabled": False,
                    "gated": "auto" if dataset.is_gated else False, "downloads": 0, "likes": 0, "tags": [],
                    "siblings": [{"rfilename": path} for path in files],
                }
            )  # fmt: skip
        elif route == "tree":
            is_recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in {"true", "1"}
            entries = _tree(files, below, is_recursive=is_recursive)
            if entries:
                self._json(entries)
            else:
                self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such folder"}, b"")
        elif route == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode())["paths"]
            self._json([entry for entry in _tree(files, "", is_recursive=True) if entry["path"] in asked])
        else:
            self._json({})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        dataset = self._dataset(name, is_file=True)
        if dataset is None:
            return
        content = (dataset.files_at(revision) or {}).get(path)
        if content is None:
            self._answer(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "no such file"}, b"")
            return
        headers = {"X-Repo-Commit": dataset.commit_of(revision), "ETag": f'"{hash(content)}"', "Accept-Ranges": "bytes"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked is None:
            self._answer(200, headers, content)
        elif int(asked[1]) >= len(content):
            self._answer(416, {**headers, "Content-Range": f"bytes */{len(content)}"}, b"")
        else:
            part = content[int(asked[1]) : int(asked[2]) + 1]
            given = f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(content)}"
            self._answer(206, {**headers, "Content-Range": given}, part)

    def _json(self, value: object) -> None:
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _tree(files: dict[str, bytes], below: str, *, is_recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{below}/" if below else ""
    inside = {path: content for path, content in files.items() if path.startswith(prefix)}
    folders = {
        path[: match.start()] for path in inside for match in re.finditer("/", path) if match.start() > len(prefix)
    }
    entries = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
    entries += [
        {"type": "file", "path": path, "size": len(content), "oid": "0" * 40} for path, content in inside.items()
    ]
    return [entry for entry in entries if is_recursive or "/" not in str(entry["path"]).removeprefix(prefix)]
