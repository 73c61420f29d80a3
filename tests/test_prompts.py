"""Texts that images are asked for."""

import logging
from dataclasses import replace

import pytest

from convflow.prompts import (
    Prompts,
    asked_prompts,
    check_told,
    check_weaker,
    describe_cut,
    read_prompts,
)
from convflow.texts import NoText, PretrainedText, TrainedText
from convflow.types import InputError
from tests.cases import build

WORDS = TrainedText(max_tokens=4, rows=100)


def test_prompts_are_encoded_once_each():
    asked = []

    class Noted(TrainedText):
        def encode(self, texts):
            asked.append(list(texts))
            return super().encode(texts)

    prompts = Prompts(("a", "b"), Noted(max_tokens=3))
    rows = prompts.conditions([1, 0, 1, 1])
    assert asked == [["b", "a"]]
    assert rows.equal(Noted(max_tokens=3).encode(["b", "a", "b", "b"]))


def test_a_line_says_what_is_cut(caplog):
    assert describe_cut(WORDS, ["a cat", "two words"]) == ""
    said = describe_cut(WORDS, ["one two three four five six", "a", "b c d e f"])
    assert said == (
        "'one two three four five six' has 7 tokens, of which the first 4 are read, and 1 more "
        "texts are cut"
    )
    caplog.set_level(logging.INFO, "convflow")
    Prompts(("a b c d e f g",), WORDS).say_cut()
    assert "has 8 tokens" in caplog.text


def test_labels_and_prompts_are_for_the_models_that_are_told_them():
    assert asked_prompts(NoText(), (), None, ["cat"]) is None
    assert asked_prompts(WORDS, ("a",), None, None).texts == ("a",)
    assert asked_prompts(WORDS, ("a",), "b", None).texts == ("b",)
    for given, said in (
        ((NoText(), (), ["a"], None), "expected labels"),
        ((WORDS, (), None, ["cat"]), "expected prompts"),
        ((WORDS, (), None, None), "at least one text"),
        ((WORDS, (), [3], None), "at least one text"),
        ((WORDS, (), 3, None), "at least one text"),
    ):
        with pytest.raises(InputError, match=said):
            asked_prompts(*given)


def test_a_network_of_texts_needs_its_encoder_and_no_other_has_one():
    assert check_told(build("sit"), None) == NoText()
    fitting = TrainedText(max_tokens=4, rows=20, width=12, depth=1)
    assert check_told(build("sit-words"), fitting) == fitting
    features = PretrainedText(max_tokens=4, width=12, pooled=10)
    assert check_told(build("dico-features"), features) == features
    wrong = (
        ("sit", WORDS),
        ("sit-words", None),
        ("sit-words", WORDS),
        ("sit-words", replace(fitting, max_tokens=5)),
        ("sit-words", features),
        ("dico-features", fitting),
        ("dico-features", replace(features, pooled=12)),
    )
    for case, text in wrong:
        with pytest.raises(InputError, match="text encoder"):
            check_told(build(case), text)


def test_a_weaker_model_is_told_the_same():
    check_weaker(WORDS, replace(WORDS, width=8))  # of which each network has its own
    check_weaker(NoText(), NoText())
    known = PretrainedText("a/b", max_tokens=4, sha256="1")
    check_weaker(known, replace(known, encoder="c"))
    for other in (replace(WORDS, rows=50), TrainedText("bytes", max_tokens=4), known):
        with pytest.raises(InputError, match="weaker model with the text encoder"):
            check_weaker(WORDS, other)


def test_a_file_of_prompts_has_one_a_line(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("a cat\n\n  a dog \n", encoding="utf-8")
    assert read_prompts(path, "--prompts") == ["a cat", "a dog"]
    path.write_text("\n", encoding="utf-8")
    for wrong in (path, tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="--prompts"):
            read_prompts(wrong, "--prompts")
