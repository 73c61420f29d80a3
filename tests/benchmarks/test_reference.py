"""Losses that recipes reached are written where they are looked up."""

import ast
import json
from pathlib import Path

from benchmarks.quality import reference
from convflow.recipes import ReferenceCurve

ROOT = Path(__file__).parents[2]


def test_losses_are_means_of_the_last_fifth(tmp_path):
    rows = [{"images": 16 * i, "loss": float(i)} for i in range(1, 81)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert reference.losses_of(tmp_path) == {160: 9.5, 320: 18.5, 640: 36.5, 1280: 72.5}


def test_both_places_have_the_new_curve_and_those_of_others():
    one, other = ReferenceCurve({4: 0.5, 8: 0.25}, "here"), ReferenceCurve({8: 0.125}, "there")
    source = (ROOT / "convflow/recipes/digits.py").read_text().partition("\n\nCURVES")[0]
    for function, curve in (("a", one), ("b", other), ("a", other)):
        source = reference.with_curve(source, function, curve)
    tree = ast.parse(source)
    (table,) = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    found = {key.value: call.args for key, call in zip(table.keys, table.values, strict=True)}
    assert [*found] == ["b", "a"]
    assert [ast.literal_eval(part) for part in found["a"]] == [{8: 0.125}, "there"]
    assert source.count("import ReferenceCurve") == 1
    page = (ROOT / "docs/recipes.md").read_text()
    for recipe, curve in (("digits.flowdcn", one), ("toy.none", one), ("toy.none", other)):
        page = reference.with_row(page, recipe, curve)
    assert page.count("| `convflow train digits.flowdcn ") == 1
    assert "flowdcn --device cpu --precision float32` | 0.500 at 4; 0.250 at 8 |" in page
    assert page.count("| `convflow train toy.none ") == page.count("| 0.125 at 8 |") == 1
