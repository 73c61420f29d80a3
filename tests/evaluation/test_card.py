"""Result cards: what they hold, when they compare, and what their scores are called."""

import dataclasses
import json
import re
import subprocess

import pytest

from convflow import __version__
from convflow.evaluation import card as cards
from convflow.evaluation.card import (
    Card,
    compare_cards,
    contrast,
    library,
    metric_type,
    read_card,
    titled,
)
from convflow.types import InputError


@pytest.fixture
def card():
    return Card(
        model={"name": "a", "sha256": "1"},
        sampling={"solver": "euler", "steps": 50, "guidance": {"scale": 1.5, "interval": [0, 1]}},
        pictures={"count": 2000, "size": [32, 32]},
        detector={"name": "inception", "sha256": "2"},
        reference={"name": "train", "sha256": "3"},
        metrics={"precision_recall_k": 3},
        library={"convflow": "0.1.0", "commit": "abc"},
        machine={"device": "cpu"},
        scores={"FID-2k": 12.3456, "precision-2k": 0.5},
        samples_sha256="4",
    )


def write(folder, name, card):
    card.write(folder / f"{name}.json")
    return folder / f"{name}.json"


def test_a_round_trip(card, tmp_path):
    assert read_card(write(tmp_path / "deep", "a", card)) == card


@pytest.mark.parametrize(
    ("count", "title"),
    [
        (50_000, "FID"), (2000, "FID-2k"), (10_000, "FID-10k"), (49_999, "FID-49999"),
        (7, "FID-7"), (100_000, "FID-100k"),
    ],
)  # fmt: skip
def test_the_count_is_in_the_title(count, title):
    assert titled("FID", count) == title


@pytest.mark.parametrize("title", ["FID", "KD-std", "video-FD"])
@pytest.mark.parametrize("count", [50_000, 2000, 1797])
def test_the_type_of_a_score_is_its_title_without_the_count(title, count):
    assert metric_type(titled(title, count)) == title.lower()


def test_cards_that_differ_in_the_model_alone_compare(card, tmp_path):
    other = dataclasses.replace(
        card,
        model={"name": "b", "sha256": "9"},
        scores={"FID-2k": 9.5, "IS-2k": 7.0},
        samples_sha256="8",
        machine={"device": "other"},
    )
    text = compare_cards([write(tmp_path, "a", card), write(tmp_path, "b", other)])
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["a", "b"]
    assert rows[1][:3] == ["FID-2k", "12.3456", "9.5000"]
    assert rows[2][:3] == ["precision-2k", "0.5000", "-"]
    assert "lower is better" in text.splitlines()[1], "cards of version 0.2 do not say it"
    assert "higher is better" in text.splitlines()[2]
    reported = dataclasses.replace(other, scores={"F1-2k": 0.5}, better={"F1-2k": "higher"})
    assert "F1-2k 0.5000 higher is better" in " ".join(reported.table().split())
    text = compare_cards([write(tmp_path, "a", card), write(tmp_path, "c", reported)])
    assert text.splitlines()[3].endswith("  higher is better")


@pytest.mark.parametrize(
    ("group", "change", "row"),
    [
        ("sampling", {"steps": 20}, "sampling.steps 50 20"),
        ("sampling", {"guidance": {"scale": 1.0}}, "sampling.guidance.scale 1.5 1.0"),
        ("pictures", {"count": 1000}, "pictures.count 2000 1000"),
        ("detector", {"sha256": "x"}, "detector.sha256 '2' 'x'"),
        ("reference", {"name": "test"}, "reference.name 'train' 'test'"),
        ("metrics", {"precision_recall_k": 5}, "metrics.precision_recall_k 3 5"),
        ("library", {"commit": None}, "library.commit 'abc' -"),
    ],
)
def test_any_other_difference_is_a_row(card, tmp_path, group, change, row):
    other = dataclasses.replace(card, **{group: getattr(card, group) | change})
    paths = [write(tmp_path, "a", card), write(tmp_path, "b", other)]
    key, first, second = row.split()
    with pytest.raises(InputError, match=f"cannot be compared, they differ in {re.escape(key)}"):
        compare_cards(paths)
    rows = [line.split() for line in contrast(paths).splitlines()]
    assert rows[0] == ["setting", *map(str, paths)]
    assert [key, first, second] in rows[1:]
    assert "which are allowed" in compare_cards(paths, [group])
    assert contrast(paths, [group]) == ""


def test_many_differences_are_aligned_rows_and_a_short_error(card, tmp_path):
    hashes = {"sha256": "a" * 64}, {"sha256": "b" * 64}
    ours = dataclasses.replace(card, detector=hashes[0])
    theirs = dataclasses.replace(card, sampling=None, detector=hashes[1])
    paths = [write(tmp_path, "a", ours), write(tmp_path, "b", theirs)]
    with pytest.raises(InputError, match=r"sampling\.solver, .* and 2 more; score both") as error:
        compare_cards(paths)
    assert len(str(error.value)) < 400
    head, *rows = contrast(paths).splitlines()
    assert len(rows) == 5
    starts = [head.index(str(path)) for path in paths]
    for row in rows:
        assert all(row[start - 1] == " " and row[start] != " " for start in starts), row
    assert rows[-1].split()[1:] == [f"'{13 * letter}...{13 * letter}'" for letter in "ab"]


def test_values_that_look_alike_when_cut_stay_whole(card, tmp_path):
    texts = [20 * "a" + middle + 20 * "a" for middle in "bc"]
    paths = [
        write(tmp_path, name, dataclasses.replace(card, detector={"chain": text}))
        for name, text in zip("ab", texts, strict=True)
    ]
    assert all(text in contrast(paths) for text in texts)


def test_the_third_card_is_compared_too(card, tmp_path):
    other = dataclasses.replace(card, pictures={"count": 3})
    paths = [write(tmp_path, n, c) for n, c in (("a", card), ("b", card), ("c", other))]
    with pytest.raises(InputError, match=r"c\.json cannot be compared"):
        compare_cards(paths)


def test_one_card_is_shown(card, tmp_path):
    assert "12.3456" in compare_cards([write(tmp_path, "a", card)])


def test_an_unknown_key_cannot_be_allowed(card, tmp_path):
    with pytest.raises(InputError, match="--allow: expected a key of the cards, got 'stepz'"):
        compare_cards([write(tmp_path, "a", card)], ["stepz"])


@pytest.mark.parametrize("content", ["{}", "[]", "half", '{"scores": 3}'])
def test_what_is_no_card_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=r"a\.json"):
        read_card(tmp_path / "a.json")


def test_a_missing_card(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_card(tmp_path / "a.json")


def test_a_later_format_is_refused(card, tmp_path):
    path = write(tmp_path, "a", card)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="expected a result card"):
        read_card(path)


def test_the_commit_is_that_of_the_package(monkeypatch):
    there = library()
    assert there["convflow"] == __version__
    git = ["git", "rev-parse", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    if commit:
        assert there["commit"].removesuffix("-dirty") == commit

    def no_git(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(cards.subprocess, "run", no_git)
    assert library()["commit"] is None
