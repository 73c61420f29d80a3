"""A series of samples: each image depends on the settings and its number alone."""

import json

import pytest
import torch

from convflow import distributed, generate
from convflow.bundle.config import SamplingConfig
from convflow.codecs import LatentCodec, PixelCodec
from convflow.models.zoo import create_model
from convflow.nn.positions import PositionScaling
from convflow.nn.reach import ReachSchedule
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.samplers.solvers import create_solver
from convflow.types import InputError
from tests.cases import MODELS, TINY_DIT, build, perturb


@pytest.fixture
def pipe():
    return Pipeline(
        build("flowdcn"),
        PixelCodec(),
        (4, 6),
        (),
        SamplingConfig(create_solver("euler", steps=2), 1.5),
    )


def test_reading_makes_the_pictures_of_the_pipeline(pipe):
    samples = pipe.samples(seed=3, size=(8, 4))
    apart = torch.cat([samples.read(range(2, 5)), samples.read([0, 1])])
    assert apart.equal(pipe(num=5, seed=3, size=(8, 4)).pixels[[2, 3, 4, 0, 1]])


def test_progress_adds_up_to_the_number_of_pictures(pipe):
    reported = []
    pipe.samples(steps=4).read(range(3), reported.append)
    assert len(reported) == 4
    assert sum(reported) == pytest.approx(3)


def test_balanced_labels_come_in_turn(pipe):
    assert pipe.samples().labels(range(3, 8)).tolist() == [3, 4, 0, 1, 2]
    assert pipe.samples([4, 1]).labels(range(3)).tolist() == [4, 1, 4]


def test_random_labels_depend_on_seed_and_number_alone(pipe):
    samples = pipe.samples([1, 3, None], label_policy="random")
    labels = samples.labels(range(300))
    assert set(labels.tolist()) == {1, 3, 5}
    assert torch.bincount(labels).max() < 130
    assert samples.labels([7, 250]).equal(labels[[7, 250]])
    other = pipe.samples([1, 3, None], label_policy="random", seed=1).labels(range(300))
    assert not labels.equal(other)


def test_the_description_changes_with_every_setting(pipe):
    plain = pipe.samples()
    text = json.dumps(plain.describe())
    changed = [
        pipe.samples(**{name: value}).describe()
        for name, value in {
            "labels": [0], "size": 8, "steps": 3, "guidance": 2.0, "interval": (0.1, 1.0),
            "solver": "heun", "seed": 1, "shift": 2.0, "last_step": 0.04,
            "label_policy": "random", "precision": "bfloat16", "reach": 3.0,
        }.items()
    ]  # fmt: skip
    assert len({text, *map(json.dumps, changed)}) == 13
    assert plain.describe()["labels"] == {"policy": "balanced", "classes": "all"}


def test_bfloat16_is_near_but_not_the_same(pipe):
    exact, half = (
        pipe.samples(precision=p).read(range(4)).float() for p in ("float32", "bfloat16")
    )
    assert 0 < (exact - half).abs().mean() < 2


def test_weights_are_cast_once_for_all_steps(pipe, monkeypatch):
    seen = []
    monkeypatch.setattr(generate, "cast_weights", lambda model: seen.append(model) or model)
    plain = pipe.samples(precision="bfloat16", steps=3).read(range(2))
    assert seen == [pipe.model]
    monkeypatch.undo()
    assert pipe.samples(precision="bfloat16", steps=3).read(range(2)).equal(plain)


@pytest.mark.parametrize(("fast", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_auto_precision_is_that_of_the_hardware(pipe, monkeypatch, fast, precision):
    monkeypatch.setattr(distributed, "has_fast_bfloat16", lambda _: fast)
    assert pipe.samples(precision="auto").precision == precision
    assert pipe.samples().precision == "float32"


def test_a_model_that_gives_nan_is_named_with_the_sample(pipe, monkeypatch):
    def broken(x, t, y):
        return torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) == 1, torch.nan, x)

    monkeypatch.setattr(pipe.model, "forward", broken)
    with pytest.raises(InputError, match="NaN or infinity for sample 6"):
        pipe.samples(guidance=1.0).read(range(5, 8))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"label_policy": "balance"}, "label_policy: expected balanced or random, got 'balance'"),
        (
            {"precision": "float16"},
            "precision: .* got 'float16'; did you mean 'bfloat16'",
        ),
        ({"solver": "hoin"}, "unknown solver"),
        ({"stepss": 3}, "unknown option 'stepss'; did you mean 'steps'"),
    ],
)
def test_unknown_words_are_refused(pipe, bad, message, unchecked):
    with pytest.raises(InputError, match=message):
        pipe.samples(**bad)


