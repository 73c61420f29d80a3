"""A moved image: convolutional networks move their prediction along, networks of positions not.

A patch of noise lies in a flat strip, so far from its ends that no cell sees both. Moving it along
by whole cells of the coarsest level then moves all features around it and changes none elsewhere:
the sums over the whole image, of DiCo's channel attention and of FCDM's response norm, stay what
they are, and the argument is exact for them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch

from convflow.models.zoo import create_model
from tests.cases import MODELS, build, perturb
from tests.tolerance import TOLERANCE, assert_close_rms

PATCH = (5, 7)
"""Breadth and length of the noise, in pixels."""


class Case(NamedTuple):
    """A network, and how far it sees.

    Attributes:
        cell: pixels along a side of a cell of the coarsest level, the product of all strides.
        sight: bound on the pixels from which a prediction is made, without sums over the image.
        changes: of the settings in the list of models.
    """

    cell: int
    sight: int
    changes: Mapping[str, object] = MappingProxyType({})


# A 3x3 convolution at level k of a U sees 2^k pixels farther, and the rest of a cell of 4 is added
# once; a block of FlowDCN its reach, what its learned directions add to that, and a cell.
CASES = {
    "flowdcn": Case(2, 24, {"reach": 1.5}),
    "flowdcn-truncate": Case(2, 24, {"reach": 1.5}),
    "flowdcn-patch-3": Case(3, 36, {"reach": 1.5}),
    "flowdcn-dico": Case(2, 12),
    "dico": Case(4, 28),
    "dico-se": Case(4, 40),
    "dico-no-attention": Case(4, 46, {"depths": [1, 1, 1, 1, 1]}),
    "dico-isotropic": Case(2, 8),
    "dico-isotropic-skip": Case(2, 14),
    "fcdm": Case(4, 46, {"depths": [1, 1, 1, 1, 1]}),
}


def strips(model, cell, sight, step, axis):
    """Predictions of two strips along an axis, which is the last one here.

    The second shows the patch `step` pixels farther than the first. Also where that begins.
    """
    room = -(-(2 * sight + abs(step) + max(PATCH)) // cell) * cell
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(model.in_channels, *PATCH, generator=generator, dtype=torch.float64)
    x = torch.full((2, model.in_channels, -(-8 // cell) * cell, 2 * room), 0.3).double()
    for picture, left in zip(x, (room, room + step), strict=True):
        picture[:, 1 : 1 + PATCH[0], left : left + PATCH[1]] = noise
    t, y = torch.full((2,), 0.4, dtype=torch.float64), torch.ones(2, dtype=torch.int64)
    with torch.no_grad():
        out = model.double()(x if axis == 3 else x.mT, t, y)
    return (out if axis == 3 else out.mT), room


def follows(model, cell, sight, step, axis):
    """Check that the prediction around the patch moves along, and the rest does not change."""
    (plain, moved), room = strips(model, cell, sight, step, axis)
    far = sight + abs(step)
    assert (plain - moved).norm() > 0.01 * plain.norm(), "nothing to see"
    assert_close_rms(moved.roll(-step, 2)[..., far:-far], plain[..., far:-far])
    for rest in (slice(room - far), slice(room + PATCH[1] + far, None)):
        assert_close_rms(moved[..., rest], plain[..., rest])


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_convolutional_network_moves_its_prediction_along(name, axis):
    family, settings = MODELS[name]
    cell, sight, changes = CASES[name]
    model = perturb(create_model(family, **settings | changes).eval())
    follows(model, cell, sight, 2 * cell, axis)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("name", ["flowdcn", "dico", "dico-isotropic", "fcdm"])
def test_less_than_a_cell_is_another_picture(name, axis):
    family, settings = MODELS[name]
    cell, sight, changes = CASES[name]
    model = perturb(create_model(family, **settings | changes).eval())
    with pytest.raises(AssertionError, match="rms error"):
        follows(model, cell, sight, cell // 2, axis)


def test_every_convolutional_case_is_here_but_for_what_changes_no_map():
    """A variance, a norm, a head or the number of classes does not look at places."""
    same = ("layernorm", "gelu", "discard-half", "patch-1", "learned-variance", "no-classes")
    left = {name for name, (family, _) in MODELS.items() if family not in ("dit", "sit")}
    left -= {name for name in left if name.endswith((*same, "pad", "relu"))}
    assert left == set(CASES)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("name", ["dit", "sit"])
def test_with_positions_a_moved_picture_is_another_one(name, axis):
    """The control: what looks at places does not follow, by far."""
    (plain, moved), _ = strips(build(name), 2, 12, 4, axis)
    error = (moved.roll(-4, 2) - plain)[..., 16:-16].norm()
    assert error > 1e6 * TOLERANCE[torch.float64] * plain[..., 16:-16].norm()
