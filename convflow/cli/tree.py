"""What `convflow info` prints of a description: a tree of lines, and less of a run or a recipe."""

from __future__ import annotations

from typing import Any

from convflow.cli.output import say

FEW_CLASSES = 10
"""Names of classes that are shown of a model with more."""


def run_in_short(found: dict[str, Any]) -> dict[str, Any]:
    """Return of a run or a model what matters most: few classes, no settings of the training.

    Of the network those settings are left out that have their usual values.
    """
    short, names = dict(found), found.get("classes")
    left = ["the settings of the training"] if short.pop("config", None) else []
    model = found.get("model", {})
    if "family" in model and (own := _own_settings(model)) != model:
        short["model"] = own
        left.insert(0, "the usual settings of the network")
    if isinstance(names, list) and len(names) > FEW_CLASSES:
        short["classes"] = [*names[:FEW_CLASSES], f"{len(names) - FEW_CLASSES:,} more"]
        left.insert(0, "all classes")
    *others, last = left or [""]
    note = [f"--all prints {', '.join(others)}{' and ' * bool(others)}{last}."] if left else []
    note += [short.pop("note")] if "note" in short else []
    return short | ({"note": "\n".join(note)} if note else {})


def _own_settings(model: dict[str, Any]) -> dict[str, Any]:
    """Return family and settings of a network that differ from those that the family has."""
    from convflow.models.zoo import settings_of

    usual = settings_of(model["family"], trusted=False)
    return {key: v for key, v in model.items() if key not in usual or v != usual[key]}


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