def sizes(case, process="flow", **sampling):
    """A pipeline of networks trained on images of 8x8, of ten blocks where they are FlowDCN."""
    family, settings = MODELS[case]
    model = perturb(create_model(family, **settings | {"depth": 10}).eval())
    kind = create_process(process, **({"variance": "small"} if process == "ddpm" else {}))
    settings = SamplingConfig().varied(kind, **{"steps": 3, **sampling})
    return Pipeline(model, PixelCodec(), (8, 8), (), settings, process=kind)


CHANGES = [
    ("flowdcn", "flow", {"reach": "auto"}),
    ("flowdcn", "flow", {"reach": ReachSchedule(3.0, (0.0, 1.0), (0, 3), "constant")}),
    ("flowdcn", "flow", {"shift": "auto"}),
    ("flowdcn", "ddpm", {"reach": "auto", "solver": "ddim"}),
    ("flowdcn", "ddpm", {"reach": "auto", "solver": "heun"}),
    ("sit", "flow", {"position_scaling": "pi"}),
    ("sit", "flow", {"position_scaling": "ei"}),
    ("sit-rotary", "flow", {"position_scaling": "pi"}),
    ("sit-rotary", "flow", {"position_scaling": "ntk"}),
    ("sit-rotary", "flow", {"position_scaling": "yarn"}),
    ("dit", "ddpm", {"position_scaling": "ei", "solver": "ddpm"}),
]


@pytest.mark.parametrize(("case", "process", "option"), CHANGES)
def test_what_grows_with_the_size_leaves_the_trained_size_alone(case, process, option):
    pipe = sizes(case, process)
    plain = {"solver": option["solver"]} if "solver" in option else {}
    for size in ((8, 8), (4, 8)) if "shift" not in option else ((8, 8),):
        same = [pipe.samples(size=size, **o).read([0]) for o in (plain, option)]
        assert same[0].equal(same[1]), size
    wide = [pipe.samples(size=(8, 16), **o) for o in (plain, option)]
    assert not wide[0].read([0]).equal(wide[1].read([0]))
    assert json.dumps(wide[0].describe()) != json.dumps(wide[1].describe())


def test_the_schedule_reads_the_time_of_every_call(monkeypatch):
    pipe, seen = sizes("flowdcn", solver="heun", steps=2), []
    forward = pipe.model.forward

    def spy(x, t, y, *, reach=None):
        seen.append((t[0].item(), reach[:, 5].tolist()))
        return forward(x, t, y, reach=reach)

    monkeypatch.setattr(pipe.model, "forward", spy)
    pipe.samples(size=(12, 24), reach="auto", guidance=1.0).read([0])
    factors = [(t, reach) for t, [reach] in seen]
    expected = [(0.0, [12.0, 9.0]), (0.5, [7.0, 7.0]), (0.5, [7.0, 7.0]), (1.0, [6.0, 6.0])]
    for (t, reach), (time, wanted) in zip(factors, expected, strict=True):
        assert t == time
        assert reach == pytest.approx(wanted)


def test_the_shift_by_size_is_a_number_beside_that_of_the_recipe():
    pipe = sizes("sit", shift=3.0)
    for size, factor in (((8, 8), 1), ((16, 16), 2), ((8, 32), 2), ((4, 4), 0.5)):
        samples = pipe.samples(size=size, shift="auto")
        assert samples.solver.shift == pytest.approx(3 * factor)
        assert samples.describe()["shift"] == samples.solver.shift
        assert samples.read([0]).equal(pipe.samples(size=size, shift=3.0 * factor).read([0]))


