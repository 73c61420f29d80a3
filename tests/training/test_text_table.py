"""Features of texts on disk."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from convflow.conditions.text import Text
from convflow.texts import PretrainedText
from convflow.training.text_table import know_encoder, make_table, open_table
from convflow.types import InputError

TEXTS = ["a cat", "a dog", ""]


@dataclass(frozen=True)
class Counting(PretrainedText):
    """Features that are the lengths of texts."""

    def encode(self, texts):
        lengths = torch.tensor([float(len(text)) for text in texts])
        mask = torch.ones(len(texts), 2, dtype=torch.bool)
        return Text(lengths.view(-1, 1, 1).expand(-1, 2, 3), mask, lengths[:, None])

    def count_tokens(self, texts):
        return [1 for _ in texts]


def test_a_table_gives_back_what_was_made(tmp_path):
    make_table(tmp_path, TEXTS, Counting("somewhere", max_tokens=2))
    table = open_table(tmp_path)
    found = table.take(np.array([2, 0]))
    assert found.pooled.tolist() == [[0.0], [5.0]]
    assert found.tokens.shape == (2, 2, 3)
    assert found.mask.dtype == torch.bool
    assert table.texts == tuple(TEXTS)


def test_a_table_is_made_again_for_other_texts_alone(tmp_path, monkeypatch):
    make_table(tmp_path, TEXTS, Counting("somewhere", max_tokens=2))
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "encode", None)
        make_table(tmp_path, TEXTS, Counting("elsewhere", max_tokens=2))  # the same, by its weights
        with pytest.raises(TypeError):
            make_table(tmp_path, [*TEXTS, "more"], Counting("elsewhere", max_tokens=2))
    make_table(tmp_path, [*TEXTS, "more"], Counting("elsewhere", max_tokens=2))
    assert len(open_table(tmp_path).texts) == 4


def test_damage_is_found(tmp_path):
    assert open_table(tmp_path) is None
    make_table(tmp_path, TEXTS, Counting("somewhere", max_tokens=2))
    path = tmp_path / "texts" / "part1.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="damaged"):
        open_table(tmp_path)


def test_a_store_tells_its_encoder_and_refuses_another(tmp_path):
    encoder = Counting("somewhere", max_tokens=5, sha256="ab" * 32, width=3, pooled=1)
    make_table(tmp_path, TEXTS, encoder)
    table = open_table(tmp_path)
    known = know_encoder(PretrainedText(), table, "store")
    assert known == PretrainedText("somewhere", 5, "float32", "ab" * 32, 3, 1)
    assert json.loads((tmp_path / "texts/texts.json").read_text())["texts"] == TEXTS
    with pytest.raises(InputError, match=r"--text\.max-tokens: expected 5"):
        know_encoder(PretrainedText(max_tokens=9), table, "store")
