"""Tokenizers: byte-level pairs, scored pieces, those of Hugging Face, and which one a model has."""

from __future__ import annotations

import builtins
import json
from types import SimpleNamespace

import pytest
from foreign import import_foreign
from shared import shared_dir

from limelight.models.weights.gguf_tokenizer import gguf_tokenizer
from limelight.models.weights.tokenizer_files import (
    PieceTokenizer,
    read_tokenizer,
    tokenizer_beside,
)
from limelight.probe.errors import ModelError, OptionError, WeightsError
from limelight.probe.sites.tokenizer import BpeTokenizer, HuggingFaceTokenizer, tokenizer_of

PAIRS = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|end|>", *"abt", "1", "2", "12", "Ġ", "ab", "Ġab", "Ã", "©", "<x>"],
    "tokenizer.ggml.token_type": [3] + [1] * 11 + [4],
    "tokenizer.ggml.merges": ["a b", "Ġ ab", "1 2"],
}
BYTES = [f"<0x{n:02X}>" for n in range(256)]
PIECES = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *BYTES, "▁", "a", "b", "▁a", "ab", "▁ab"],
    "tokenizer.ggml.scores": [0.0] * 259 + [-9.0, -9.0, -9.0, -2.0, -1.0, -3.0],
    "tokenizer.ggml.bos_token_id": 1,
}


@pytest.fixture
def pairs() -> BpeTokenizer:
    pytest.importorskip("tokenizers")
    return gguf_tokenizer(PAIRS, "x.gguf")


@pytest.fixture
def pieces() -> PieceTokenizer:
    return gguf_tokenizer(PIECES, "x.gguf")


def test_pairs_are_joined_within_words_and_digits_stay_apart(pairs):
    assert pairs.encode("ab ab") == [8, 9]
    assert pairs.encode("12") == [4, 5]
    assert pairs.encode("é") == [10, 11]
    assert pairs.encode("") == []
    assert pairs.encode("a<|end|>b<x>") == [1, 0, 2, 12]
    assert pairs.words([8, 9, 0, 4, 12]) == ["ab", " ab", "<|end|>", "1", "<x>"]
    assert pairs.words([10]) == ["\ufffd"]  # half a character
    assert pairs.size == 13


def test_digits_are_joined_where_the_file_says_so():
    pytest.importorskip("tokenizers")
    plain = gguf_tokenizer({**PAIRS, "tokenizer.ggml.pre": "gpt-2"}, "x.gguf")
    assert plain.encode("12") == [6]


def test_the_best_scored_pieces_are_joined_first(pieces):
    assert pieces.encode("ab") == [264]  # "ab" before " a", then " ab"
    assert pieces.encode("aab") == [262, 263]
    assert pieces.encode("é\n") == [259, 3 + 0xC3, 3 + 0xA9, 3 + 10]
    assert pieces.encode("") == []
    assert pieces.words([264, 13, 1, 3 + 0xC3]) == [" ab", "\n", "<s>", "\ufffd"]
    assert (pieces.size, pieces.bos, pieces.eos) == (265, 1, None)
    bare = gguf_tokenizer({**PIECES, "tokenizer.ggml.add_space_prefix": False}, "x.gguf")
    assert bare.encode("ab") == [263]


def test_equal_scores_join_from_the_left():
    told = {"tokens": ["a", "aa"], "scores": [0.0, 1.0], "byte_tokens_start": 9, "space": False}
    assert PieceTokenizer(told).encode("aaa") == [1, 0]


def test_files_come_back_the_same(tmp_path, pairs, pieces):
    for n, tokenizer in enumerate((pairs, pieces)):
        folder = tmp_path / str(n)
        folder.mkdir()
        path = folder / ("tokenizer.json", "tokens.json")[n]
        path.write_text(tokenizer.text, encoding="utf-8")
        again = tokenizer_beside(folder / "model.safetensors")
        assert type(again) is type(tokenizer)
        assert again.encode("ab ab") == tokenizer.encode("ab ab")
        (folder / "model.tokenizer.json").write_text(pieces.text, encoding="utf-8")
        assert isinstance(tokenizer_beside(folder / "model.safetensors"), PieceTokenizer)
    assert tokenizer_beside(tmp_path / "model.safetensors") is None


