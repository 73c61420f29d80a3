"""Vectors that ride along beside labels, in every family and in a pyramid."""

import pytest
import torch

from convflow.bench.models import perturb
from convflow.conditions.added import Added
from convflow.conditions.labels import Labels, cat, take
from convflow.models.pyramid import Pyramid
from tests.cases import MODELS, build

ONE_OF_EACH = {family: name for name, (family, _) in reversed(MODELS.items())}


def test_added_is_taken_joined_and_dropped_as_conditions_are():
    cond = Added(torch.tensor([3, 7]), (torch.eye(2), torch.ones(2, 3)))
    both = cat([take(cond, slice(1, 2)), cond])
    assert both.cond.tolist() == [7, 3, 7]
    assert [part.shape for part in both.vectors] == [(3, 2), (3, 3)]
    dropped = Labels(10).drop(cond, torch.tensor([True, False]))
    assert dropped.cond.tolist() == [10, 7]
    assert Labels(10).null(cond).cond.tolist() == [10, 10]
    assert dropped.vectors is cond.vectors


@pytest.mark.parametrize("name", [*ONE_OF_EACH.values(), "pyramid"])
def test_every_family_adds_them_to_its_condition(name):
    if name == "pyramid":
        model = Pyramid(backbone={"family": "dit", "width": 16, "depth": 1, "num_heads": 2})
    else:
        model = build(name)
    perturb(model)
    x, t, y = model.blank_inputs(2, (16, 16))
    x = [torch.randn_like(one) for one in x] if isinstance(x, list) else torch.randn_like(x)
    t, y = torch.full_like(t, 0.5), torch.zeros_like(y)
    made = model.inner.create_condition(lambda width: torch.nn.Linear(3, width, bias=False))
    vectors = made(torch.tensor([[0.0, 0, 0], [1, 2, 3]]))
    with torch.no_grad():
        plain, added = model(x, t, y), model(x, t, Added(y, vectors))
    if isinstance(plain, tuple):
        plain, added = plain[-1], added[-1]
    assert torch.equal(plain[0], added[0])
    assert not torch.allclose(plain[1], added[1])
