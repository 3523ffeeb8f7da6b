"""What `adapter-service check` finds out."""

from __future__ import annotations

from pathlib import Path

from adapter_service.cli.checking import Report, check
from adapter_service.connectors.registry import open_source
from adapter_service.settings import (
    DataSettings,
    LossSettings,
    ModelSettings,
    PublishingSettings,
    Settings,
    SourceEntry,
    StorageSettings,
    StoreSettings,
    load_settings,
)
from tests.conftest import ROOT


def settings_with(folder: Path, **changes: object) -> Settings:
    """Settings that pass: a source of one record and a base folder, both in `folder`."""
    text = folder / "mine.jsonl"
    text.write_text('{"text": "good morning"}\n', encoding="utf-8")
    (folder / "config.json").write_text("{}", encoding="utf-8")
    sections: dict[str, object] = {
        "model": ModelSettings(base=str(folder)),
        "data": DataSettings(source="mine"),
        "storage": StorageSettings(state_dir=folder / "state"),
        "sources": {"mine": SourceEntry(name="mine", kind="local", options={"path": str(text)})},
    }
    return Settings.model_validate(sections | changes)


def checked(settings: Settings) -> Report:
    return check(settings, measure_precision=False)


def test_good_settings_have_no_problems_and_leave_nothing_behind(tmp_path: Path) -> None:
    report = checked(settings_with(tmp_path))
    assert report.ok
    assert "1 file(s)" in dict(report.rows)["source 'mine'"]
    assert not (tmp_path / "state").exists()


def test_the_recipe_is_told_in_steps(tmp_path: Path) -> None:
    recipe = dict(checked(settings_with(tmp_path)).rows)["recipe"]
    assert "up to 2000 samples from 'mine', 14 per step, at most 143 steps" in recipe
    assert "others" not in recipe


def test_a_loss_over_a_sample_of_the_vocabulary_is_told(tmp_path: Path) -> None:
    sampled = LossSettings(vocabulary="sampled", sampled_tokens=100)
    recipe = dict(checked(settings_with(tmp_path, loss=sampled)).rows)["recipe"]
    assert recipe.endswith("; loss over the samples' tokens and 100 others")


def test_the_shipped_sources_are_as_their_connectors_want_them() -> None:
    settings = load_settings(ROOT / "adapter_config.yaml", ROOT / "mcp_connectors.yml", {})
    assert all(open_source(entry) for entry in settings.sources.values())
    assert "english_indic.jsonl.gz (jsonl)" in open_source(settings.sources["multilingual_corpus"]).check()


def test_the_source_in_use_has_to_be_there(tmp_path: Path) -> None:
    gone = SourceEntry(name="mine", kind="local", options={"path": str(tmp_path / "gone.jsonl")})
    report = checked(settings_with(tmp_path, sources={"mine": gone}))
    assert [problem.split(":")[0] for problem in report.problems] == ["source 'mine'"]


def test_another_source_that_cannot_be_read_is_a_note(tmp_path: Path) -> None:
    settings = settings_with(tmp_path)
    of_another = SourceEntry(name="later", kind="ftp", options={}, line=7)
    report = checked(settings_with(tmp_path, sources={**settings.sources, "later": of_another}))
    assert report.ok
    assert "mcp_connectors.yml line 7: source 'later': unknown connector kind 'ftp'" in report.notes[0]


def test_an_unknown_base_and_an_unknown_language_are_both_told(tmp_path: Path) -> None:
    data = DataSettings(source="mine", languages=["Hindy"])
    report = checked(settings_with(tmp_path, data=data, model=ModelSettings(base="package:gemma")))
    assert [problem.split(":")[0] for problem in report.problems] == ["base model", "languages"]


def test_a_state_folder_below_a_file_is_a_problem(tmp_path: Path) -> None:
    storage = StorageSettings(state_dir=tmp_path / "mine.jsonl" / "state")
    assert "ADAPTER_STATE_DIR" in checked(settings_with(tmp_path, storage=storage)).problems[0]


def test_a_store_is_looked_into_and_one_that_is_away_is_a_note(tmp_path: Path) -> None:
    there, away = tmp_path / "share", tmp_path / "not-mounted"
    there.mkdir()
    stores = [StoreSettings(name=path.name, kind="folder", path=str(path)) for path in (there, away)]
    report = checked(settings_with(tmp_path, publishing=PublishingSettings(stores=stores)))
    assert report.ok
    assert dict(report.rows)["store 'share'"] == f"{there}, 0 versions"
    assert "mount the share" in report.notes[0]


def test_a_tokenizer_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    model = ModelSettings(base=str(tmp_path), tokenizer=str(tmp_path / "gone.model"))
    assert "give a SentencePiece .model file" in checked(settings_with(tmp_path, model=model)).problems[0]
