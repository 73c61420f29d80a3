"""Every solver by name: it runs on every process it can, and knows its own settings."""

import json
from contextlib import nullcontext
from functools import partial

import pytest
import torch
from torch.utils._pytree import tree_map

from convflow.bench.models import perturb
from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.conditions.labels import Labels
from convflow.models.zoo import create_model
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.samplers.guidance import guide
from convflow.samplers.multistep import CoefficientTable
from convflow.samplers.ode import SCHEMES
from convflow.samplers.solvers import SOLVERS, check_shift, create_solver
from convflow.seeds import draw_noise
from convflow.types import InputError
from tests.cases import TINY, build, build_pyramid

TABLE = CoefficientTable((0.0, 0.3, 1.0), ((1.0,), (-0.5, 1.5)))
CHAINS = ("ddpm", "ddim")
RANDOM = ("euler-maruyama", "stochastic-heun", "ddpm")
SEARCHED = "searched"
NAMES = [name for name in SOLVERS if name not in ("dopri5", "average")]
PAIRS = [(solver, kind) for solver in SOLVERS for kind in ("flow", "ddpm")]
PAIRS += [("average", "meanflow"), ("heun", "meanflow")]


def pipe_of(kind, **settings):
    name = "flowdcn-learned-variance" if kind == "ddpm" else "flowdcn"
    process = create_process(kind, **settings)
    sampling = SamplingConfig(create_solver("euler", steps=4), 1.5)
    model = build(name)
    if process.second_time:
        model = perturb(create_model("flowdcn", **TINY, second_time=True).eval())
    return Pipeline(model, PixelCodec(), (4, 6), sampling=sampling, process=process)


def more(solver):
    return {"table": TABLE} if solver == SEARCHED else {}


@pytest.mark.parametrize(("solver", "kind"), PAIRS)
def test_every_solver_runs_on_every_process_it_can(solver, kind):
    pipe = pipe_of(kind)
    if (kind == "flow" and solver in CHAINS) or (kind != "meanflow" and solver == "average"):
        with pytest.raises(InputError, match=r"model trained with the process (ddpm|meanflow)"):
            pipe.samples(solver=solver)
        return
    reported = []
    samples = pipe.samples(solver=solver, **more(solver))
    pixels = samples.read([0, 1, 2], reported.append)
    assert pixels.shape == (3, 3, 4, 6)
    assert sum(reported) == pytest.approx(3)
    assert pixels.float().std() > 5
    assert json.loads(json.dumps(samples.describe()))["solver"] == solver


@pytest.mark.parametrize("solver", NAMES)
def test_a_picture_depends_on_its_number_alone(solver):
    samples = pipe_of("ddpm").samples(solver=solver, **more(solver))
    together = samples.read([3, 5]).float()
    alone = torch.cat([samples.read([i]) for i in (3, 5)]).float()
    assert (together - alone).abs().max() <= 1
    assert (together[0] - together[1]).abs().max() > 10


@pytest.mark.parametrize("solver", RANDOM)
def test_random_solvers_depend_on_the_seed_at_every_step(solver):
    pipe = pipe_of("ddpm")
    assert not pipe.samples(solver=solver).read([0]).equal(pipe.samples(solver="euler").read([0]))
    assert pipe.samples(solver=solver).read([0]).equal(pipe.samples(solver=solver).read([0]))


DDPM = {"process": "ddpm", "variance": "small"}


@pytest.mark.parametrize("guidance", ["cfg", "cfg-zero"])
@pytest.mark.parametrize(
    ("solver", "settings"),
    [
        *(
            (solver, {"process": "flow"})
            for solver in (*SCHEMES, "euler-maruyama", "dpm++", "unipc")
        ),
        ("euler", {"process": "dfm"}),
        ("euler", DDPM),
        ("ddim", DDPM),
    ],
)
def test_no_step_reads_a_number_back(solver, settings, guidance):
    """As a GPU would have to stop for; on the meta device it is impossible."""
    if (solver, guidance) == ("ddim", "cfg-zero"):
        guidance = "cfg"  # of velocities only
    sampler, process = create_solver(solver, steps=3), create_process(**settings)
    noise = torch.empty(2, 3, 8, 8, device="meta")
    labels = torch.zeros(2, dtype=torch.int64, device="meta")

    def network(x, t, y, active=None):
        return x if settings["process"] == "dfm" else x * t[:, None, None, None]

    def run(**options):
        around = partial(guide, null=Labels(10).null, scale=2.0, kind=guidance, **options)
        return sampler.run(
            process, lambda of: of(network).guided(around), noise, labels, lambda step: noise
        )

    assert run().shape == noise.shape
    with pytest.raises(RuntimeError, match="meta"):
        run(interval=(0.1, 0.9))


