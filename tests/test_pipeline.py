"""From a trained model to images: labels, sizes, seeds, and the folders it comes from."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import convflow.generate
from convflow.bundle.config import SamplingConfig
from convflow.codecs import PixelCodec
from convflow.pipeline import Pipeline
from convflow.processes.process import create_process
from convflow.samplers.sde import SDE
from convflow.samplers.solvers import create_solver
from convflow.seeds import draw_noise
from convflow.storage import hash_tensors
from convflow.types import InputError
from tests.cases import build, build_pyramid, inputs

NAMES = ("cat", "dog", "frog", "horse", "ship")
SIZE = (4, 6)


@pytest.fixture
def pipe():
    return Pipeline(
        build("flowdcn"),
        PixelCodec(),
        SIZE,
        NAMES,
        SamplingConfig(create_solver("euler", steps=3), 1.5),
    )


@pytest.fixture
def plain():
    return Pipeline(build("flowdcn-no-classes"), PixelCodec(), SIZE)


def asked(pipe, monkeypatch):
    """The labels that reach the network, without those of guidance."""
    seen = []
    forward = pipe.model.forward

    def spy(x, t, y, **arguments):
        seen.append(y[: len(y) // 2 if pipe.sampling.guidance != 1 else None].tolist())
        return forward(x, t, y, **arguments)

    monkeypatch.setattr(pipe.model, "forward", spy)
    return seen


def test_pictures_by_default(pipe):
    out = pipe()
    assert (len(out.images), out.pixels.shape, out.pixels.dtype) == (16, (16, 3, 4, 6), torch.uint8)
    assert out.labels == [NAMES[i % 5] for i in range(16)]
    assert out.images[0].size == (6, 4)
    for image, pixels in zip(out.images, out.pixels, strict=True):
        assert np.array_equal(np.asarray(image), pixels.permute(1, 2, 0).numpy())
    assert out.pixels.float().std() > 10


@pytest.mark.parametrize(
    ("labels", "ids", "names"),
    [
        ("dog", [1], ["dog"]),
        (3, [3], ["horse"]),
        (np.int64(3), [3], ["horse"]),
        (["cat", 3, None, "4"], [0, 3, 5, 4], ["cat", "horse", "", "ship"]),
        ((np.int64(2), torch.tensor(1)), [2, 1], ["frog", "dog"]),
        ([None], [5], [""]),
        (np.array(3), [3], ["horse"]),
        (torch.tensor(1), [1], ["dog"]),
        (torch.tensor([1, 0]), [1, 0], ["dog", "cat"]),
    ],
)
def test_labels_by_name_number_and_none(pipe, labels, ids, names, monkeypatch):
    seen = asked(pipe, monkeypatch)
    assert pipe(labels, steps=1).labels == names
    assert seen == [ids]


def test_num_repeats_and_cuts_the_labels(pipe):
    assert pipe(["cat", "dog"], num=5, steps=1).labels == ["cat", "dog", "cat", "dog", "cat"]
    assert pipe(["cat", "dog"], num=1, steps=1).labels == ["cat"]
    assert len(pipe(num=3, steps=1).images) == 3


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("doge", r"unknown label 'doge'; did you mean 'dog'\?"),
        ("zzz", "unknown label 'zzz'; choose from cat, dog, frog, horse, ship"),
        (5, "unknown label 5"),
        (-1, "unknown label -1"),
        (1.5, "unknown label 1.5"),
        ([0, "hors"], r"did you mean 'horse'\?"),
        ([], "expected at least one label, got an empty list"),
        ([[1]], r"unknown label \[1\]"),
        (b"cat", "unknown label b'cat'"),
    ],
)
def test_unknown_labels_are_refused_with_the_nearest(pipe, label, message):
    with pytest.raises(InputError, match=message):
        pipe(label)


def test_a_model_without_names_has_numbers():
    pipe = Pipeline(build("flowdcn"), PixelCodec(), SIZE)
    assert pipe([4, "2", None], steps=1).labels == ["4", "2", ""]
    with pytest.raises(InputError, match="unknown label 'cat'; choose from 0 to 4"):
        pipe("cat")


def test_a_model_without_classes(plain, monkeypatch):
    seen = asked(plain, monkeypatch)
    out = plain(num=3, steps=2)
    assert (out.labels, len(out.images)) == (["", "", ""], 3)
    assert [len(labels) for labels in seen] == [1, 1], "guidance without classes is no guidance"
    with pytest.raises(InputError, match=r"trained without labels, got 'cat'; leave the lab"):
        plain("cat")


def test_guidance_needs_one_call_of_twice_the_batch(pipe, monkeypatch):
    pipe.sampling = SamplingConfig(create_solver("heun", steps=3), 1.0)
    seen = asked(pipe, monkeypatch)
    pipe(num=2)
    assert [len(labels) for labels in seen] == [2] * 6
    seen.clear()
    pipe(num=2, guidance=2.0, solver="euler", steps=4, interval=(0.3, 0.6))
    assert [len(labels) for labels in seen] == [2, 2, 4, 2]  # of t = 0, 1/4, 1/2, 3/4


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (0, 4), (-2, 4), (4, 0), 0, -2, 7])
def test_sizes_that_do_not_fit_are_refused(pipe, size):
    with pytest.raises(InputError, match=r"multiples of 2, got .*; the nearest that works is "):
        pipe(size=size)


def test_any_rectangle(pipe):
    assert pipe(num=1, size=(10, 2), steps=1).images[0].size == (2, 10)


@pytest.mark.parametrize(
    "bad", [{"num": 0}, {"batch_size": 0}, {"seed": -1}, {"guidance": float("nan")}]
)
def test_numbers_out_of_range_are_refused(pipe, bad):
    wanted = r"expected (a whole number of at least [01]|a finite number)"
    with pytest.raises(InputError, match=wanted):
        pipe(**bad)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1"),
        ({"solver": ""}, "unknown solver ''"),
        ({"solver": "hune"}, "did you mean 'heun'"),
        ({"interval": (0.9, 0.1)}, "expected a guidance interval"),
        ({"last_step": 2.0}, "last_step in"),
    ],
)
def test_nothing_impossible_falls_back_to_a_default(pipe, bad, message):
    with pytest.raises(InputError, match=message):
        pipe(**bad)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 2.5}, {"steps": "3"}, {"steps": True}, {"seed": 1.5}, {"seed": "1"},
        {"size": (8, 8, 8)}, {"size": "8"}, {"size": (8.0, 8)}, {"size": "32x"},
        {"size": (8,)}, {"size": (True, 8)}, {"size": 8.5}, {"size": "axb"}, {"interval": 0.5},
        {"interval": "ab"}, {"solver": ["heun"]}, {"guidance": "x"}, {"guidance_kind": ["cfg"]},
        {"channels_guided": 1.5}, {"shift": "x"}, {"last_step": "x"}, {"num": 2.5},
        {"batch_size": "3"}, {"num": 10**17}, {"steps": 10**9},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_of_another_kind_is_refused_at_the_border(pipe, bad, unchecked):
    name = next(iter(bad)).replace("_", "[_-]")
    with pytest.raises(InputError, match=f"{name}: expected|expected .* {name}|expected at most"):
        pipe(**bad)


def test_a_network_without_reach_says_so():
    with pytest.raises(InputError, match=r"^dit has no reach, got 3\.0; leave it out"):
        Pipeline(build("dit"), PixelCodec(), (4, 6)).samples(reach=3.0)


@pytest.mark.parametrize("seed", [0, 7, 2**64 + 1])
def test_a_picture_depends_on_its_seed_and_number_alone(pipe, seed, monkeypatch):
    """Noise bit for bit; images up to the rounding of sums that another batch size orders
    otherwise: one level of 255 in at most 0.1 % of the pixels."""
    noises = []

    def spy(*arguments):
        noises.append(draw_noise(*arguments))
        return noises[-1]

    monkeypatch.setattr(convflow.generate, "draw_noise", spy)
    options = {"num": 11, "size": (16, 12), "seed": seed}
    whole = pipe(**options).pixels.int()
    assert noises[0].shape == (11, 3, 16, 12)
    for batch_size in (1, 4):
        noises.clear()
        parts = pipe(**options, batch_size=batch_size).pixels.int()
        assert torch.cat(noises).equal(draw_noise(seed, range(11), (3, 16, 12)))
        difference = (parts - whole).abs()
        assert difference.max() <= 1
        assert difference.sum() <= 0.001 * difference.numel()


def test_other_seeds_give_other_pictures_and_the_same_seed_the_same(pipe):
    first, again, other = (pipe("cat", seed=seed).pixels for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
    both = pipe(["cat", "cat"], seed=1).pixels
    assert not both[0].equal(both[1])


def test_sampling_leaves_the_global_generator_alone(pipe):
    before = torch.get_rng_state()
    pipe(num=2)
    assert before.equal(torch.get_rng_state())


def test_reach_and_other_arguments_reach_the_network(pipe):
    base = pipe(num=2, size=(8, 8)).pixels
    assert pipe(num=2, size=(8, 8), reach=6.0).pixels.equal(base)
    assert not pipe(num=2, size=(8, 8), reach=(12.0, 3.0)).pixels.equal(base)
    with pytest.raises(InputError, match="unknown option 'raech'; did you mean 'reach'"):
        pipe(num=2, raech=3.0)
    with pytest.raises(InputError, match="unknown option 'stepz'; did you mean 'steps'"):
        pipe(num=2, stepz=3)
    for reach in (0.0, -3.0, float("nan"), (0.0, 4.0)):
        with pytest.raises(InputError, match="expected a finite reach above 0"):
            pipe(num=2, reach=reach)


def test_steps_shift_and_last_step_reach_the_solver(pipe):
    base = pipe(num=2).pixels
    assert pipe(num=2, steps=3, solver="euler", guidance=1.5).pixels.equal(base)
    others = ({"steps": 9}, {"solver": "heun"}, {"shift": 4.0}, {"last_step": 0.01})
    for other in (*others, {"guidance": 4.0}):
        assert not pipe(num=2, **other).pixels.equal(base), other


def test_progress_adds_up(pipe):
    described = []
    pipe(num=5, batch_size=2, steps=4, progress=described.append)
    assert len(described) == 3 * 4
    assert sum(described) == pytest.approx(5)


@pytest.fixture
def run(tmp_path):
    """A run folder with two checkpoints, each with raw and averaged weights."""
    sampling = {"solver": "heun", "steps": 2, "guidance": 1.0}
    describe = {"size": SIZE, "class_names": NAMES, "sampling": sampling}
    for step in (10, 200):
        for kind in ("raw", "ema"):
            folder = tmp_path / "checkpoints" / f"step_{step:09d}" / kind
            model = build("flowdcn")
            model.embed_time.out.bias.data += step + (kind == "raw")
            model.save_pretrained(folder)
            (folder / "pipeline.json").write_text(json.dumps(describe))
        (folder.parent / "state.json").write_text("{}")
    return tmp_path


def test_a_run_stands_for_its_newest_checkpoint(run):
    newest = run / "checkpoints" / "step_000000200"
    old = Pipeline.from_pretrained(run / "checkpoints" / "step_000000010")
    raw = Pipeline.from_pretrained(run, weights="raw")
    expected = Pipeline.from_pretrained(newest / "ema")
    for place in (run, str(run), newest):
        pipe = Pipeline.from_pretrained(place)
        x = inputs(pipe.model)
        assert pipe.model(*x).equal(expected.model(*x))
        assert not pipe.model(*x).equal(old.model(*x))
        assert not pipe.model(*x).equal(raw.model(*x))
        assert (pipe.size, pipe.class_names) == (SIZE, NAMES)
        assert pipe.sampling == SamplingConfig(create_solver("heun", steps=2), 1.0)
        assert not pipe.model.training
    assert expected("ship").labels == ["ship"]


def spoil(run, **changes):
    path = run / "checkpoints" / "step_000000200" / "ema" / "pipeline.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path.parent


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec": "latents"}, "pipeline.json cannot be used: unknown codec 'latents'"),
        ({"size": 4}, "pipeline.json cannot be used: size: expected two numbers"),
        ({"size": ["x", 4]}, "pipeline.json cannot be used: size: expected two numbers"),
        ({"class_names": ["cat"]}, "5 classes or none, got 3 channels and 1 names"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(run, changes, message):
    with pytest.raises(InputError, match=message):
        Pipeline.from_pretrained(spoil(run, **changes))


def test_what_is_saved_is_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "new" / "place")
    again = Pipeline.from_pretrained(tmp_path / "new" / "place")
    assert (again.size, again.class_names, again.sampling) == (
        pipe.size,
        pipe.class_names,
        pipe.sampling,
    )
    assert again(num=3, seed=2).pixels.equal(pipe(num=3, seed=2).pixels)


def test_it_describes_itself_for_a_result_card(pipe):
    described = pipe.describe()
    assert {"family": "flowdcn", "weights": "ema", "name": "flowdcn"}.items() <= described.items()
    assert described["process"]["kind"] == "flow"
    assert described["parameters"] == sum(p.numel() for p in pipe.model.parameters())
    assert described["sha256"] == hash_tensors(pipe.model.state_dict())
    scales = Pipeline(build_pyramid(), PixelCodec(), (8, 8), process=create_process("dfm"))
    described = scales.describe("mine", "raw")
    assert (described["name"], described["weights"], described["backbone"]) == (
        "mine",
        "raw",
        "flowdcn",
    )


def test_missing_things_are_named(run, tmp_path_factory):
    with pytest.raises(InputError, match="unknown kind of weights 'emma'; did you mean 'ema'"):
        Pipeline.from_pretrained(run, weights="emma")
    folder = tmp_path_factory.mktemp("other")
    with pytest.raises(InputError, match=r"expected a folder with config\.json"):
        Pipeline.from_pretrained(folder)
    build("flowdcn").save_pretrained(folder)
    with pytest.raises(InputError, match=r"holds a network but no pipeline\.json"):
        Pipeline.from_pretrained(folder)
    (tmp_path_factory.getbasetemp() / "new" / "checkpoints").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no complete checkpoint yet; let the training go"):
        Pipeline.from_pretrained(tmp_path_factory.getbasetemp() / "new")


def test_a_pipeline_needs_colours_it_can_show_and_a_device_that_is_there():
    with pytest.raises(InputError, match="expected a usable device, got 'gpu'"):
        Pipeline(build("flowdcn"), PixelCodec(), SIZE, device="gpu")
    with pytest.raises(InputError, match="5 classes or none, got 3 channels and 2 names"):
        Pipeline(build("flowdcn"), PixelCodec(), SIZE, ["cat", "dog"])


def test_grey_pictures():
    pipe = Pipeline(build("flowdcn-patch-1"), PixelCodec(), (3, 5))
    assert pipe(num=1, steps=1).images[0].mode == "L"


@pytest.fixture
def published():
    sampling = SamplingConfig(
        SDE(steps=5, last_step=0.04, diffusion="flowdcn", last="euler"),
        2.0,
        label_policy="random",
        channels_guided=1,
        interval=(0.1, 1.0),
    )
    return Pipeline(build("flowdcn"), PixelCodec(), SIZE, NAMES, sampling)


def test_defaults_are_the_pipeline_s_and_what_is_given_wins(published, tmp_path):
    described = published.samples().describe()
    assert (described["diffusion"], described["last"], described["last_step"]) == (
        "flowdcn",
        "euler",
        0.04,
    )
    assert described["guidance"]["channels"] == 1
    assert described["guidance"]["interval"] == [0.1, 1.0]
    assert described["labels"]["policy"] == "random"
    other = published.samples(
        diffusion="sigma", last_step=None, channels_guided="all", label_policy="balanced",
        interval=(0.0, 1.0), steps=7,
    ).describe()  # fmt: skip
    assert (other["diffusion"], other["last"], other["last_step"]) == ("sigma", "euler", None)
    assert other["guidance"]["channels"] == "all"
    assert other["guidance"]["interval"] == [0.0, 1.0]
    assert (other["labels"]["policy"], other["steps"]) == ("balanced", 7)
    published.save_pretrained(tmp_path)
    again = Pipeline.from_pretrained(tmp_path)
    assert again.sampling == published.sampling
    assert again(num=2).pixels.equal(published(num=2).pixels)


def test_another_solver_forgets_the_defaults_of_this_one_and_not_what_is_given(published):
    described = published.samples(solver="heun").describe()
    assert (described["solver"], described["last_step"], described["steps"]) == ("heun", 0.04, 5)
    assert "diffusion" not in described
    assert published.samples(solver="heun", steps=1).describe()["last_step"] is None
    with pytest.raises(InputError, match="the solver heun has no diffusion"):
        published.samples(solver="heun", diffusion="constant")
    with pytest.raises(InputError, match="at least 2 steps with a last_step"):
        published.samples(solver="heun", steps=1, last_step=0.04)
    weaker = build("flowdcn", perturbed=False)
    automatic = published.samples(guidance_kind="auto", weaker=weaker)
    assert automatic.guidance_kind == "auto"


def test_a_batch_beyond_memory_is_refused_with_one_that_fits(pipe, monkeypatch):
    monkeypatch.setattr("convflow.distributed.free_memory", lambda device: 2**21)
    pipe(num=2, steps=1, guidance=1)  # no larger than usual
    with pytest.raises(InputError, match=r"batches of 3 at 64x64 .*; one of \d+x\d+ fits"):
        pipe(num=3, size=(64, 64), steps=1)