def test_stories260k_round_trip():
    own = read_tokenizer(shared_dir() / "data" / "stories260k" / "tokens.json")
    text = "Tom’s dog said: “Ölüm?”\nOne 1, two 22."
    raw = b"".join(
        bytes([n - own.bytes]) if 0 <= n - own.bytes < 256 else own.words([n])[0].encode()
        for n in own.encode(text)
    )
    assert raw.decode() == f" {text}"


def test_hugging_face_tokenizers_are_wrapped(pairs):
    transformers = import_foreign("transformers")
    foreign = transformers.PreTrainedTokenizerFast(tokenizer_object=pairs.rules)
    for own in (
        tokenizer_of(SimpleNamespace(tokenizer=foreign)),
        tokenizer_of(object(), foreign),
        tokenizer_of(object(), pairs.rules),
        HuggingFaceTokenizer(foreign),
    ):
        assert own.encode("ab 12") == [8, 7, 4, 5]
        assert own.words([8, 9, 0]) == ["ab", " ab", "<|end|>"]
        assert own.size == 13


def test_words_keep_the_space_that_decoders_take_off():
    tokenizers = pytest.importorskip("tokenizers")
    rules = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={"▁": 0, "a": 1, "▁a": 2}, merges=[("▁", "a")])
    )
    rules.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    rules.decoder = tokenizers.decoders.Metaspace()
    own = tokenizer_of(object(), rules)
    assert own.words(own.encode("a a")) == [" a", " a"]


class Letters:
    """Someone's own tokenizer of the protocol."""

    def __init__(self):
        self.size = 256

    def encode(self, text):
        return list(text.encode())

    def words(self, ids):
        return [chr(n) for n in ids]


def test_which_tokenizer_a_model_has(pairs):
    letters = Letters()
    assert tokenizer_of(SimpleNamespace(tokenizer=pairs)) is pairs
    assert tokenizer_of(SimpleNamespace(tokenizer=pairs), letters) is letters
    with pytest.raises(ModelError, match=r"SimpleNamespace carries no tokenizer: load it with"):
        tokenizer_of(SimpleNamespace(tokenizer=None))
    with pytest.raises(OptionError, match="a str is no tokenizer: give one with encode, words"):
        tokenizer_of(object(), "gpt2")


def test_unknown_tokens_and_kinds_are_told(pairs, pieces):
    with pytest.raises(OptionError, match="token 13 does not exist: ids go from 0 to 12"):
        pairs.words([3, 13])
    with pytest.raises(OptionError, match="token -1 does not exist"):
        pieces.words([-1])
    with pytest.warns(UserWarning, match="kind 'gpt2' 'qwen2', which is not known"):
        assert gguf_tokenizer({**PAIRS, "tokenizer.ggml.pre": "qwen2"}, "x.gguf") is None
    assert gguf_tokenizer({}, "x.gguf") is None


def test_bad_files_are_explained(tmp_path):
    path = tmp_path / "tokenizer.json"
    for text in ("no json", "[]", '{"model": "x"}', '{"tokens": [], "scores": []}'):
        path.write_text(text)
        with pytest.raises(WeightsError, match=r"tokenizer\.json' is no tokenizer file"):
            read_tokenizer(path)
    pytest.importorskip("tokenizers")
    path.write_text(json.dumps({"model": {"type": "none"}}))
    with pytest.raises(WeightsError, match=r"tokenizer\.json' is no tokenizer file"):
        read_tokenizer(path).encode("a")


def test_the_package_tokenizers_is_asked_for(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "tokenizers":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(OptionError, match=r"needs the package tokenizers.*limelight\[lm\]"):
        BpeTokenizer("{}").encode("a")
