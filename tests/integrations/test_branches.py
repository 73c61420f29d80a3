"""Branches that are never taken are left out of a text, and the rest stays as it is written."""

import ast

import pytest

from convflow.integrations.branches import truth, without_branches

FACTS = {"video": False, "still": True}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x = a if still else b\ny = 1", "x = a\ny = 1"),
        ("x = f(a if video else b + c, d)", "x = f(b + c, d)"),
        ("x = 'é' + (a if video else 'ü')", "x = 'é' + ('ü')"),
        ("def f(x):\n    x = x if still else g(x)\n    return x", "def f(x):\n    return x"),
        ("if video:\n    a()\nb()  # stays", "b()  # stays"),
        ("if video:\n    a()\nelse:\n    # of pictures\n    b()\nc()", "b()\nc()"),
        ("if video:\n    a()\nelif x:\n    b()\nelse:\n    c()", "if x:\n    b()\nelse:\n    c()"),
        ("def f():\n    if still:\n        return 1\n    return 2", "def f():\n    return 1"),
        ("if still:\n    if video:\n        a()\n    b()", "b()"),
        ("if still and x:\n    a()", "if still and x:\n    a()"),
        ("x = a if unknown else b", "x = a if unknown else b"),
    ],
)
def test_what_is_left(text, left):
    assert without_branches(text, FACTS) == left


@pytest.mark.parametrize(
    ("test", "known"),
    [
        ("video and x", False),
        ("still or x", True),
        ("x and still", None),
        ("not video", True),
        ("not x", None),
        ("still and not video", True),
        ("video or not still", False),
        ("x", None),
    ],
)
def test_what_is_known_of_a_condition(test, known):
    assert truth(ast.parse(test, mode="eval").body, FACTS) is known
