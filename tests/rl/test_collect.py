"""The command line of collecting, as people call it: a process of its own, without the service's package."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from rl.collect import main
from rl.config import ModelSettings, Prompt
from rl.service import answered
from rl.shards import read_manifest, sealed_shards
from rl.upload_helper import main as upload
from tests.conftest import ROOT
from tests.loopback import Quiet, started
from tests.rl.conftest import There, shard_in
from tests.rl.put_server import PutServer

ANSWER = {
    "text": "सुप्रभात, आप कैसे हैं?", "lang": "hi", "lang_tag": "hi-Deva-IN", "lang_ok": True, "adapter": "multilingual",
    "version": 3, "finish_reason": "stop", "trace_id": "t",
    "tokens": {
        "prompt_ids": [1, 2], "completion_ids": [3, 4], "logprobs": [-0.5, -1.0], "sampling_logprobs": [0.0, -0.1],
        "sampling": {"do_sample": True, "temperature": 0.7, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
                     "max_new_tokens": 64, "min_new_tokens": 0, "seed": None},
        "base_model": "b", "base_sha": "s", "tokenizer_sha": "t", "template_sha": None, "adapter_key": "k",
    },
}  # fmt: skip


@dataclass
class Service:
    """Answers /generate-lite with `answers` in turn, (status, body), and then with ANSWER."""

    answers: list[tuple[int, Any]] = field(default_factory=list)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""


class _Handler(Quiet, BaseHTTPRequestHandler):
    state: Service

    def do_POST(self) -> None:
        self.state.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        status, body = self.state.answers.pop(0) if self.state.answers else (200, ANSWER)
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        if status in {429, 503}:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()
    httpd, state.url = started(_Handler, state)
    yield state
    httpd.shutdown()
    httpd.server_close()


def rows_in(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for shard in sealed_shards(folder) for line in shard.read_text("utf-8").splitlines()]


def test_the_scripts_run_where_the_service_is_not_installed(tmp_path: Path) -> None:
    """A copy of the folder, without site-packages but for those of the few libraries."""
    shutil.copytree(ROOT / "rl", tmp_path / "rl")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Say x", "output": "x y z"}\n')
    (tmp_path / "nas").mkdir()
    blocked = (
        "import runpy, sys; sys.modules['adapter_service'] = None; sys.argv = sys.argv[1:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    for arguments in (
        ["rl/collect.py", "--record", "in.jsonl", "--out", "runs/e.jsonl"],
        ["rl/upload_helper.py", "--folder", "runs", "--upload-path", f"file://{tmp_path}/nas/"],
    ):
        command = [sys.executable, "-P", "-c", blocked, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert len(rows_in(tmp_path / "nas")) == 1


def test_prompts_are_asked_in_turn_and_answers_recorded_with_their_tokens(service: Service, tmp_path: Path) -> None:
    arguments = ["--url", service.url, "--episodes", "7", "--out", f"{tmp_path}/e.jsonl", "--env_name", "env-1",
                 "--adapter_path", "none", "--max_new_tokens", "9", "--temperature", "0.5"]  # fmt: skip
    assert main(arguments) == 0
    rows = rows_in(tmp_path)
    assert len(rows) == len(service.bodies) == 7
    assert service.bodies[0] == {
        "prompt": rows[0]["prompt"], "lang": "hi", "adapter": "none", "max_new_tokens": 9, "temperature": 0.5,
        "repetition_penalty": 1.0, "foreign_script_penalty": 0.0, "return_tokens": True,
    }  # fmt: skip
    assert [row["prompt"] for row in rows[:2]] == [row["prompt"] for row in rows[5:]]
    assert (rows[0]["completion_logprobs"], rows[0]["sampling_logprobs"]) == ([-0.5, -1.0], [0.0, -0.1])
    assert (rows[0]["adapter_id"], rows[0]["adapter_version"], rows[0]["adapter_key"]) == ("multilingual", 3, "k")
    assert rows[0]["sampling"]["temperature"] == 0.7  # what the service says it did, not what was asked
    assert (rows[0]["env_name"], rows[0]["meta"]["language"]) == ("env-1", "hi-Deva-IN")
    assert rows[0]["reward_components"]["language"] == 1.0


def test_a_service_that_is_busy_is_asked_again(service: Service, tmp_path: Path) -> None:
    service.answers = [(429, {"detail": "busy"}), (503, {"detail": "loading"})]
    assert main(["--url", service.url, "--episodes", "1", "--out", f"{tmp_path}/e.jsonl"]) == 0
    assert len(service.bodies) == 3


def test_what_came_before_a_fault_is_kept(service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.answers = [(200, ANSWER), (404, {"detail": "unknown adapter 'x'"})]
    assert main(["--url", service.url, "--episodes", "5", "--out", f"{tmp_path}/e.jsonl"]) == 1
    said = capsys.readouterr()
    assert "refuses (404): unknown adapter 'x'" in said.err
    assert f"to send it: python rl/upload_helper.py --folder {tmp_path} --run-id " in said.out
    assert len(rows_in(tmp_path)) == 1


def test_the_latency_is_that_of_the_answer_without_the_waiting(service: Service) -> None:
    service.answers = [(429, {"detail": "busy"})] * 3
    now = [0.0]
    made = answered(
        [Prompt(prompt="a")], 1, ModelSettings(service_url=service.url), run_id="r", env_name="e",
        wait=lambda _: now.__setitem__(0, now[0] + 30), clock=lambda: now[0],
    )  # fmt: skip
    assert [episode.latency_seconds for episode in made] == [0.0]
    assert now == [90.0]


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>"), (200, b"[]"), (500, b"oops"), (200, {"status": "ok"}), (200, {"text": 5}),
     (200, {**ANSWER, "tokens": [1]}), (200, {**ANSWER, "tokens": {**ANSWER["tokens"], "sampling": 5}}),  # type: ignore[dict-item]
     (200, {**ANSWER, "tokens": {**ANSWER["tokens"], "logprobs": 5}})],  # type: ignore[dict-item]
)  # fmt: skip
def test_an_answer_of_something_else_is_a_fault(service: Service, tmp_path: Path, answer: Any) -> None:
    service.answers = [answer]
    assert main(["--url", service.url, "--episodes", "1", "--out", f"{tmp_path}/e.jsonl"]) == 1


def test_a_service_that_is_away_says_how_to_start_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "http://127.0.0.1:9", "--episodes", "1", "--out", f"{tmp_path}/e.jsonl"]) == 1
    assert "start it with `make serve`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.txt", "\ufeffSay one\r\n\r\nSay\u2028two\r\n"),
        ("p.json", '\ufeff[{"prompt": "Say one"}, {"prompt": "Say\\u2028two"}]'),
        ("p.json", '{"prompts": [{"prompt": "Say one", "language": "hi"}, {"prompt": "Say\u2028two"}]}'),
    ],
)
def test_files_of_prompts_may_come_from_anywhere(service: Service, tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    arguments = ["--url", service.url, "--episodes", "2", "--prompts", f"{tmp_path}/{name}", "--out", f"{tmp_path}/e"]
    assert main(arguments) == 0
    assert [body["prompt"] for body in service.bodies] == ["Say one", "Say\u2028two"]
    assert service.bodies[0].get("lang") == ("hi" if "hi" in content else None)


@pytest.mark.parametrize("command", [main, upload])
def test_a_run_id_that_is_empty_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Any) -> None:
    (tmp_path / "in.jsonl").write_text('{"prompt": "a", "output": "b"}')
    where = {
        main: ["--record", f"{tmp_path}/in.jsonl", "--out", f"{tmp_path}/e"],
        upload: ["--folder", f"{tmp_path}", "--upload-path", f"file://{tmp_path}"],
    }
    assert command(["--run-id", "", *where[command]]) == 1
    assert "the run id is ''" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon"])
def test_a_pause_that_is_none_is_refused(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(SystemExit):
        upload(["--folder", f"{tmp_path}", "--upload-path", f"file://{tmp_path}", "--watch", seconds])


def test_episodes_go_through_pipes_in_any_encoding(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "rl" / "collect.py"), "--record", "-", "--out", str(tmp_path / "e")]
    given = '{"prompt": "Say hello", "output": "नमस्ते"}\n'.encode()
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, input=given, env=ascii_only, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    done = subprocess.run(command, input=given + b"\xff\n", capture_output=True, check=False)
    assert done.returncode == 1
    assert b"name a JSONL file in UTF-8" in done.stderr
    assert [row["output"] for row in rows_in(tmp_path / "e")] == ["नमस्ते"]


def test_the_ten_prompts_of_the_file_are_asked_with_their_languages(service: Service, tmp_path: Path) -> None:
    prompts = ROOT / "test_prompts" / "prompts_10.json"
    assert main(["--url", service.url, "--prompts", str(prompts), "--out", f"{tmp_path}/e.jsonl"]) == 0
    assert [body["lang"] for body in service.bodies] == ["hi", "bn", "ta", "te", "gu", "mr", "ur", "pa", "kn", "ml"]


@pytest.mark.parametrize("flags", [["--s3-bucket", "{bucket}", "--s3-key", "rl/{{run_id}}/episodes.jsonl"],
                                   ["--s3_bucket", "{bucket}", "--s3_key", "rl/{{run_id}}/episodes.jsonl"],
                                   ["--upload_path", "s3://{bucket}/rl/{{run_id}}/episodes.jsonl"]])  # fmt: skip
def test_a_run_goes_to_a_bucket_under_its_key(
    in_s3: There, bucket: str, s3_url: str, service: Service, tmp_path: Path, flags: list[str]
) -> None:
    arguments = ["--url", service.url, "--episodes", "2", "--run_id", "r7", "--out", f"{tmp_path}/e.jsonl",
                 "--s3-endpoint-url", s3_url, *(flag.format(bucket=bucket) for flag in flags)]  # fmt: skip
    assert main(arguments) == 0
    files = in_s3.files()
    assert sorted(files) == ["rl/r7/episodes.jsonl", "rl/r7/episodes.manifest.json"]
    assert len(files["rl/r7/episodes.jsonl"].splitlines()) == 2


def test_a_signed_address_may_come_from_the_environment(
    put_server: PutServer, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RL_UPLOAD_PATH", f"{put_server.url}/bucket/key?X-Signature=geheim")
    assert main(["--url", service.url, "--episodes", "1", "--out", f"{tmp_path}/e.jsonl", "--upload"]) == 0
    assert list(put_server.files) == ["/bucket/key"]


def test_a_bucket_that_is_not_there_says_so_and_the_run_can_be_sent_later(
    s3_url: str, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--url", service.url, "--episodes", "1", "--out", f"{tmp_path}/e.jsonl", "--s3-bucket", "missing",
                 "--s3-endpoint-url", s3_url]  # fmt: skip
    assert main(arguments) == 1
    said = capsys.readouterr().out
    assert "there is no such bucket; make it, or name another" in said
    assert "to go on: python rl/upload_helper.py" in said
    (tmp_path / "nas").mkdir()
    assert upload(["--folder", str(tmp_path), "--upload-path", f"file://{tmp_path}/nas/"]) == 0
    assert len(rows_in(tmp_path / "nas")) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--aws_secret_key", "geheim"], "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (["--aws-access-key=geheim"], "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (["--uplod-path", "x"], "did you mean --upload-path?"),
        (["--episodes", "0"], "'episodes.max_episodes' is 0"),
        (["--temperature", "3"], "'model.temperature' is 3.0"),
        (["--s3-key", "k"], "give --s3-bucket too"),
        (["--upload"], "nothing says where to send"),
        (["--upload-path", "s3://b/", "--s3-bucket", "b"], "give one of them"),
        (["--upload-path", "ftp://geheim@host/"], "RL_UPLOAD_TOKEN"),
        (["--upload-path", "gs://b/"], "wanted is s3://bucket/prefix/"),
        (["--run-id", "../x"], "the run id is '../x'"),
        (["--config", "/nowhere.yaml"], "cannot be read"),
        (["--prompts", "/nowhere.json"], "cannot be read"),
        (["--prompt", " "], "a prompt is blank"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    try:
        status = main(["--out", f"{tmp_path}/e.jsonl", *arguments])
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status in {1, 2}
    said = capsys.readouterr().err
    assert message in said
    assert "geheim" not in said
    assert list(tmp_path.iterdir()) == []


def record(tmp_path: Path, text: str) -> int:
    (tmp_path / "in.jsonl").write_text(text, encoding="utf-8")
    return main(["--record", f"{tmp_path}/in.jsonl", "--out", f"{tmp_path}/runs/e.jsonl"])


def test_given_episodes_are_recorded_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = '{"prompt": "a", "output": "", "reward": -1, "meta": {"n": 1}}\n\n{"prompt": "b", "output": " "}\n'
    assert record(tmp_path, lines) == 0
    rows = rows_in(tmp_path / "runs")
    assert [(row["output"], row["reward"]) for row in rows] == [("", -1.0), (" ", 0.0)]
    monkeypatch.setattr("sys.stdin", io.StringIO('{"prompt": "a", "output": "from stdin"}'))
    assert main(["--record", "-", "--out", f"{tmp_path}/more"]) == 0
    assert rows_in(tmp_path / "more")[0]["output"] == "from stdin"


def test_given_tokens_are_recorded_and_what_stands_beside_them_counts(tmp_path: Path) -> None:
    tokens = {
        "prompt_ids": [1, 2],
        "completion_ids": [3],
        "logprobs": [-1],
        "sampling": {"temperature": 1.0, "top_k": 40},
        "base_sha": "b",
    }
    assert record(tmp_path, json.dumps({"prompt": "a", "output": "b", "temperature": 0.5, "tokens": tokens})) == 0
    (row,) = rows_in(tmp_path / "runs")
    assert (row["prompt_token_ids"], row["completion_token_ids"], row["completion_logprobs"]) == ([1, 2], [3], [-1.0])
    assert (row["sampling_logprobs"], row["base_sha"]) == (None, "b")
    assert (row["sampling"]["temperature"], row["sampling"]["top_k"]) == (0.5, 40)


def test_of_the_given_no_more_are_read_than_wanted(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('\ufeff{"prompt": "a", "output": "b"}\r\nno JSON', encoding="utf-8")
    assert main(["--record", f"{tmp_path}/in.jsonl", "--episodes", "1", "--out", f"{tmp_path}/e"]) == 0
    assert len(rows_in(tmp_path / "e")) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"}', "in.jsonl line 2: 'output' is missing"),
        ('{"prompt": "a", "outptu": "b"}', "did you mean 'output'?"),
        ('{"prompt": 5, "output": "b"}', "'prompt' is 5; a text is wanted"),
        ('{"prompt": "a", "output": "b", "meta": 5}', "'meta' is 5; an object is wanted"),
        ('{"prompt": "a", "output": "b", "tokens": [1]}', "'tokens' is [1]; an object as /generate-lite answers it"),
        ('{"prompt": "a", "output": "b", "tokens": {"ids": [1]}}', "unknown key 'tokens.ids'"),
        ('{"prompt": "a", "output": "b", "tokens": {"prompt_ids": [1, "2"]}}', "in its list a whole number is wanted"),
        ('{"prompt": "a", "output": "b", "tokens": {"logprobs": [1], "completion_ids": []}}', "differ in length"),
        ('{"prompt": "a", "output": "b", "tokens": {"sampling": {"topk": 1}}}', "did you mean 'top_k'?"),
        ('{"prompt": "a", "output": "b", "reward": NaN}', "not a finite number"),
        ('{"prompt": "a", "output": "b", "reward": 1' + "0" * 400 + "}", "a number is wanted, of at most"),
        ('{"prompt": "a", "output": "b", "adapter_version": 9223372036854775808}', "a whole number from 0 to"),
        ('{"prompt": "a", "output": "b", "meta": ' + "[" * 100_000 + "}", "within each other"),
        ("[1]", "holds a list"),
        ("{", "not JSON"),
    ],
)
def test_a_line_that_is_no_episode_ends_the_run_with_its_number(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    assert record(tmp_path, '{"prompt": "a", "output": "kept"}\n' + line + "\n") == 1
    assert message in capsys.readouterr().err
    assert [row["output"] for row in rows_in(tmp_path / "runs")] == ["kept"]


def test_one_signed_address_takes_one_shard_and_stays_a_secret(
    put_server: PutServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_server.heads = False
    first, second = shard_in(tmp_path / "runs", run_id="a"), shard_in(tmp_path / "runs", run_id="b")
    arguments = ["--folder", str(tmp_path / "runs"), "--upload-path", f"{put_server.url}/bucket/key?X-Signature=geheim"]
    assert upload(arguments) == 1
    assert put_server.files == {"/bucket/key": first.read_bytes()}
    said = capsys.readouterr()
    assert f"not sent       {second.name}: " in said.out
    assert "one signed address and took one shard already" in said.out
    kept = "".join(path.read_text("utf-8") for path in (tmp_path / "runs").iterdir())
    assert "geheim" not in said.out + said.err + kept


def test_a_token_from_the_environment_goes_with_the_upload(
    put_server: PutServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_server.token = "geheim"  # noqa: S105 - the test's own
    shard = shard_in(tmp_path / "runs")
    arguments = ["--folder", str(shard.parent), "--upload-path", f"{put_server.url}/ep/"]
    assert upload(arguments) == 1
    monkeypatch.setenv("RL_UPLOAD_TOKEN", "geheim")
    assert upload(arguments) == 0
    assert put_server.headers[-2]["repr-digest"].startswith("sha-256=:")
    assert read_manifest(shard).bytes == len(put_server.files[f"/ep/{shard.name}"])


def test_a_netrc_does_not_take_the_place_of_the_token(
    put_server: PutServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_server.token = "geheim"  # noqa: S105 - the test's own
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", f"{tmp_path}/netrc")
    monkeypatch.setenv("RL_UPLOAD_TOKEN", "geheim")
    shard = shard_in(tmp_path / "runs")
    assert upload(["--folder", str(shard.parent), "--upload-path", f"{put_server.url}/ep/"]) == 0


@pytest.mark.parametrize("digests", [True, False])
def test_a_server_without_digests_is_asked_for_the_content(
    put_server: PutServer, tmp_path: Path, digests: bool
) -> None:
    put_server.digests = digests
    shard = shard_in(tmp_path / "runs")
    other = shard.read_bytes().replace(b"Hello", b"Hallo")
    put_server.files[f"/ep/{shard.name}"] = other
    arguments = ["--folder", str(shard.parent), "--upload-path", f"{put_server.url}/ep/"]
    assert upload(arguments) == 1
    put_server.files[f"/ep/{shard.name}"] = shard.read_bytes()
    assert upload(arguments) == 0
    assert not any(header.get("content-type") == "application/x-ndjson" for header in put_server.headers)


def test_a_server_that_compresses_is_asked_for_the_content_as_it_is(put_server: PutServer, tmp_path: Path) -> None:
    put_server.digests, put_server.compresses = False, True
    shard = shard_in(tmp_path / "runs", filling="x" * 1000)
    put_server.files[f"/ep/{shard.name}"] = shard.read_bytes()
    assert upload(["--folder", str(shard.parent), "--upload-path", f"{put_server.url}/ep/"]) == 0


def test_a_signed_address_whose_content_may_not_be_looked_at_is_not_called_different(
    put_server: PutServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_server.heads = False
    shard = shard_in(tmp_path / "runs")
    put_server.files["/key"] = shard.read_bytes()  # brought by a try whose answer got lost
    assert upload(["--folder", str(shard.parent), "--upload-path", f"{put_server.url}/key?sig=geheim"]) == 1
    assert "something has that name and may not be looked at" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    assert main(["--url", service.url, "--out", f"{tmp_path}/runs/e.jsonl"]) == 1
    assert "name another folder with --out" in capsys.readouterr().err


def test_a_watching_uploader_ends_when_it_is_told_to(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "nas").mkdir()
    command = [sys.executable, str(ROOT / "rl" / "upload_helper.py"), "--folder", str(tmp_path / "runs"),
               "--upload-path", f"file://{tmp_path}/nas/", "--watch", "0.05"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ}) as process:
        shard = shard_in(tmp_path / "runs")
        assert process.stderr
        assert f"{shard.name}: sent, 3 episodes" in process.stderr.readline()
        process.terminate()
    assert process.returncode == 0