def test_a_weaker_model_is_told_the_same_as_far_as_it_takes_it():
    pipe, weaker = sizes("sit"), sizes("sit").model
    with torch.no_grad():
        weaker.project.out.bias += 0.3
    auto = {"weaker": weaker, "guidance_kind": "auto", "guidance": 2.0, "size": (8, 16)}
    plain, scaled = (pipe.samples(**auto, position_scaling=k) for k in ("none", "pi"))
    reported = []
    weaker.register_forward_pre_hook(lambda _, __, more: reported.append(more), with_kwargs=True)
    assert not plain.read([0]).equal(scaled.read([0]))
    half = len(reported) // 2
    assert reported == [{}] * half + [{"position_scaling": PositionScaling("pi", 4, 4)}] * half
    auto["weaker"] = build("dico")
    pipe.samples(**auto, position_scaling="pi").read([0])


def test_cells_of_a_latent_codec_are_counted(autoencoder):
    codec = LatentCodec(autoencoder)
    pipe = Pipeline(build_sit(4), codec, (32, 48))
    samples = pipe.samples(size=(64, 48), position_scaling="ei")
    assert (samples.resolution.size, samples.resolution.trained) == ((8, 6), (4, 6))
    assert samples.describe()["model_arguments"] == {
        "position_scaling": {"kind": "ei", "trained": [4, 6]}
    }


def build_sit(channels):
    return create_model("sit", **TINY_DIT | {"in_channels": channels})


@pytest.mark.parametrize(
    ("case", "process", "option", "message"),
    [
        ("flowdcn", "flow", {"reach": "all"}, "a reach in cells or auto, got 'all'"),
        ("flowdcn", "flow", {"reach": ReachSchedule(blocks=(0, 10))}, "from 0 to 9, got 0,10"),
        ("flowdcn", "flow", {"position_scaling": "pi"}, "flowdcn has no position_scaling"),
        ("sit", "flow", {"position_scaling": "yarn"}, "pi or ei for sincos positions, got 'yarn'"),
        ("sit", "flow", {"reach": "auto"}, "sit has no reach, got auto"),
        ("sit", "flow", {"shift": "auto", "solver": "hoin"}, "unknown solver 'hoin'"),
        ("sit", "flow", {"shift": "big"}, "shift: expected a number, got 'big'"),
        ("sit", "flow", {"shift": "auto", "solver": "dopri5"}, "with a shift,.* solver dopri5"),
        ("sit", "ddpm", {"shift": "auto", "solver": "ddim"}, "with a shift,.* solver ddim"),
    ],
)
def test_what_cannot_grow_with_the_size_is_refused(case, process, option, message, unchecked):
    pipe = sizes(case, process)
    for size in ((8, 8), (8, 16)):
        with pytest.raises(InputError, match=message):
            pipe.samples(size=size, **option)


def test_published_blocks_are_asked_for_where_there_are_none(pipe):
    with pytest.raises(InputError, match="choose reach-blocks such as 0,1"):
        pipe.samples(reach="auto")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def threads_within(series, num, monkeypatch):
    """The numbers of threads that the network's calls find, and the images."""
    found, forward = [], type(series.model).forward

    def spy(model, *inputs, **more):
        found.append(torch.get_num_threads())
        return forward(model, *inputs, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(series.model), "forward", spy)
        return found, series.read(range(num))


def test_a_small_network_runs_on_one_thread_and_gives_the_same_bits(pipe, two_threads, monkeypatch):
    series = pipe.samples()
    few, one = threads_within(series, 3, monkeypatch)
    monkeypatch.setattr(generate, "LITTLE_WORK", 0)
    many, two = threads_within(series, 3, monkeypatch)
    assert (set(few), set(many), torch.get_num_threads()) == ({1}, {2}, 2)
    assert one.equal(two)


def test_the_number_of_threads_comes_back_after_an_error(pipe, two_threads):
    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe.samples().read(range(2), fail)
    assert torch.get_num_threads() == 2


def test_work_grows_with_pictures_guidance_and_size_and_is_unknown_of_compiled_networks(pipe):
    one, plain = pipe.samples(), pipe.samples(guidance=1.0)
    assert one._work(6) == 6 * one._work(1) == 12 * plain._work(1)
    assert pipe.samples(size=(8, 12))._work(1) == 4 * one._work(1)
    weights = sum(weight.numel() for weight in pipe.model.parameters())
    assert plain._work(1) == weights * 24 / pipe.model.multiple**2
    pipe.model.compile()
    assert one._work(1) == float("inf")
