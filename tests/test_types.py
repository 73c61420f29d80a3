"""The shared words: the user's error, the hint at the nearest name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convflow.types import InputError, unknown_name


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("hune", ["euler", "heun"], "unknown solver 'hune'; did you mean 'heun'?"),
        ("xyz", ["euler", "heun"], "unknown solver 'xyz'; choose from euler, heun"),
        (7, ["a", "b"], "unknown solver 7; choose from a, b"),
        ("euler", ["euler"], "unknown solver 'euler'; choose from euler"),
        (
            "cafe\u0301",
            ["caf\u00e9", "cafes"],
            "unknown solver 'cafe\u0301'; did you mean 'cafes'?",
        ),
        (None, iter(["none-such"]), "unknown solver None; did you mean 'none-such'?"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, known, expected):
    assert unknown_name("solver", name, known) == expected


@given(st.text(min_size=1), st.lists(st.text()))
def test_any_name_gets_one_sentence(name, known):
    assert unknown_name("word", name, known).startswith("unknown word ")


def test_a_name_with_a_letter_missing_is_found():
    names = ["flowdcn-s/2", "flowdcn-b/2", "flowdcn-xl/2"]
    for name in names:
        assert f"did you mean {name!r}?" in unknown_name("model", name.replace("w", ""), names)


def test_the_users_error_is_a_value_error():
    assert issubclass(InputError, ValueError)
