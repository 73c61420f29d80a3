"""What `convflow info` prints of a description: a tree of lines, and less of a run or a recipe."""

from __future__ import annotations

from typing import Any

from convflow.cli.output import say

FEW_CLASSES = 10
"""Names of classes that are shown of a model with more."""


def run_in_short(found: dict[str, Any]) -> dict[str, Any]:
    """Return of a run or a model what matters most: few classes, no settings of the training."""
    short, names = dict(found), found.get("classes")
    left = ["the settings of the training"] if short.pop("config", None) else []
    if isinstance(names, list) and len(names) > FEW_CLASSES:
        short["classes"] = [*names[:FEW_CLASSES], f"{len(names) - FEW_CLASSES:,} more"]
        left.insert(0, "all classes")
    note = [f"--all prints {' and '.join(left)}."] if left else []
    note += [short.pop("note")] if "note" in short else []
    return short | ({"note": "\n".join(note)} if note else {})


def recipe_in_short(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return of a recipe what is not as in every training, the target without what is unknown."""
    from convflow.settings.read import to_dict
    from convflow.training.config import TrainConfig

    def changed(tree: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
        return {
            key: changed(value, default[key]) if isinstance(value, dict) else value
            for key, value in tree.items()
            if key not in default or value != default[key]
        }

    defaults = to_dict(TrainConfig())
    other = {"model", "memory"} if "note" in recipe else {"model"}  # the estimate, no setting
    settings = {key: value for key, value in recipe.items() if key in defaults.keys() - other}
    head = {key: recipe[key] for key in ("recipe", "about", "model")}
    short = {**head, **changed(settings, defaults)}
    if "target" in recipe:
        short["target"] = {k: v for k, v in recipe["target"].items() if v is not None}
    short |= {key: recipe[key] for key in ("loss reached here",) if key in recipe}
    note = "Other settings are the defaults; --all prints all of them."
    if "note" in recipe:
        short["memory"] = recipe["memory"]
        note += f"\n{recipe['note']}\nA recipe is counted with 1000 classes unless it sets others."
    return {**short, "note": note}


def print_tree(tree: dict[str, Any], indent: int = 0) -> None:
    """Print a line for each value, deeper ones further to the right, and the note in the end."""
    from convflow.settings.fields import Pixels
    from convflow.settings.read import show

    for key, value in tree.items():
        if key == "note":
            say("", *value.split("\n"))
        elif isinstance(value, dict):
            say(f"{'':{indent}}{key}")
            print_tree(value, indent + 2)
        else:
            shown = f"{value:,}" if isinstance(value, int) and key == "parameters" else value
            if key in ("size", "pixels"):
                shown = show(value, Pixels)
            shown = (
                ", ".join(map(str, shown)) or "none" if isinstance(shown, (list, tuple)) else shown
            )
            say(f"{'':{indent}}{key:{24 - indent}} {shown}")
