"""A tokenizer in place of the base's own: what SentencePiece says, and nothing that the base has no row for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_service.base_models.own_tokenizer import load_tokenizer, locate_tokenizer, tokenizer_digest
from adapter_service.errors import BaseModelError
from adapter_service.model_utils import load_base, outline_base
from adapter_service.rendering import Renderer
from adapter_service.samples import Message, Sample
from tests.conftest import ROOT, byte_tokenizer

if TYPE_CHECKING:
    from adapter_service.model_utils import BaseModel

SENTENCES = [
    "The kitchen light is on", "Turn the kitchen light off", "रसोई की बत्ती जलाओ", "रसोई की बत्ती बुझाओ",
    "சமையலறை விளக்கை அணை", "Where is the market?", "बाज़ार कहाँ है?", "Good morning, how are you today?",
] * 20  # fmt: skip
Train = Callable[..., Path]


@pytest.fixture(scope="session")
def train_model(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train a small SentencePiece model; the same options give the same file."""
    made: dict[str, Path] = {}

    def train(**options: Any) -> Path:
        name = json.dumps(options, sort_keys=True)
        if name not in made:
            prefix = tmp_path_factory.mktemp("spm") / "small"
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(SENTENCES),
                model_prefix=str(prefix),
                minloglevel=3,
                **{
                    "vocab_size": 256 + 64,
                    "byte_fallback": True,
                    "character_coverage": 0.98,
                    "hard_vocab_limit": False,
                    **options,
                },
            )
            made[name] = prefix.with_suffix(".model")
        return made[name]

    return train


@pytest.fixture(scope="session", params=["unigram", "bpe"])
def model_file(request: pytest.FixtureRequest, train_model: Train) -> Path:
    return train_model(model_type=request.param)


