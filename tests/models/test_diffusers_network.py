"""Transformers of diffusers answer as diffusers asks them, and go back to it unchanged."""

import pytest
import torch

from convflow.conditions.labels import take
from convflow.models.blocks import compile_blocks, is_block, recompute_blocks
from convflow.models.diffusers_network import DiffusersNetwork
from convflow.models.zoo import create_model, load_model
from convflow.processes.flow import FlowMatching, TrainingDraws
from convflow.types import InputError
from tests.transformers import TINY, call, create, draw_text, wrap

CASES = list(TINY)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def images(network, batch=3, size=(8, 12)):
    return torch.randn(batch, network.in_channels, *size), torch.rand(batch)


@pytest.mark.parametrize("case", CASES)
def test_it_predicts_what_the_transformer_does(case):
    network, model, text = wrap(case), create(case), draw_text(3)
    x, t = images(network)
    expected = -call(case, model, x, 1 - t, text)
    torch.testing.assert_close(network(x, t, text), expected, rtol=1e-4, atol=1e-5)
    assert expected.std() > 0.01


@pytest.mark.parametrize("case", CASES)
def test_fine_tuning_is_that_of_a_loop_by_hand(case):
    network, model, text = wrap(case), create(case), draw_text(3)
    x, t = images(network)
    noise = torch.randn_like(x)
    ours = torch.optim.AdamW(network.parameters(), 1e-2)
    theirs = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(3):
        loss = FlowMatching().loss_at(network, x, text, TrainingDraws(noise, t)).mean()
        loss.backward()
        sigma = (1 - t).view(-1, 1, 1, 1)
        mixed = (1 - sigma) * x + sigma * noise
        by_hand = (call(case, model, mixed, 1 - t, text) - (noise - x)).square().mean()
        by_hand.backward()
        torch.testing.assert_close(loss, by_hand, rtol=1e-4, atol=0)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    names = network.name_in_diffusers
    weights = {names(name): tensor for name, tensor in network.state_dict().items()}
    for name, tensor in model.state_dict().items():
        # Adam turns a rounding of a gradient near zero into a whole step.
        close = (weights[name] - tensor).abs() < 1e-3
        assert close.float().mean() > 0.99, name


@pytest.mark.parametrize("case", CASES)
def test_it_goes_back_to_diffusers_bit_for_bit(case, tmp_path):
    network, before = wrap(case), create(case).state_dict()
    network.to_diffusers().save_pretrained(tmp_path)
    again = type(create(case)).from_pretrained(tmp_path).state_dict()
    assert again.keys() == before.keys()
    assert all(torch.equal(again[name], before[name]) for name in before)


@pytest.mark.parametrize("case", CASES)
def test_it_is_stored_with_all_that_builds_it_again(case, tmp_path):
    network, text = wrap(case), draw_text(2)
    network.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    x, t = images(network, 2)
    assert again.settings == network.settings
    assert torch.equal(again(x, t, text), network(x, t, text))


@pytest.mark.parametrize("case", CASES)
def test_no_sample_sees_another_and_every_part_matters(case):
    network, text = wrap(case), draw_text(3)
    x, t = images(network)
    whole = network(x, t, text)
    one = network(x[1:2], t[1:2], take(text, slice(1, 2)))
    torch.testing.assert_close(whole[1:2], one, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(network(x, 1 - t, text), whole)
    assert not torch.allclose(network(x, t, text._replace(tokens=text.tokens + 1)), whole)
    whole.square().sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None]
    assert not silent


def test_only_prx_leaves_padding_out():
    changed = []
    for case in ("flux", "sd3", "prx"):
        network, text = wrap(case), draw_text(2)
        x, t = images(network, 2)
        tokens = torch.where(text.mask[..., None], text.tokens, 9.0)
        other = network(x, t, text._replace(tokens=tokens))
        changed.append(not torch.equal(other, network(x, t, text)))
    assert changed == [True, True, False]


@pytest.mark.parametrize("case", CASES)
def test_features_after_blocks_lie_on_the_grid(case):
    network, text = wrap(case), draw_text(2)
    x, t = images(network, 2)
    with network.features_after([0, 1]) as found:
        whole = network(x, t, text)
    assert [f.shape for f in found.values()] == [(2, 4, 6, 32)] * 2
    with torch.no_grad():
        c = network.condition(t, text)
        last = network.head(network.trunk(network.stem(x), c), c)
    assert torch.equal(last, whole)
    assert network.feature_width(0) == 32
    with pytest.raises(InputError, match="expected a block from 0"), network.features_after([9]):
        pass


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_computed_again_with_the_same_result(case):
    network, text = wrap(case), draw_text(2)
    x, t = images(network, 2)
    expected = network(x, t, text)
    names = list(network.state_dict())
    assert [m for m in network.modules() if is_block(m)] == network.trunk_blocks
    recompute_blocks(network, "blocks")
    network(x, t, text).sum().backward()
    torch.testing.assert_close(network(x, t, text), expected)
    assert list(network.state_dict()) == names


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flux-distilled", "sd3", "prx"])
def test_compiled_by_blocks_it_predicts_the_same(case, unchecked):
    network, text = wrap(case), draw_text(2)
    x, t = images(network, 2)
    expected = network(x, t, text)
    names = list(network.state_dict())
    compile_blocks(network, backend="eager")
    torch.testing.assert_close(network(x, t, text), expected)
    assert list(network.state_dict()) == names


def test_a_scale_of_guidance_is_told_to_distilled_ones_alone():
    text = draw_text(2)
    for case, told in (("flux", False), ("flux-distilled", True)):
        network = wrap(case)
        x, t = images(network, 2)
        before = network(x, t, text)
        network.embed_text.scale = 5.0
        assert torch.equal(network(x, t, text), before) != told


def test_the_empty_text_is_stored_where_its_length_is_known(tmp_path):
    network = wrap("sd3", text_length=5)
    network.save_pretrained(tmp_path)
    text = load_model(tmp_path).conditions.null(draw_text(2))
    assert torch.equal(text.tokens, draw_text(1, seed=99).tokens.expand(2, -1, -1))
    assert network.to_diffusers().state_dict().keys() == create("sd3").state_dict().keys()
    with pytest.raises(InputError, match="texts 8 and 6 wide for the SD3Transformer2DModel"):
        wrap("sd3", text_width=9)


def test_what_cannot_be_taken_is_refused():
    for settings, words in (
        ({"architecture": "FluxTransformer"}, "did you mean 'FluxTransformer2DModel'"),
        ({"num_classes": 3}, "expected texts for a FluxTransformer2DModel, got 3 classes"),
        ({"in_channels": 3}, "expected 4 channels in model space"),
        ({"options": TINY["flux"][1] | {"out_channels": 4}}, "as many channels out as in"),
        ({"options": {"num_heads": 3}}, "num_heads"),
    ):
        options = {"options": TINY["flux"][1]} | settings
        with pytest.raises(InputError, match=words):
            create_model("diffusers", **options)
    network = wrap("sd3")
    x, t = images(network, 2, (26, 8))
    with pytest.raises(InputError, match="sides of at most 24 in model space"):
        network(x, t, draw_text(2))
    with pytest.raises(InputError, match="features of the empty text"):
        DiffusersNetwork.from_diffusers(create("flux")).conditions.null(draw_text(2))
