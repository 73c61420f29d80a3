"""Every process, sampler, guidance and codec at rectangles, larger and smaller than in training.

Two arguments make these tests exact. An image of mirror images that meet edge to edge looks the
same from each of them, so what is asked at every cell alike must answer with mirror images. And a
network has no size of its own, so a pipeline that was trained at a size makes the same images
there as one that was not.
"""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

from convflow.bundle.config import SamplingConfig
from convflow.codecs import LatentCodec, PixelCodec
from convflow.conditions.labels import Labels
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.decomposition import pack, unpack
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.process import create_process
from convflow.samplers.exponential import EXPONENTIAL_SOLVERS
from convflow.samplers.guidance import GUIDANCE_KINDS, guide
from convflow.samplers.multistep import CoefficientTable
from convflow.samplers.ode import SCHEMES
from convflow.samplers.search import TeacherBatch, error_of
from convflow.samplers.solvers import SOLVERS, create_solver
from convflow.types import InputError
from tests.cases import (
    CODECS,
    MULTISCALE,
    NUM_CLASSES,
    PROCESSES,
    TINY,
    build,
    build_pyramid,
    perturb,
)
from tests.processes.staged import integrate_staged
from tests.tolerance import assert_close_rms

ALL_PROCESSES = PROCESSES | MULTISCALE
TABLE = CoefficientTable((0.0, 0.3, 1.0), ((1.0,), (-0.5, 1.5)))


def mirrored(x):
    """Twice as tall and three times as wide: mirror images that meet edge to edge."""
    tall = torch.cat([x, x.flip(-2)], -2)
    return torch.cat([tall, tall.flip(-1), tall], -1)


def mirrored_scales(packed, sizes):
    return pack([mirrored(scale) for scale in unpack(packed, sizes)])


def local(channels=3):
    """A network that looks at every number by itself, at its time and its label."""

    def network(x, t, y):
        first = torch.tanh(x * (1 + 0.1 * y.view(-1, 1, 1, 1)) + 0.01 * t.view(-1, 1, 1, 1))
        return torch.cat([first, first.sin()], 1)[:, :channels]

    return network


def local_scales(scales, t, y, active=None):
    pairs = zip(scales, t.unbind(1), strict=True)
    return tuple(local()(x, time, y) for x, time in pairs)


