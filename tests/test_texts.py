"""What makes conditions of texts."""

import pytest
import torch

from convflow.conditions.spelling import BEGIN
from convflow.settings.read import read, to_dict
from convflow.texts import NoText, PretrainedText, TextEncoder, TrainedText
from convflow.types import InputError

WORDS = TrainedText(max_tokens=4, rows=100)


def test_texts_are_padded_and_cut():
    found = WORDS.encode(["a cat", "", "one two three four five"])
    assert found.shape == (3, 4)
    assert found[1].tolist() == [BEGIN, 0, 0, 0]
    assert (found[0] > 0).tolist() == [True, True, True, False]
    assert (found[2] > 0).all()


def test_settings_give_those_of_the_network():
    settings = TrainedText("bytes", width=64).network_settings()
    assert settings["text_rows"] == 258
    assert settings["text_length"] == 128
    assert NoText().network_settings() == {}


@pytest.mark.parametrize("text", [NoText(), WORDS, TrainedText("bytes"), PretrainedText("a/b")])
def test_settings_are_read_back(text):
    assert read(to_dict(text), TextEncoder) == text


def test_a_pretrained_encoder_needs_a_name():
    with pytest.raises(InputError, match=r"--text\.encoder"):
        PretrainedText().network_settings()


def test_rows_of_words_are_more_than_marks():
    with pytest.raises(InputError, match=r"--text\.rows"):
        TrainedText(rows=2)
    assert torch.equal(TrainedText(rows=3).encode(["a b"])[0, :3], torch.tensor([1, 2, 2]))
