"""Networks that are told texts."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map

from convflow.bench.models import perturb
from convflow.conditions.labels import cat, count, take
from convflow.models.cost import measure_cost
from convflow.models.export import export_onnx, export_program
from convflow.models.zoo import create_model, describe_settings, load_model, settings_of
from convflow.nn.attention import CrossAttention
from convflow.processes.meanflow import MeanFlow
from convflow.samplers.guidance import guide
from convflow.types import InputError
from tests.cases import TINY, TINY_DICO, TINY_DIT, TOLD_FEATURES, TOLD_WORDS, asked

FAMILIES = {"flowdcn": TINY, "sit": TINY_DIT, "dico": TINY_DICO, "fcdm": TINY_DICO}
TOLD = {"features": TOLD_FEATURES, "words": TOLD_WORDS}


def build(family="sit", told="words", **more):
    torch.manual_seed(3)
    return perturb(create_model(family, **FAMILIES[family] | TOLD[told] | more).eval())


def inputs(model, batch=3):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, 3, 8, 8, generator=generator)
    return x, torch.rand(batch, generator=generator), asked(model, batch, generator)


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_network_is_the_same_function_without_attention_to_tokens(family, told):
    model = build(family, told)
    for module in model.modules():
        if isinstance(module, CrossAttention):
            for parameter in module.out.parameters():
                torch.nn.init.zeros_(parameter)
    other = create_model(family, **FAMILIES[family] | TOLD[told] | {"cross_attention": 0})
    weights = model.state_dict()
    other.load_state_dict({name: weights[name] for name in other.state_dict()})
    given = inputs(model)
    torch.testing.assert_close(model(*given), other.eval()(*given))


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_never_changes_the_prediction(family):
    model = build(family, "features")
    x, t, text = inputs(model)
    noise = torch.where(text.mask[..., None], text.tokens, 1e3 * torch.randn(text.tokens.shape))
    torch.testing.assert_close(model(x, t, text._replace(tokens=noise)), model(x, t, text))


@pytest.mark.parametrize("family", FAMILIES)
def test_more_room_for_tokens_changes_nothing(family):
    short, long = build(family), build(family, text_length=9)
    weights = short.state_dict()
    places = next(name for name in weights if name.endswith("places"))
    longer = long.state_dict()[places].clone()
    longer[:4] = weights[places]
    long.load_state_dict(weights | {places: longer})
    x, t, ids = inputs(short)
    torch.testing.assert_close(
        long(x, t, torch.nn.functional.pad(ids, (0, 5))), short(x, t, ids), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_of_the_text_matters(family, told):
    model = build(family, told)
    x, t, text = inputs(model)
    first = model(x, t, text)
    if told == "words":
        others = [torch.where(text > 0, text % 17 + 2, text)]
    else:
        swapped = text._replace(tokens=text.tokens * text.mask[..., None] + 1.0 * text.tokens**2)
        others = [text._replace(pooled=-text.pooled), swapped]
    for other in others:
        assert not torch.allclose(model(x, t, other), first)


def test_a_text_without_tokens_gives_numbers():
    model = build(told="features")
    x, t, text = inputs(model)
    assert model(x, t, text._replace(mask=torch.zeros_like(text.mask))).isfinite().all()


@pytest.mark.parametrize("told", TOLD)
def test_guidance_pulls_away_from_the_empty_text(told):
    model = build(told=told)
    if told == "features":
        empty = tree_map(lambda part: part[:1], inputs(model)[2])
        model.parts.label.know_empty(empty._replace(pooled=empty.pooled + 1))
    x, t, text = inputs(model)
    null = model.conditions.null(text)
    weak, strong = model(x, t, null), model(x, t, text)
    found = guide(model, model.conditions.null, 2.0)(x, t, text)
    torch.testing.assert_close(found, weak + 2 * (strong - weak), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weak, strong)


def test_the_empty_text_is_stored_with_the_weights(tmp_path):
    model = build(told="features")
    model.parts.label.know_empty(tree_map(lambda part: part[:1], inputs(model)[2]))
    model.save_pretrained(tmp_path)
    again = load_model(tmp_path)
    given = inputs(model)
    for one, other in zip(again.conditions.empty, model.conditions.empty, strict=True):
        assert one.equal(other)
    torch.testing.assert_close(again(*given), model(*given))


@pytest.mark.parametrize("told", TOLD)
def test_a_pyramid_hands_the_text_on(told):
    backbone = {"family": "dico", **TINY_DICO, **TOLD[told]}
    model = perturb(create_model("pyramid", backbone=backbone, factors=[2]).eval())
    assert model.takes_text
    assert model.conditional
    x, _, text = inputs(model)
    scales, times = [x[:, :, ::2, ::2], x], torch.rand(3, 2)
    other = model.conditions.null(text)
    ours, theirs = (model(scales, times, y) for y in (text, other))
    assert not any(torch.allclose(a, b) for a, b in zip(ours, theirs, strict=True))


def test_average_velocities_are_guided_by_the_empty_text():
    process = MeanFlow(guidance=2.0, mixture=0.5, apart=0.5)
    model = build(second_time=True)
    x, _, text = inputs(model)
    draws = process.draw(tuple(x.shape), torch.Generator().manual_seed(0))
    loss = process.loss_at(model, x, text, draws, null=model.conditions.null)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert model.parts.label.reader.table.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("told", TOLD)
def test_an_exported_program_takes_texts(told, unchecked):
    model = build(told=told)
    program = export_program(model).module()
    given = inputs(model, batch=2)
    torch.testing.assert_close(program(*given), model(*given), rtol=1e-4, atol=1e-4)


def test_no_onnx_file_takes_texts(tmp_path):
    with pytest.raises(InputError, match="told class labels for an ONNX file"):
        export_onnx(build(), tmp_path / "a.onnx")


@pytest.mark.parametrize("told", TOLD)
def test_conditions_are_counted_taken_and_joined(told):
    model = build(told=told)
    text = inputs(model)[2]
    assert count(text) == 3
    assert count(cat([text, take(text, slice(1, 3))])) == 5


def test_cost_and_features_are_known_without_a_text():
    small = measure_cost(lambda: build(cross_attention=0), (8, 8))
    large = measure_cost(build, (8, 8))
    assert large.parameters > small.parameters
    assert large.gmacs > small.gmacs
    assert build().feature_width(0) == TINY_DIT["width"]


@pytest.mark.slow
def test_the_page_states_what_is_counted():
    """The table of docs/text.md, its first row; the others are made by the same command."""
    clip = {"num_classes": 0, "text_width": 768, "pooled_width": 768, "text_length": 77}
    words = {"num_classes": 0, "text_width": 192, "text_length": 32, "text_rows": 4096}
    settings = [{}, clip, clip | {"cross_attention": 2}, clip | {"cross_attention": 1}]
    settings.append(words | {"text_depth": 2, "cross_attention": 2})
    page = (Path(__file__).parents[2] / "docs/text.md").read_text(encoding="utf-8")
    (row,) = (line for line in page.splitlines() if line.startswith("| flowdcn-s/2"))
    costs = [
        measure_cost(partial(create_model, "flowdcn-s/2", **s), (256, 256), 1, 8) for s in settings
    ]
    found = [f"{cost.parameters / 1e6:.2f} M, {cost.gmacs:.3f}" for cost in costs]
    assert [cell.strip() for cell in row.split("|")[2:-1]] == found


def test_settings_of_texts_are_described_and_belong_together():
    assert settings_of("dico")["cross_attention"] == 0
    assert "attend to the tokens" in describe_settings("dico")["cross_attention"]
    for wrong in ({"cross_attention": 2}, {"text_rows": 30}, {"text_width": 8}):
        with pytest.raises(InputError, match="text"):
            create_model("sit", **TINY_DIT | wrong)


def test_attention_to_tokens_stands_in_every_so_many_blocks_from_the_last():
    model = create_model("sit", **TINY_DIT | TOLD_WORDS | {"depth": 5, "cross_attention": 2})
    assert [block.cross is not None for block in model.blocks] == [True, False, True, False, True]
