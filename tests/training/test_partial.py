"""What is taken of other weights: fitting tensors, the prediction of a head, with its sign."""

import pytest
import torch

from convflow.bench.models import perturb
from convflow.models.zoo import create_model
from convflow.nn.positions import PositionScaling
from convflow.training.origin import Origin, begin_from
from tests.cases import MODELS, build
from tests.tolerance import assert_close_rms

INPUTS = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 40.0]), torch.tensor([0, 5])


def pair(family):
    """Two tiny networks, without and with channels for a variance."""
    name, settings = MODELS[family]
    found = []
    for learned in (False, True):
        torch.manual_seed(int(learned))
        model = create_model(name, **settings | {"learned_variance": learned})
        found.append(perturb(model).eval())
    return found


def origin(model, predictions=("", "")):
    return Origin("there", model, (), True, predictions=predictions)


@pytest.mark.parametrize("family", ["dit", "dico"])
def test_the_prediction_of_a_head_is_taken_with_and_without_a_variance(family):
    plain, learned = pair(family)
    expected = learned(*INPUTS)[:, :3].detach()
    lines = begin_from(plain, origin(learned), ())
    assert_close_rms(plain(*INPUTS), expected)
    said = [line for line in lines if "the channels of the prediction taken" in line]
    assert len(said) == 2
    assert lines[-3].startswith("weights: ")  # nothing is drawn anew

    plain, learned = pair(family)
    expected, kept = plain(*INPUTS).detach(), variance_of(learned)
    begin_from(learned, origin(plain), ())
    assert_close_rms(learned(*INPUTS)[:, :3], expected)
    assert variance_of(learned).equal(kept)


def variance_of(model):
    weight = model.project.out.weight.detach().clone()
    return weight.unflatten(0, (-1, 6))[:, 3:]


@pytest.mark.parametrize(("family", "learned"), [("dit", 0), ("fcdm", 0), ("dit", 1)])
def test_a_head_for_noise_begins_a_velocity_with_the_other_sign(family, learned):
    trained, model = pair(family)[learned], pair(family)[learned]
    expected = trained(*INPUTS).detach()
    lines = begin_from(model, origin(trained, ("velocity", "noise")), ())
    said = model(*INPUTS)
    assert_close_rms(said[:, :3], -expected[:, :3])
    if learned:
        assert_close_rms(said[:, 3:], expected[:, 3:])
    assert lines[-1].endswith("negated, for there predicts noise")


def test_a_noise_predicted_well_is_nearer_to_the_velocity_when_negated():
    """The reason: with data x and noise e the velocity is x - e."""
    x, noise = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)).unbind(0)
    errors = [float((x - noise - sign * noise).square().mean()) for sign in (-1, 0, 1)]
    assert errors == sorted(errors)


def test_positions_of_a_larger_grid_are_brought_into_that_of_the_weights():
    name, settings = MODELS["sit"]
    plain = perturb(build("sit")).eval()
    bound = create_model(name, **settings, position_grid=(4, 4)).eval()
    bound.load_state_dict(plain.state_dict())
    assert bound(*INPUTS).equal(plain(*INPUTS))
    wide = torch.randn(2, 3, 8, 16), *INPUTS[1:]
    said = bound(*wide)
    assert said.equal(plain(*wide, position_scaling=PositionScaling("pi", 4, 4)))
    assert not torch.allclose(said, plain(*wide))
    other = bound(*wide, position_scaling=PositionScaling("ei", 4, 8))
    assert other.equal(plain(*wide, position_scaling=PositionScaling("ei", 4, 4)))
