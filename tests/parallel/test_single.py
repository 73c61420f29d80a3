"""What one process does in a step."""

import pytest
import torch
from torch import nn

from convflow.parallel.single import Single

CPU = torch.device("cpu")


@pytest.mark.parametrize(("most", "expected"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_gradients_are_shortened_to_a_limit(most, expected):
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    assert float(Single(CPU).clip(parameters, most)) == 5
    lengths = torch.cat([p.grad for p in parameters[:2]])
    torch.testing.assert_close(lengths.norm(), torch.tensor(expected), rtol=1e-5, atol=0)


def test_gradients_that_are_not_finite_stay_to_be_named():
    parameters = [nn.Parameter(torch.zeros(2))]
    parameters[0].grad = torch.tensor([torch.inf, 1.0])
    assert not Single(CPU).clip(parameters, 1.0).isfinite()
    assert parameters[0].grad.tolist() == [torch.inf, 1.0]


def test_one_process_agrees_with_itself_and_holds_everything():
    single, module = Single(CPU), nn.Linear(1, 1)
    assert single.agree([True, False], CPU) == [True, False]
    assert single.place(single.build(lambda: single.prepare(module))) is module
    assert single.passes(2, 3) == 2
    tensors = module.state_dict()
    assert single.alike(tensors) is tensors
    assert single.save("a.safetensors", tensors) == ("a.safetensors", tensors, {"format": "pt"})
    assert single.gather(3) == [3]
