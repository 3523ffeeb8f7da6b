"""A home folder that is not known is said wherever a path is written, with what has the path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapter_service.base_models.locating import locate
from adapter_service.base_models.own_tokenizer import locate_tokenizer
from adapter_service.connectors.raw import open_raw
from adapter_service.errors import AdapterServiceError, BaseModelError, SettingsError
from adapter_service.home_folders import expanded
from adapter_service.settings import load_settings

SAID = "no home folder is known for '~no-such-user'; write the whole path"
PATH = "~no-such-user/x"


def configured(folder: Path, config: str) -> object:
    path = folder / "adapter_config.yaml"
    path.write_text(config, encoding="utf-8")
    return load_settings(path, environ={})


def opened_source(folder: Path) -> object:
    path = folder / "mcp_connectors.yml"
    path.write_text(f"sources:\n  multilingual_corpus: {{kind: local, path: {PATH}}}\n", encoding="utf-8")
    return load_settings(None, path, {}).sources["multilingual_corpus"].resolved_options({})


STORES = f"publishing:\n  stores:\n    - {{name: nas, kind: folder, path: {PATH}}}\n"
WRITTEN: dict[str, tuple[Callable[[Path], object], type[AdapterServiceError], str]] = {
    "the settings' own file": (lambda _: load_settings(PATH, environ={}), SettingsError, "^adapter_config.yaml: "),
    "by a variable": (
        lambda _: load_settings(environ={"ADAPTER_SOURCES": PATH}),
        SettingsError,
        "^mcp_connectors.yml: ",
    ),
    "the state folder": (
        lambda folder: configured(folder, f"storage:\n  state_dir: {PATH}\n"),
        SettingsError,
        "^adapter_config.yaml line 2: 'storage.state_dir': ",
    ),
    "a store": (
        lambda folder: configured(folder, STORES),
        SettingsError,
        "^adapter_config.yaml line 3: .*: store 'nas': ",
    ),
    "a source": (opened_source, SettingsError, "^mcp_connectors.yml line 2: source 'multilingual_corpus': "),
    "a source of the command line": (
        lambda _: open_raw(f"file:{PATH}", None, allow_local=True),
        SettingsError,
        "^raw source: source 'raw': ",
    ),
    "a base": (lambda _: locate(PATH), BaseModelError, f"^base model '{PATH}': "),
    "a tokenizer": (lambda _: locate_tokenizer(PATH), BaseModelError, f"^model.tokenizer '{PATH}': "),
}


@pytest.mark.parametrize("place", WRITTEN)
def test_a_home_folder_that_is_not_known_is_said_with_what_has_the_path(tmp_path: Path, place: str) -> None:
    use, error, where = WRITTEN[place]
    with pytest.raises(error, match=where + SAID):
        use(tmp_path)


def test_a_home_folder_that_is_known_takes_the_place_of_its_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/texts/*.jsonl", where="here") == Path("/home/me/texts/*.jsonl")
    assert expanded("texts/~a", where="here") == Path("texts/~a")