def normal(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


@pytest.mark.parametrize("case", ALL_PROCESSES)
def test_the_loss_of_mirror_images_is_that_of_one(case):
    """It is a mean, as large at every size."""
    process, data, y = ALL_PROCESSES[case], normal(4, 3, 8, 16), torch.tensor([0, 1, 4, 5])
    draws = process.draw(tuple(data.shape), torch.Generator().manual_seed(1))
    if isinstance(process, MultiscaleFlow):
        network, noise = local_scales, mirrored_scales(draws.noise, process.sizes((8, 16)))
    else:
        network, noise = local(6 if process.learned_variance else 3), mirrored(draws.noise)
    one = process.loss_at(network, data, y, draws)
    assert (one > 0).all()
    assert_close_rms(process.loss_at(network, mirrored(data), y, draws._replace(noise=noise)), one)


@pytest.mark.parametrize("case", MULTISCALE)
def test_scales_are_split_alike_at_every_size(case):
    process, data = MULTISCALE[case], normal(2, 3, 8, 16)
    small, large = (process.sizes(size) for size in ((8, 16), (16, 48)))
    assert [(2 * h, 3 * w) for h, w in small] == list(large)
    parts = process.split(data)
    assert_close_rms(process.split(mirrored(data)), mirrored_scales(parts, small))
    assert_close_rms(process.join(mirrored_scales(parts, small), (16, 48)), mirrored(data))


SEARCHED, ANCESTRAL_SOLVERS = "searched", ("ddpm", "ddim")
SHARED = [name for name in SOLVERS if name not in (*ANCESTRAL_SOLVERS, "average")]
RUNS = [
    *(("flow", solver, "cfg") for solver in SHARED),
    *(("ddpm", solver, "cfg") for solver in (*SHARED, *ANCESTRAL_SOLVERS)),
    *(("flow", "ab3", kind) for kind in GUIDANCE_KINDS if kind != "cfg"),
    *(("ddpm", solver, "auto") for solver in ("heun", *ANCESTRAL_SOLVERS)),
]


def guidance(kind):
    weaker = {"weaker": lambda x, t, y: 0.5 * local()(x, t, y)} if kind == "auto" else {}
    return {"null": Labels(NUM_CLASSES).null, "scale": 2.0, "kind": kind, **weaker}


@pytest.mark.parametrize(("kind", "solver", "guided"), RUNS)
def test_a_picture_of_mirror_images_is_sampled_as_one_of_them(kind, solver, guided):
    process = FlowMatching(schedule="cosine") if kind == "flow" else DDPM("small")
    settings = {"dopri5": {}, SEARCHED: {"table": TABLE}, "ddim": {"steps": 6, "eta": 0.5}}
    sampler = create_solver(solver, **settings.get(solver, {"steps": 6}))
    noise, y = normal(2, 3, 2, 3), torch.tensor([1, 4])
    draws = normal(7, 2, 3, 2, 3)

    def run(change):
        return sampler.run(
            process,
            lambda field_of: field_of(local()).guided(partial(guide, **guidance(guided))),
            change(noise),
            y,
            lambda step: change(draws[step]),
        )

    one = run(lambda x: x)
    # diffusers rounds its numbers to float32.
    dtype = torch.float32 if solver in EXPONENTIAL_SOLVERS else torch.float64
    assert not one[0].equal(one[1])
    assert_close_rms(run(mirrored), mirrored(one), dtype)


STAGED = [*(("dfm-dct", solver) for solver in SCHEMES), *((case, "euler") for case in MULTISCALE)]


@pytest.mark.parametrize(("case", "solver"), STAGED)
def test_scales_of_mirror_images_are_sampled_as_those_of_one(case, solver):
    process, y = MULTISCALE[case], torch.tensor([1, 4])
    stages, sizes = create_solver(solver, steps=8).stages(process), process.sizes((8, 16))
    noise = normal(2, 3, 1, sum(h * w for h, w in sizes))
    kinds = ["cfg", "cfg-zero"] if solver == "euler" else ["cfg"]

    def run(noise, size, kind):
        state = integrate_staged(
            local_scales,
            noise,
            y,
            process.sizes(size),
            stages,
            solver,
            **guidance(kind),
        )
        return process.join(state, size)

    for kind in kinds:
        one = run(noise, (8, 16), kind)
        assert_close_rms(run(mirrored_scales(noise, sizes), (16, 48), kind), mirrored(one))


def test_the_error_of_a_table_is_the_same_share_at_every_size():
    batch = TeacherBatch(normal(2, 3, 2, 3), torch.tensor([1, 4]), normal(2, 3, 2, 3))
    large = TeacherBatch(mirrored(batch.noise), batch.labels, mirrored(batch.goal))
    errors = [error_of(local(), [one], TABLE.times, TABLE.solver) for one in (batch, large)]
    assert errors[0] > 0
    assert errors[1] == pytest.approx(errors[0], rel=1e-12)


TRAINED, LARGER, SMALLER = (3, 2), (4, 5), (2, 1)
"""Heights and widths in multiples of a pipeline."""


@pytest.fixture
def pipe_of(autoencoder):
    """Return a function from a kind and a trained size, in multiples, to a pipeline."""

    def create(kind, size):
        torch.manual_seed(0)  # the weights of every pipeline are the same
        codec, settings = PixelCodec(), {}
        if kind == "latent":
            codec = LatentCodec(autoencoder)
            model = perturb(create_model("flowdcn", **TINY | {"in_channels": 4}).eval())
        elif kind in MULTISCALE:
            process = MULTISCALE[kind]
            model = build_pyramid(process.factors)
            settings = {
                "decomposition": process.decomposition,
                "factors": process.factors,
                "deviations": process.deviations,
            }
        else:
            model = build("flowdcn-learned-variance" if kind == "ddpm" else "flowdcn")
        name = "dfm" if kind in MULTISCALE else "ddpm" if kind == "ddpm" else "flow"
        sampling = SamplingConfig(create_solver("euler", steps=4), 1.5)
        process = create_process(name, **settings)
        pipe = Pipeline(model, codec, (1, 1), sampling=sampling, process=process)
        pipe.size = size[0] * pipe.multiple, size[1] * pipe.multiple
        return pipe

    return create


ONE_OF_EACH = {cls: solver for solver, cls in SOLVERS.items()}.values()
"""A solver of each class; the others of a class have other numbers alone."""

PIPELINES = [
    *(("flow", {"solver": solver}) for solver in ONE_OF_EACH if solver in SHARED),
    *(("ddpm", {"solver": solver}) for solver in (*ANCESTRAL_SOLVERS, "heun", "unipc")),
    *((case, {"solver": "ab2"}) for case in MULTISCALE),
    ("dfm", {"guidance_kind": "cfg-zero"}),
    ("flow", {"guidance_kind": "cfg-zero"}),
    ("flow", {"guidance_kind": "auto"}),
    ("ddpm", {"guidance_kind": "auto", "solver": "ddim"}),
    ("latent", {"solver": "heun"}),
    ("latent", {"guidance_kind": "auto"}),
]


SIZED = [
    *((LARGER, kind, options) for kind, options in PIPELINES),
    *((SMALLER, kind, {"solver": "ab2"}) for kind in ("flow", "dfm-haar", "latent")),
    (SMALLER, "ddpm", {"solver": "ddim"}),
]


@pytest.mark.parametrize(("size", "kind", "options"), SIZED, ids=str)
def test_a_size_that_was_not_trained_at_changes_no_sampler(size, kind, options, pipe_of):
    there, elsewhere = pipe_of(kind, size), pipe_of(kind, TRAINED)
    options = options | ({"table": TABLE} if options.get("solver") == SEARCHED else {})
    if options.get("guidance_kind") == "auto":
        options = options | {"weaker": weaker_of(there)}
    samples = elsewhere.samples(size=there.size, **options)
    pixels = samples.read([0, 1])
    assert pixels.shape == (2, 3, *there.size)
    assert samples.describe()["size"] == list(there.size)
    assert pixels.float().std() > 5
    assert pixels.equal(there.samples(**options).read([0, 1]))
    described, known = (json.dumps(s.describe()) for s in (samples, there.samples(**options)))
    assert described == known


def weaker_of(pipe):
    """Another network of the same images: half of every weight."""
    settings = dict(pipe.model.settings)
    weaker = create_model(settings.pop("family"), **settings)
    weaker.load_state_dict({n: 0.5 * t for n, t in pipe.model.state_dict().items()})
    return weaker


def test_the_size_of_a_weaker_model_is_looked_at_before_the_first_picture(pipe_of):
    """A DiCo takes multiples of 4, of cells in latents."""
    for kind, cell in (("flow", 1), ("latent", 8)):
        pipe = pipe_of(kind, (4, 4))
        dico = create_model(
            "dico", in_channels=pipe.model.in_channels, num_classes=NUM_CLASSES, width=8
        )
        options = {"guidance_kind": "auto", "guidance": 2.0, "weaker": dico}
        pipe.samples(size=(4 * cell, 8 * cell), **options)
        message = f"weaker model takes, multiples of {4 * cell}, got {4 * cell}x{6 * cell}; .* is"
        with pytest.raises(InputError, match=message):
            pipe.samples(size=(4 * cell, 6 * cell), **options)


@pytest.mark.parametrize("size", [(1, 7), (5, 3), (16, 2)])
@pytest.mark.parametrize("codec", CODECS)
def test_pictures_of_any_size_come_back_from_pixels(codec, size):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=generator)
    x = CODECS[codec].encode(images)
    assert x.shape == images.shape
    assert CODECS[codec].decode(x).equal(images)
