"""The table of published checkpoints, beside the recipes and the page that lists it."""

from dataclasses import replace
from pathlib import Path

import pytest

from convflow.bundle.released import PROTOCOLS, RELEASES, find_release
from convflow.models.zoo import SIZES
from convflow.recipes import create_config, find_target

PAGE = Path(__file__).parents[2] / "docs/published.md"


@pytest.mark.parametrize("name", RELEASES)
def test_a_release_is_sampled_as_its_recipe_says(name):
    release = RELEASES[name]
    assert SIZES[release.size].family == release.family
    process, sampling = PROTOCOLS[release.family]
    recipe = create_config(release.recipe)
    assert (recipe.process, recipe.data.size) == (process, (release.pixels, release.pixels))
    assert replace(recipe.sampling, guidance=sampling.guidance) == sampling
    assert find_target(release.recipe).fid
    hub = f"`{release.hub}`" if release.hub else "not known"
    row = f"| `{name}` | {hub} | {release.licence} | {find_target(release.recipe).fid:.2f} |"
    assert row in PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("dit-xl/2-512", "dit-xl/2-512"),
        ("dit-xl/2", "dit-xl/2-256"),
        ("dico-s", "dico-s-256"),
        ("facebook/DiT-XL-2-512", "dit-xl/2-512"),
        ("shallowdream204/DiCo", None),  # several
        ("", None),
        ("dit-b/2", None),
    ],
)
def test_a_size_or_a_repository_stands_for_a_release(name, found):
    assert find_release(name) == found
