"""Descriptions as lines, and in short."""

from convflow.cli.tree import FEW_CLASSES, print_tree, run_in_short


def test_a_tree_is_lines_and_the_note_stands_at_the_end(capsys):
    print_tree({"size": [8, 16], "model": {"width": 4, "classes": []}, "note": "a\nb"})
    assert capsys.readouterr().out.splitlines() == [
        "size                     8x16",
        "model",
        "  width                  4",
        "  classes                none",
        "",
        "a",
        "b",
    ]


def test_few_classes_and_no_settings_of_the_training():
    names = [f"class {i}" for i in range(FEW_CLASSES + 5)]
    found = {"classes": names, "config": {"seed": 0}, "note": "an estimate"}
    short = run_in_short(found)
    assert short["classes"] == [*names[:FEW_CLASSES], "5 more"]
    assert "config" not in short
    note = "--all prints all classes and the settings of the training.\nan estimate"
    assert short["note"] == note
    assert found["classes"] == names


def test_the_network_has_the_settings_that_are_its_own():
    model = {"family": "dico", "width": 8, "depths": [1, 1, 1, 1, 1], "told_guidance": False}
    found = {"size": [8, 8], "model": model, "config": {"seed": 0}}
    short = run_in_short(found)
    assert short["model"] == {n: v for n, v in model.items() if n != "told_guidance"}
    both = "the usual settings of the network and the settings of the training"
    assert short["note"] == f"--all prints {both}."
    names = [f"class {i}" for i in range(FEW_CLASSES + 1)]
    note = run_in_short(found | {"classes": names})["note"]
    assert note == f"--all prints all classes, {both}."


def test_what_is_short_stays_as_it_is():
    for found in ({"classes": ["a", "b"], "size": [8, 8]}, {"classes": "the 1000 of ImageNet"}, {}):
        assert run_in_short(found) == found
