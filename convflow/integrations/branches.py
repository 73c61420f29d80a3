"""Definitions without the branches that are never taken, such as those of videos in a picture file.

What is left of a definition stays as it was written, with its comments and its layout.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

KnownConditions = Mapping[str, bool]
"""Whether conditions hold, by their text as `ast.unparse` writes it."""

STANDS_FOR_ITSELF = re.compile(r"^ +(\w+) = \1\n", re.M)
"""What is left of `x = x if condition else other`."""


def without_branches(text: str, facts: KnownConditions) -> str:
    """Return a definition in which no condition is left whose answer is known.

    Args:
        text: of one or more statements.
        facts: which conditions hold; of `and`, `or` and `not` the parts are looked up.

    Examples:
        >>> without_branches("half = x / 2 if odd else x // 2", {"odd": False})
        'half = x // 2'
    """
    while (shorter := _one_less(text, facts)) is not None:
        text = shorter
    return STANDS_FOR_ITSELF.sub("", text)


def truth(test: ast.expr, facts: KnownConditions) -> bool | None:
    """Return whether a condition holds; None where nobody knows."""
    if isinstance(test, ast.BoolOp):
        found = [truth(part, facts) for part in test.values]
        decides = isinstance(test.op, ast.Or)  # one True for `or`, one False for `and`
        if decides in found:
            return decides
        return None if None in found else not decides
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        known = truth(test.operand, facts)
        return None if known is None else not known
    return facts.get(ast.unparse(test))


def _one_less(text: str, facts: KnownConditions) -> str | None:
    """Return a text with one known condition less; None where there is none."""
    for parent in ast.walk(ast.parse(text)):
        for field in ("body", "orelse"):
            block = getattr(parent, field, ())
            statements: list[ast.stmt] = block if isinstance(block, list) else []
            for place, node in enumerate(statements):
                if isinstance(node, ast.If) and (known := truth(node.test, facts)) is not None:
                    return _without_statement(text, statements[place:], known)
        if isinstance(parent, ast.IfExp) and (known := truth(parent.test, facts)) is not None:
            first, last = _span(text, parent)
            kept = slice(*_span(text, parent.body if known else parent.orelse))
            return text[:first] + text[kept] + text[last:]
    return None


def _without_statement(text: str, block: list[ast.stmt], known: bool) -> str:
    """Return a text with the branch that is taken in the place of the first of some statements."""
    lines, node = text.splitlines(), block[0]
    assert isinstance(node, ast.If)
    kept = node.body if known else node.orelse
    first, last = node.lineno - 1, node.end_lineno
    new = list[str]()
    if kept:
        new = lines[kept[0].lineno - 1 : kept[-1].end_lineno]
        if new[0].lstrip().startswith("elif "):
            new[0] = new[0].replace("elif ", "if ", 1)
        else:
            new = [line.removeprefix("    ") for line in new]
        if isinstance(kept[-1], ast.Return | ast.Raise):  # nothing after it is reached
            last = block[-1].end_lineno
    return "\n".join([*lines[:first], *new, *lines[last:]])


def _span(text: str, node: ast.expr) -> tuple[int, int]:
    """Return where an expression begins and ends in a text."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    ends = [(node.lineno, node.col_offset), (node.end_lineno or 0, node.end_col_offset or 0)]
    first, last = (
        starts[row - 1] + len(lines[row - 1].encode()[:column].decode()) for row, column in ends
    )
    return first, last
