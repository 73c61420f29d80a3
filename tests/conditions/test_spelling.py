"""Texts as rows of numbers."""

import pytest

from convflow.conditions.spelling import BEGIN, FIRST_ROW, NUM_BYTES, spell


def test_bytes_can_be_read_back():
    text = "Ein roter Käfer 🐞"
    numbers = spell(text, "bytes", FIRST_ROW + NUM_BYTES)
    assert numbers[0] == BEGIN
    assert bytes(n - FIRST_ROW for n in numbers[1:]).decode("utf-8") == text


def test_words_are_split_at_spaces_and_signs():
    assert len(spell("a red-hot chili, twice", "words", 4096)) == 1 + len(
        "a red - hot chili , twice".split()
    )


def test_case_spaces_and_composed_letters_make_no_difference_to_words():
    assert spell("CAFÉ  noir", "words", 999) == spell("cafe\u0301 noir", "words", 999)


def test_numbers_of_words_stay_what_they_are():
    """A trained table rests on them."""
    assert spell("red heart", "words", 4096) == [1, 4005, 772]


@pytest.mark.parametrize("spelling", ["words", "bytes"])
def test_the_empty_text_has_its_beginning_alone(spelling):
    assert spell("", spelling, 300) == [BEGIN]


@pytest.mark.parametrize("rows", [3, 100, 4096])
def test_numbers_are_rows_of_the_table(rows):
    numbers = spell("one two three four five six seven", "words", rows)
    assert all(FIRST_ROW <= number < rows for number in numbers[1:])
