"""U-REPA: upsampled behind the projector, and a distance of cosines between places."""

import torch
from torch.nn import functional as F

from convflow.objectives.urepa import UREPA, UREPASettings, cosines
from tests.objectives.encoder import NAME, create, inputs_of, network_of, pictures
from tests.tolerance import assert_close_rms


def test_cosines_are_those_of_every_pair_of_places():
    features = torch.randn(2, 2, 3, 4)
    found = cosines(features)
    flat = features.reshape(2, 6, 4)
    for one in range(6):
        for other in range(6):
            truth = F.cosine_similarity(flat[:, one], flat[:, other], dim=-1)
            assert_close_rms(found[:, one, other], truth)


def test_both_terms_are_those_of_the_formula():
    network, process = network_of("dico")
    objective = UREPA(network, process, UREPASettings(NAME, hidden=8, manifold=2.0))
    assert objective.block == 3
    pixels, features = pictures(), torch.randn(4, 2, 2, 32)
    found = objective.terms(None, inputs_of(pixels, process, features={3: features}), None)
    projected = objective.project(features).movedim(-1, 1)
    ours = F.interpolate(projected, (4, 4), mode="bilinear").flatten(2)
    theirs = create()(pixels).detach().flatten(2)
    cosine = F.cosine_similarity(ours, theirs, dim=1).mean(1)
    assert_close_rms(found["negative_cosine"], -cosine)
    pairs = [F.cosine_similarity(x[:, :, :, None], x[:, :, None, :], dim=1) for x in (ours, theirs)]
    assert_close_rms(found["manifold"], 2 * (pairs[0] - pairs[1]).square().mean((1, 2)))
    alone = UREPA(network, process, UREPASettings(NAME, hidden=8, manifold=0.0))
    batch = inputs_of(pixels, process, features={3: features})
    assert alone.terms(None, batch, None).keys() == {"negative_cosine"}