@pytest.mark.parametrize(
    ("solver", "kind"),
    [("heun", "flow"), ("ab4", "flow"), (SEARCHED, "flow"), ("euler", "weaker"), ("heun", "dfm")],
)
def test_a_network_may_write_over_its_last_answer(solver, kind):
    """As one compiled to CUDA graphs does; these solvers and autoguidance need several answers."""
    pipe, settings, size = pipe_of("flow"), {"guidance": 1.0, **more(solver)}, (4, 6)
    if kind == "weaker":
        weaker = pipe_of("flow").model
        settings |= {"guidance": 2.0, "guidance_kind": "auto", "weaker": weaker}
    if kind == "dfm":
        sampling, process = SamplingConfig(create_solver("euler", steps=4)), create_process("dfm")
        pipe = Pipeline(build_pyramid(), PixelCodec(), (8, 8), (), sampling, process=process)
        size = (8, 8)
    samples = pipe.samples(solver=solver, size=size, **settings)
    expected, kept = samples.read([0, 1, 2]), {}

    def overwrite(module, inputs, output):
        return tree_map(lambda x: kept.setdefault(x.shape, torch.empty_like(x)).copy_(x), output)

    for model in (pipe.model, settings.get("weaker")):
        if model is not None:
            model.register_forward_hook(overwrite)
    assert samples.read([0, 1, 2]).equal(expected)
    assert kept


@pytest.mark.slow
def test_solvers_agree_in_the_limit_of_many_steps():
    pipe = pipe_of("flow", schedule="cosine", prediction="noise")
    ends = {
        name: pipe.samples(solver=name, steps=200, guidance=1.0).read([0, 1]).float()
        for name in ("euler", "rk4", "ab3", "dpm++", "unipc")
    }
    for name, pixels in ends.items():
        assert (pixels - ends["rk4"]).abs().mean() < 2, name


def test_every_prediction_of_one_field_gives_the_same_pictures():
    """A model of the data is a model of the velocity, told otherwise."""
    pipe = pipe_of("flow")
    velocity = pipe.samples(steps=8, guidance=1.0)
    data = pipe_of("flow", prediction="data").samples(steps=8, guidance=1.0)
    model = velocity.model

    def as_data(x, t, y):
        return x + (1 - t.view(-1, 1, 1, 1)) * model(x, t, y)  # on the straight line

    object.__setattr__(data, "model", Stand(as_data, model))
    assert (velocity.read([0]).float() - data.read([0]).float()).abs().max() <= 1


class Stand(torch.nn.Module):
    def __init__(self, function, model):
        super().__init__()
        self.function, self.inner = function, model
        self.num_classes, self.in_channels = model.num_classes, model.in_channels
        self.learned_variance, self.conditions = model.learned_variance, model.conditions

    def forward(self, x, t, y):
        return self.function(x, t, y)


def state(samples):
    """Where sampling ends, before it becomes levels of an image."""
    noise, y = draw_noise(0, [0, 1], (3, 4, 6)), samples.labels([0, 1])
    return samples.solver.run(
        samples.process, samples.guided, noise, y, lambda step: torch.zeros(1)
    )


@pytest.mark.parametrize(
    "more",
    [{}, {"channels_guided": 1}, {"interval": (0.0, 0.6)}, {"guidance_kind": "cfg-zero"}, "auto"],
    ids=str,
)
@pytest.mark.parametrize(("kind", "solver"), [("flow", "ab2"), ("ddpm", "heun"), ("ddpm", "ddim")])
def test_guidance_of_every_kind(kind, solver, more):
    pipe = pipe_of(kind)
    if more == "auto":
        weaker = pipe_of(kind).model
        with torch.no_grad():
            for p in weaker.parameters():
                p.mul_(0.9)
        more = {"guidance_kind": "auto", "weaker": weaker}
    if solver == "ddim" and more.get("guidance_kind") == "cfg-zero":
        with pytest.raises(InputError, match="cfg-zero is for velocities"):
            pipe.samples(solver=solver, guidance=3.0, **more)
        return
    plain = state(pipe.samples(solver=solver, guidance=1.0))
    guided = state(pipe.samples(solver=solver, guidance=3.0, **more))
    assert guided.isfinite().all()
    changed = (guided - plain).abs().amax((0, 2, 3)) > 1e-3
    assert changed[0]


@pytest.mark.parametrize("solver", ["euler", "heun", "ab2", "ab4", "adams2", "dpm++"])
@pytest.mark.parametrize(("steps", "moved"), [(10, 0.9), (50, 0.96)])
def test_zero_star_leaves_out_the_first_steps_of_every_solver(solver, steps, moved):
    pipe = pipe_of("flow")
    samples = pipe.samples(solver=solver, steps=steps, guidance=2.0, guidance_kind="cfg-zero")
    times = []

    def network(x, t, y):
        times.append(t[0].item())
        return torch.ones_like(x)

    object.__setattr__(samples, "model", Stand(network, pipe.model))
    noise, y = torch.zeros(2, 3, 4, 6), torch.tensor([0, 1])
    end = samples.solver.run(samples.process, samples.guided, noise, y, torch.zeros)
    assert min(times) >= 0.04 - 1e-6
    torch.testing.assert_close(end, torch.full_like(end, moved), atol=1e-4, rtol=0)
    for none in ({"guidance": 1.0}, {"interval": (0.1, 1.0)}):
        assert pipe.samples(guidance_kind="cfg-zero", **none).velocity().begin == 0