@pytest.fixture(scope="session")
def wide_base_folder(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base with more rows in its embedding than the small models have tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig.from_pretrained(tiny_base_folder)
    config.vocab_size = 1000
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide-base")
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def load(folder: Path, tokenizer: Path | None = None) -> BaseModel:
    return load_base(
        str(folder), bases_dir=folder, device="cpu", dtype="float32", tokenizer=str(tokenizer) if tokenizer else None
    )


def reference(path: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


PECULIAR = ["", " ", "  a  b ", "</s>", "<s>x", "<unk>", "<0x41>", "▁", "\n\t"]


@settings(deadline=None)
@given(text=st.text(max_size=40) | st.sampled_from(PECULIAR))
def test_tokens_are_those_of_the_library_with_the_begin_token_before_them(model_file: Path, text: str) -> None:
    tokenizer, pieces = load_tokenizer(model_file), reference(model_file)
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces.encode(text)
    assert tokenizer(text)["input_ids"] == [pieces.bos_id(), *pieces.encode(text)]


@settings(deadline=None)
@given(text=st.text(max_size=40))
def test_what_is_decoded_is_what_the_library_decodes(model_file: Path, text: str) -> None:
    tokenizer, pieces = load_tokenizer(model_file), reference(model_file)
    ids = pieces.encode(text)
    assert tokenizer.decode(ids, skip_special_tokens=True) == pieces.decode(ids)
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == pieces.decode(ids)


def test_letters_that_no_piece_has_come_back_byte_by_byte(model_file: Path) -> None:
    tokenizer = load_tokenizer(model_file)
    ids = tokenizer("龍 🐉", add_special_tokens=False)["input_ids"]
    assert "<0xE9>" in tokenizer.convert_ids_to_tokens(ids)
    assert tokenizer.decode(ids) == "龍 🐉"


def test_text_that_looks_like_the_end_token_is_text(model_file: Path) -> None:
    tokenizer = load_tokenizer(model_file)
    assert tokenizer.eos_token_id not in tokenizer("stop</s>here")["input_ids"]
    assert tokenizer.decode(tokenizer("stop</s>here")["input_ids"], skip_special_tokens=True) == "stop</s>here"


def test_special_tokens_are_named_or_left_out(model_file: Path) -> None:
    tokenizer = load_tokenizer(model_file)
    ids = [*tokenizer("light")["input_ids"], tokenizer.eos_token_id]
    assert tokenizer.decode(ids) == "<s>light</s>"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "light"


def test_other_control_pieces_are_special_too(train_model: Train) -> None:
    tokenizer = load_tokenizer(train_model(control_symbols="<sep>"))
    number = tokenizer.convert_tokens_to_ids("<sep>")
    assert number in tokenizer.all_special_ids
    assert tokenizer.decode([number], skip_special_tokens=True) == ""
    assert number not in tokenizer("a<sep>b")["input_ids"]


def test_a_model_without_a_begin_token_begins_with_the_text(train_model: Train) -> None:
    path = train_model(bos_id=-1)
    tokenizer = load_tokenizer(path)
    assert tokenizer("light")["input_ids"] == reference(path).encode("light")


def test_a_model_without_an_end_token_is_refused(train_model: Train) -> None:
    with pytest.raises(BaseModelError, match=r"no end token \(its eos_id is -1\).*with an eos_id"):
        load_tokenizer(train_model(eos_id=-1))


def test_rows_beyond_the_vocabulary_give_no_text(model_file: Path) -> None:
    tokenizer = load_tokenizer(model_file)
    ids = tokenizer("light", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode([*ids, len(tokenizer) + 5]) == "light"
    assert tokenizer.convert_ids_to_tokens([len(tokenizer) + 5]) == [""]


def test_a_base_answers_with_it_and_ends_where_it_ends(wide_base_folder: Path, model_file: Path) -> None:
    from adapter_service.engine.requests import Sampling
    from tests.answers_by_batch import decode

    base = load(wide_base_folder, model_file)
    assert base.eos_ids() == {reference(model_file).eos_id()}
    renderer = Renderer(base.tokenizer)
    rendered = renderer.render(Sample((Message("user", "Turn it on"), Message("assistant", "रसोई 龍"))), 512)
    assert base.tokenizer.decode(rendered.ids[rendered.completion_start :], skip_special_tokens=True) == "रसोई 龍"
    assert rendered.ids[-1] == base.tokenizer.eos_token_id
    answer = decode(base, renderer.prompt_ids([Message("user", "light")]), Sampling(max_new_tokens=4))
    assert isinstance(base.tokenizer.decode(answer, skip_special_tokens=True), str)


def test_another_tokenizer_makes_another_base(wide_base_folder: Path, train_model: Train) -> None:
    unigram, bpe = train_model(model_type="unigram"), train_model(model_type="bpe")
    identities = [load(wide_base_folder, path).identity for path in (None, unigram, bpe)]
    assert len(set(identities)) == 3
    for path, identity in zip((None, unigram, bpe), identities, strict=True):
        name = str(path) if path else None
        assert outline_base(str(wide_base_folder), bases_dir=unigram, tokenizer=name).identity == identity


def test_one_that_does_not_fit_the_embedding_is_refused_with_both_sizes(
    tiny_base_folder: Path, model_file: Path
) -> None:
    size = reference(model_file).get_piece_size()
    with pytest.raises(BaseModelError, match=rf"'small.model' has {size} tokens, and the embedding of .* has 258 rows"):
        load(tiny_base_folder, model_file)


def test_a_folder_with_tokenizer_json_will_do(wide_base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    byte_tokenizer().save_pretrained(folder)
    base = load(wide_base_folder, folder)
    assert base.tokenizer.decode(base.tokenizer("नमस्ते")["input_ids"], skip_special_tokens=True) == "नमस्ते"
    before = tokenizer_digest(folder)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert tokenizer_digest(folder) != before


def test_a_folder_that_asks_for_code_is_refused(wide_base_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    byte_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    with pytest.raises(BaseModelError, match=r"auto_map.*never run here"):
        load(wide_base_folder, folder)


@pytest.mark.parametrize("name", ["missing.model", "here.txt", "folder"])
def test_what_is_no_tokenizer_is_refused_with_what_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "here.txt").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(BaseModelError, match=r"give a SentencePiece \.model file or a folder with tokenizer\.json"):
        locate_tokenizer(str(tmp_path / name))


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.model").write_bytes(b"this is none")
    with pytest.raises(BaseModelError, match=r"'broken\.model' is no SentencePiece model"):
        load_tokenizer(tmp_path / "broken.model")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", ""),
        ("tokenizer.json", "[1]"),
        ("tokenizer.json", '{"added_tokens": [], "model": {"type": "Unheard"}}'),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "[" * 100_000),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
    ],
)
def test_a_broken_folder_is_refused(tmp_path: Path, name: str, content: str) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(BaseModelError, match=r"cannot be (loaded|read)"):
        load_tokenizer(tmp_path)


def test_a_base_without_a_tokenizer_of_its_own_can_be_used_with_one(
    wide_base_folder: Path, tmp_path: Path, model_file: Path
) -> None:
    folder = Path(shutil.copytree(wide_base_folder, tmp_path / "base"))
    for path in folder.glob("*token*"):
        path.unlink()
    assert load(folder, model_file).tokenizer("light")["input_ids"]


def test_the_configuration_names_it(tmp_path: Path) -> None:
    from adapter_service.settings import load_settings

    settings = load_settings(ROOT / "adapter_config.yaml", None, {"ADAPTER_MODEL__TOKENIZER": "my.model"})
    assert settings.model.tokenizer == "my.model"
