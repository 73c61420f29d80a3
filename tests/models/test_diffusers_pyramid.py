"""Scales around a transformer of diffusers begin as the transformer that was trained on one."""

import diffusers
import pytest
import torch

from convflow.models.pyramid import Pyramid
from convflow.processes.decomposition import mean_down, nearest_up
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.guidance import guide
from convflow.samplers.solvers import create_solver
from tests.transformers import EMPTY_SEED, GUIDANCE, TINY, create, draw_text, pack, unpack, wrap

CASES = ["flux", "flux-distilled", "sd3", "prx"]


def run(network, process, noise, text, scale=1.0, **solver):
    def guided(field_of):
        return field_of(network).guided(
            lambda predict, clock: guide(predict, network.conditions.null, scale, clock=clock)
        )

    def more(step):
        return torch.randn(noise.shape, generator=torch.Generator().manual_seed(step))

    return create_solver("euler", **solver).run(process, guided, noise, text, more)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("factors", [(2,), (2, 2)])
def test_the_first_stage_predicts_what_the_transformer_does(case, factors):
    network, text = wrap(case), draw_text(2)
    model = Pyramid.from_backbone(network, factors)
    torch.manual_seed(0)
    by = model.downsampling[0]
    coarse, t = torch.randn(2, 4, 16 // by, 24 // by), torch.rand(2)
    expected = mean_down(network(nearest_up(coarse, by), t, text), by)
    (first,) = model([coarse], t[:, None], text)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    scales = [torch.randn(2, 4, 16 // s, 24 // s) for s in model.downsampling]
    scales[0] = coarse
    times = torch.cat([t[:, None], torch.rand(2, len(factors))], 1)
    first, *others = model(scales, times, text)
    torch.testing.assert_close(first, expected, rtol=1e-4, atol=1e-5)
    assert all(not other.any() for other in others)


@pytest.mark.parametrize("case", CASES)
def test_every_part_of_every_scale_learns(case):
    model, text = Pyramid.from_backbone(wrap(case)), draw_text(3)
    process, data = MultiscaleFlow(), torch.randn(3, 4, 8, 12)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for seed in range(4):
        draws = process.draw(tuple(data.shape), torch.Generator().manual_seed(seed))
        process.loss_at(model, data, text, draws._replace(active=torch.tensor([1, 2, 2]))).sum(
        ).backward()  # fmt: skip
        optimizer.step()
        optimizer.zero_grad()
    still = [n for n, p in model.named_parameters() if torch.equal(p, before[n])]
    assert all("add_q_proj" in name for name in still), still


def pipeline_of(model):
    parts = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    pipe = diffusers.FluxPipeline(scheduler=scheduler, transformer=model, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def sample_with_diffusers(model, noise, text, steps):
    height, width = noise.shape[2:]
    packed = diffusers.FluxPipeline._pack_latents(noise, len(noise), 4, height, width)
    assert torch.equal(packed, pack(noise))
    found = pipeline_of(model)(
        prompt_embeds=text.tokens,
        pooled_prompt_embeds=text.pooled,
        latents=packed,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
        height=8 * height,
        width=8 * width,
        output_type="latent",
    ).images
    return unpack(found, height, width)


@pytest.mark.parametrize("case", ["flux", "flux-distilled"])
def test_it_samples_what_the_pipeline_of_diffusers_samples(case):
    torch.manual_seed(0)
    noise, text = torch.randn(2, 4, 8, 12), draw_text(2)
    expected = sample_with_diffusers(create(case), noise, text, 5)
    ours = run(wrap(case), FlowMatching(), noise, text, steps=5)
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)


def test_a_run_of_one_stage_gives_what_the_pipeline_of_diffusers_gives():
    """Of a transformer that predicts one number for the 2x2 cells of a patch and channel, for
    images of such cells stay such images: only these have a coarse twin."""

    def coarse(model):
        with torch.no_grad():
            for tensor in (model.proj_out.weight, model.proj_out.bias):
                tensor.copy_(
                    tensor.unflatten(0, (-1, 4))[:, :1].repeat_interleave(4, 1).flatten(0, 1)
                )
        return model

    torch.manual_seed(0)
    noise, text = torch.randn(2, 4, 4, 6), draw_text(2)
    expected = sample_with_diffusers(coarse(create("flux")), nearest_up(noise, 2), text, 5)
    network = wrap("flux")
    weights = coarse(network.to_diffusers()).proj_out.state_dict()
    network.project.layers.out.load_state_dict(weights)
    model, process = Pyramid.from_backbone(network), MultiscaleFlow(decomposition="haar")
    fine = torch.randn(2, 4, 8, 12)
    fine.flatten(2)[..., : 4 * 6].copy_(noise.flatten(2))  # of which the first numbers are used
    ours = run(model, process, fine, text, steps=6, stage_steps=(5, 1), stop_scale=1)
    assert ours.shape == noise.shape
    torch.testing.assert_close(nearest_up(ours, 2), expected, rtol=1e-3, atol=1e-4)


def test_stages_take_guidance_by_the_empty_text_and_by_the_scale_that_is_told():
    torch.manual_seed(0)
    text, noise, process = draw_text(2), torch.randn(2, 4, 8, 12), MultiscaleFlow()
    model = Pyramid.from_backbone(wrap("flux-distilled"))
    model.inner.parts.label.know_empty(draw_text(1, seed=EMPTY_SEED))
    plain = run(model, process, noise, text, steps=4)
    assert plain.shape == noise.shape
    assert not torch.allclose(run(model, process, noise, text, 3.0, steps=4), plain)
    model.backbone.embed_text.scale = 1.0
    assert not torch.allclose(run(model, process, noise, text, steps=4), plain)
    empty = model.conditions.null(text)
    unguided = run(model, process, noise, empty, steps=4)
    assert torch.allclose(run(model, process, noise, empty, 3.0, steps=4), unguided, atol=1e-4)


def test_tokens_of_all_scales_have_the_positions_of_the_whole_image(monkeypatch):
    seen = []
    network, text = wrap("flux"), draw_text(1)
    model = Pyramid.from_backbone(network)
    known = network.positions.forward
    monkeypatch.setattr(
        model.backbone.positions, "forward", lambda ids: seen.append(ids) or known(ids)
    )
    t = torch.rand(1, 2)
    model([torch.randn(1, 4, 4, 6)], t[:, :1], text)
    model([torch.randn(1, 4, 4, 6), torch.randn(1, 4, 8, 12)], t, text)
    assert torch.equal(seen[0], seen[1])
    assert seen[0][-1].tolist() == [0, 3, 5]
    assert TINY["flux"][1]["in_channels"] == 16