def test_a_weaker_model_is_asked_only_where_it_answers_alike():
    pipe, strange = pipe_of("flow"), pipe_of("flow", prediction="data")
    with pytest.raises(InputError, match="process prediction velocity, as the other has, got data"):
        pipe.samples(guidance_kind="auto", weaker=strange)
    with pytest.raises(InputError, match="process kind flow, as the other has, got ddpm"):
        pipe.samples(guidance_kind="auto", weaker=pipe_of("ddpm"))
    with pytest.raises(InputError, match=r"5 classes too, got one of 3 .* and 0"):
        pipe.samples(guidance_kind="auto", weaker=build("flowdcn-no-classes"))
    same = pipe.samples(guidance_kind="auto", weaker=pipe_of("flow", times="logit-normal"))
    assert same.weaker is not None


def test_what_is_given_and_means_nothing_is_refused():
    pipe = pipe_of("flow")
    with pytest.raises(InputError, match="dopri5 has no steps"):
        pipe.samples(solver="dopri5", steps=7)
    with pytest.raises(InputError, match="steps 2 as in the table, got 50"):
        pipe.samples(solver=SEARCHED, table=TABLE, steps=50)
    with pytest.raises(InputError, match=r"at most 3 guided channels, .*, got 5"):
        pipe.samples(channels_guided=5)
    plain = Pipeline(build("flowdcn-no-classes"), PixelCodec(), (4, 6))
    assert plain.samples().guidance == 1  # the default scale means nothing here
    with pytest.raises(InputError, match="guidance 1 for a model without classes"):
        plain.samples(guidance=4.0)
    with pytest.raises(InputError, match="guidance: expected a finite number"):
        plain.samples(guidance=float("nan"))


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "euler", "heun", "euler-maruyama", "dpm++"])
def test_half_precision_noise_is_told_the_right_times(solver):
    samples = pipe_of("ddpm").samples(
        solver=solver, steps=1000 if solver in CHAINS else 20, guidance=1.0
    )

    def asked(dtype):
        times = []

        def network(x, t, y):
            times.append(t[0].item())
            return torch.zeros(len(x), 6, *x.shape[2:], dtype=x.dtype)

        samples.solver.run(
            samples.process,
            lambda field_of: field_of(network),
            torch.zeros(1, 3, 4, 6, dtype=dtype),
            torch.zeros(1, dtype=torch.int64),
            lambda step: torch.zeros(1, 3, 4, 6),
        )
        return times

    assert asked(torch.bfloat16) == asked(torch.float32)


def test_autoguidance_needs_a_weaker_model():
    with pytest.raises(InputError, match="expected a weaker model"):
        pipe_of("flow").samples(guidance_kind="auto", guidance=2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"solver": "eular"}, "unknown solver 'eular'; did you mean 'euler'"),
        ({"eta": 0.5}, "the solver euler has no eta; leave it out, or choose ddim"),
        ({"diffusion": "sbdm"}, "has no diffusion"),
        ({"solver": "dopri5", "last_step": 0.04}, "dopri5 has no last-step"),
        ({"solver": "dopri5", "steps": 7}, "dopri5 has no steps"),
        ({"solver": "ddpm", "shift": 1.0}, "ddpm has no shift"),
        ({"solver": "ddpm", "thresholds": (0.9,)}, "ddpm has no thresholds"),
        ({"stage_steps": (30, 20, 1)}, r"stage-steps that sum up to 50 steps, got \[30, 20, 1\]"),
        ({"solver": SEARCHED, "steps": 50, "table": TABLE}, "steps 2 as in the table, got 50"),
        ({"table": TABLE}, "the solver euler has no table; leave it out, or choose searched"),
        ({"steps": 0}, "expected a whole number of at least 1"),
        ({"steps": 2.5}, "steps: expected a whole number, got '2.5'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        create_solver(**settings)


def test_a_description_holds_what_matters_and_no_more():
    flow = create_process("flow")
    assert create_solver("euler", steps=7).describe(flow) == {
        "solver": "euler", "steps": 7, "shift": 1.0, "last_step": None
    }  # fmt: skip
    assert create_solver("dopri5").describe(flow) == {
        "solver": "dopri5", "steps": None, "atol": 1e-6, "rtol": 1e-3
    }  # fmt: skip
    searched = create_solver(SEARCHED, table=TABLE).describe(flow)
    assert searched["steps"] == 2
    assert searched["table"]["times"] == [*TABLE.times]
    assert set(SCHEMES) < set(SOLVERS)


def test_a_shift_needs_a_grid_of_times():
    flow = create_process("flow")
    for name in SOLVERS:
        fits = name not in ("dopri5", "ddpm", "ddim", "searched")
        with nullcontext() if fits else pytest.raises(InputError, match=f"the solver {name} and"):
            check_shift(create_solver(name), flow)
    with pytest.raises(InputError, match="the solver euler and the process dfm"):
        check_shift(create_solver("euler"), create_process("dfm"))
