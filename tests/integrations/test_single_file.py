"""One file of many modules: what it takes, what it leaves out, and in which order."""

import ast

import pytest

from convflow.integrations.diffusers_folder import network_file
from convflow.integrations.single_file import SingleFile, read_source
from convflow.models.families import BACKBONES

KNOWN = {"torch", "diffusers", "numpy", "PIL"}


def imported(text):
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)


def defined(text):
    return [n.name for n in ast.parse(text).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("family", BACKBONES)
def test_a_network_needs_torch_and_diffusers_alone(family, scales):
    import sys

    text = network_file("pyramid", family) if scales else network_file(family)
    assert set(imported(text)) - KNOWN <= sys.stdlib_module_names
    assert max(map(len, text.splitlines())) <= 100
    names = defined(text)
    assert len(names) == len(set(names))
    assert BACKBONES[family].__name__ in names


def test_what_training_alone_uses_is_left_out():
    text = network_file("dico")
    assert {"Conv", "DiCoBlock", "Backbone", "check_size"} <= set(defined(text))
    for word in ("Config", "joints", "use_depthwise", "depthwise_conv", "save_weights", "msgspec"):
        assert word not in text.replace("ConfigMixin", "")
    assert "**settings" not in text
    assert "depths: tuple[int, ...] = (5, 4, 4, 4, 4)" in text


@pytest.mark.parametrize("family", BACKBONES)
def test_texts_and_attention_along_time_are_left_out(family):
    text = network_file(family)
    code = ast.unparse(ast.parse(text))  # without comments
    for word in ("WithText", "CrossAttention", "TextEmbedding", "take_text", "self.cross", "Added"):
        assert word not in code.replace("`Added`", "")
    for word in ("TemporalConv", "TemporalAttention", "rotary_video", "rotary_frames"):
        assert word not in code
    assert "= Literal['none']" in code


@pytest.mark.parametrize(
    "root",
    [
        "diffusers_scheduler:FlowScheduler",
        "diffusers_pipeline:FlowPipeline",
        "diffusers_scales:ScalesPipeline",
    ],
)
def test_definitions_come_before_those_that_need_them_at_once(root):
    module, name = root.split(":")
    text = SingleFile([(f"convflow.integrations.{module}", name)]).text("About.")
    assert "convflow" not in set(imported(text))
    seen = set(dir(__builtins__)) | set(dir(__import__("builtins")))
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            seen |= {(a.asname or a.name).partition(".")[0] for a in node.names}
        elif isinstance(node, ast.ClassDef):
            used = [*node.bases, *node.decorator_list]
            needed = {n.id for part in used for n in ast.walk(part) if isinstance(n, ast.Name)}
            assert needed <= seen, node.name
            seen.add(node.name)
        elif isinstance(node, ast.FunctionDef):
            seen.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            seen |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}


def test_two_definitions_of_one_name_are_refused(tmp_path, monkeypatch):
    for name in ("first_made", "second_made"):
        text = f"def same():\n    return {name!r}\n\n\ndef use_{name}():\n    return same()\n"
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="two definitions of same"):
        SingleFile([("first_made", "use_first_made"), ("second_made", "use_second_made")])


def test_a_name_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"convflow\.types does not define nothing"):
        SingleFile([("convflow.types", "nothing")])


def test_a_constant_comes_with_what_it_means():
    node, last = read_source("convflow.types").nodes["LONGEST_SIDE"]
    assert last > node.end_lineno
    text = SingleFile([("convflow.types", "LONGEST_SIDE")]).text("About.")
    assert "more is a slip of the finger" in text
