# SPDX-License-Identifier: Apache-2.0
"""A checkpoint's ``tokenizer.json``: there and back, and one line where it is not as it should be."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from nomul.model.errors import NomulError
from nomul.model.file_tokenizer import FileTokenizer

TEXT = "naïve 日本 🙂 x"


def made(*special: str) -> Tokenizer:
    """One token a byte, as GPT-2 spells bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {text: number for number, text in enumerate([*special, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True) for text in special])
    return inner


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made("<unk>", "<s>", "</s>").save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_there_and_back(folder: Path):
    coder = FileTokenizer(folder, vocab=300)
    ids = coder.encode(TEXT)
    assert len(ids) == len(TEXT.encode())
    assert ids.min() > 2
    assert coder.decode(ids) == TEXT
    assert coder.decode([]) == ""
    assert (coder.begin, coder.end) == (1, 2)
    assert coder.encode(TEXT.encode()).tolist() == ids.tolist()


def test_characters_come_whole(folder: Path):
    coder = FileTokenizer(folder, vocab=300)
    decoder = coder.decoder()
    for _ in range(2):
        pieces = [decoder.feed(int(token)) for token in coder.encode(TEXT)]
        assert [piece for piece in pieces if piece] == list(TEXT)
        assert decoder.finish() == ""
    assert decoder.feed(int(coder.encode("é")[0])) == ""
    assert decoder.finish() == "\ufffd"


@pytest.mark.parametrize(("text", "part"), [("", "empty"), (b"", "empty"), (b"\xff", "Unicode"),
                                            ("\ud800", "Unicode")])  # fmt: skip
def test_wrong_prompts(folder: Path, text: str | bytes, part: str):
    with pytest.raises(NomulError, match=f"^the prompt is .*{part}"):
        FileTokenizer(folder, vocab=300).encode(text)


def test_ids_outside_the_vocabulary(folder: Path):
    with pytest.raises(NomulError, match="token 300 at position 1 lies outside"):
        FileTokenizer(folder, vocab=300).decode([5, 300])


def test_wrong_files(tmp_path: Path):
    def refused(part: str, vocab: int = 300) -> None:
        with pytest.raises(NomulError) as caught:
            FileTokenizer(tmp_path, vocab=vocab)
        line = str(caught.value)
        assert line.startswith(f"{tmp_path / 'tokenizer.json'}: ")
        assert part in line
        assert "\n" not in line

    refused("no such file; copy it from the checkpoint (nomul eval --ids takes token ids)")
    (tmp_path / "tokenizer.json").write_text("{")
    refused("no tokenizer can be read")
    made("<s>").save(str(tmp_path / "tokenizer.json"))
    refused("has no token </s>")
    refused("has 257 tokens, the model 256", vocab=256)


def test_without_the_library(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(NomulError, match=r"pip install 'nomul\[tokenizer\]'.*--ids"):
        FileTokenizer(folder, vocab=300)
