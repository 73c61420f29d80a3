"""Every recipe is complete and printable, and its network can be built."""

import dataclasses
import json
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from convflow import recipes
from convflow.bundle.config import SamplingConfig
from convflow.cli.main import main
from convflow.data.sources import open_source
from convflow.models.fitting import check_size
from convflow.models.zoo import create_model
from convflow.nn.embed import TimeEmbedding
from convflow.recipes import SOURCE, create_config, find_curve, find_target, imagenet, list_recipes
from convflow.samplers.solvers import create_solver
from convflow.settings.read import to_dict
from convflow.training.build import build_network
from convflow.training.keys import from_dict
from convflow.training.overrides import describe_options, override
from tests.cases import build as build_case
from tests.cases import inputs
from tests.recipes.table import row

NAMES = list(list_recipes())


def test_every_file_has_recipes_and_every_recipe_a_sentence():
    files = {path.stem for path in Path(recipes.__file__).parent.glob("[!_]*.py")}
    assert {name.partition(".")[0] for name in NAMES} == files
    assert all(text.endswith(".") for text in list_recipes().values())


@pytest.mark.parametrize("name", NAMES)
def test_settings_survive_json(name):
    config = create_config(name)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@cache
def build(name):
    """The network of a recipe without its numbers, the recipe, and the codec."""
    config = create_config(name)
    codec, process = config.codec, config.process
    classes = 1000 if config.codec.kind == "latent" else 10
    with torch.device("meta"):
        model = build_network(config, classes, codec, process)
    return model, config, codec


TRACED = [n for n in NAMES if not n.startswith("imagenet.") or n.endswith("_s") or ".dfm_" in n]
"""The others have the networks of published sizes, which tests/models/test_zoo.py traces."""


@pytest.mark.parametrize("name", NAMES)
def test_the_network_fits_the_pictures(name):
    model, config, codec = build(name)
    sides = codec.factor * model.multiple
    check_size(config.data.size, sides, model.frame_multiple, codec.frame_factor)
    codec.check_size(config.data.size)
    count = sum(p.numel() for p in model.parameters())
    large = name.startswith(("imagenet.", "flux.", "sd3.", "kinetics."))
    assert count > 25e6 if large else 4e5 < count < 20e6


@pytest.mark.parametrize("name", TRACED)
def test_the_network_takes_a_rectangle(name):
    model, config, codec = build(name)
    *frames, height, width = config.data.size
    cells = codec.cells((*frames, height, width // 2))
    with torch.device("meta"):
        x, *others = model.blank_inputs(2, cells)
    out = model(x, *others)
    if config.process.kind == "dfm":
        assert [v.shape for v in out] == [v.shape for v in x]
        out = out[-1]
    assert out.shape == (2, model.in_channels * (1 + model.learned_variance), *cells)


@pytest.mark.parametrize("name", NAMES)
def test_sampler_process_and_guidance_go_together(name):
    config = create_config(name)
    config.sampling.check(config.process)
    assert override(config, []) == config
    if name.startswith("imagenet."):
        kinds = {"ddpm": "ddpm", "euler": "dfm"}
        assert config.process.kind == kinds.get(config.sampling.solver.kind, "flow")
        assert config.images % config.batch_size == 0


def test_every_imagenet_recipe_has_a_target_and_every_target_a_recipe():
    names = [name.partition(".")[2] for name in NAMES if name.startswith("imagenet.")]
    assert sorted(names) == sorted(imagenet.TARGETS)
    assert len(names) == 27
    assert find_target("cifar10.flowdcn") is None


@pytest.mark.parametrize("name", imagenet.TARGETS)
def test_a_description_says_the_target_of_the_paper(name):
    target, about = imagenet.TARGETS[name], list_recipes()[f"imagenet.{name}"]
    guidance = create_config(f"imagenet.{name}").sampling.guidance
    assert target.citation
    if target.fid is None:
        assert target[1:5] == (None,) * 4
        assert str(target).startswith("no score found")
        assert "no score found" in about
        return
    said = re.search(
        rf"FID (?:about )?([\d.]+) (with|without) guidance(?: ([\d.]+))? \({SOURCE}\)", about
    )
    assert float(said[1]) == target.fid
    assert (said[2] == "with") == target.guided == (guidance != 1)
    if said[3] is not None:
        assert float(said[3]) == guidance
    else:
        assert not target.guided or "was not found" in getattr(imagenet, name).__doc__
    shown = str(target)
    assert shown.startswith(f"FID {target.fid}")
    assert f"({SOURCE}: " in shown


@pytest.mark.parametrize(
    ("name", "images", "batch", "process", "solver", "guidance", "guided", "labels"),
    [
        ("flowdcn_xl", 2_000_000 * 256, 256, "flow", "euler-maruyama", 1.375, None, "balanced"),
        ("dico_xl", 3_750_000 * 256, 256, "ddpm", "ddpm", 1.4, 3, "random"),
        ("dico_h", 1_000_000 * 1024, 1024, "ddpm", "ddpm", 1.4, 3, "random"),
        ("dico_xl_512", 3_000_000 * 256, 256, "ddpm", "ddpm", 1.4, 3, "random"),
        ("dit_xl", 7_000_000 * 256, 256, "ddpm", "ddpm", 1.5, 3, "random"),
        ("sit_xl", 7_000_000 * 256, 256, "flow", "euler-maruyama", 1.5, 3, "random"),
        ("sit_s", 400_000 * 256, 256, "flow", "euler-maruyama", 1.0, 3, "random"),
    ],
)
def test_published_settings(name, images, batch, process, solver, guidance, guided, labels):
    config = create_config(f"imagenet.{name}")
    sampling = config.sampling
    assert (config.images, config.batch_size, config.process.kind) == (images, batch, process)
    assert (sampling.solver.kind, sampling.solver.steps, sampling.guidance) == (
        solver,
        250,
        guidance,
    )
    assert (sampling.channels_guided, sampling.label_policy) == (guided, labels)
    assert config.data.size == ((512, 512) if name.endswith("512") else (256, 256))
    assert config.optim.lr == (2e-4 if name == "dico_h" else 1e-4)


DIT = (1e-4, (0.9, 0.999), 0.0, None, 0, 0.9999, 256, True, 0.1, "float32")
TRAINING = {
    # DiT: Peebles & Xie 2023, section 4. SiT and FlowDCN follow it (Ma et al. 2024, section 4;
    # FlowDCN's released configs/training, where VAR does not mirror).
    "dit": DIT,
    "sit": DIT,
    "flowdcn": DIT,
    "flowdcn_b_var": (1e-4, (0.9, 0.999), 0.0, None, 0, 0.9999, 256, False, 0.1, "float32"),
    # DiCo: Ai et al. 2025, table 7 and section 4.1; H has a column of its own.
    "dico": DIT,
    "dico_h": (2e-4, (0.99, 0.99), 0.0, None, 5_000, 0.9999, 1024, True, 0.1, "float32"),
    # FCDM: its released trainer; betas, clip and flip as DiT.
    "fcdm": (1e-4, (0.9, 0.999), 0.0, None, 0, 0.9999, 256, True, 0.1, "bfloat16"),
    # DFM: Haji-Ali et al. 2025, section 4.1 and appendix A.2; the authors' SiT code. No flip found.
    "dfm_dit_xl_512": (1e-4, (0.9, 0.99), 0.01, 1.0, 10_000, 0.9999, 256, True, 0.1, "float32"),
    "dfm_sit_xl_512": (1e-4, (0.9, 0.999), 0.0, 1.0, 0, 0.9999, 256, True, 0.1, "bfloat16"),
}
"""Rate, betas, decay, clip, warm-up in steps, EMA, batch, flip, dropped labels, precision."""


@pytest.mark.parametrize("name", imagenet.TARGETS)
def test_published_training(name):
    config = create_config(f"imagenet.{name}")
    optim, ema = config.optim, config.ema
    steps = optim.warmup_images / config.batch_size
    found = (optim.lr, optim.betas, optim.weight_decay, optim.clip, steps, ema.decay)
    found += (config.batch_size, config.data.flip, config.label_dropout, config.precision)
    assert found == TRAINING.get(name, TRAINING.get(name.partition("_")[0]))
    assert (optim.schedule, ema.warmup) == ("constant", 0)


@pytest.mark.parametrize(
    ("family", "last"), [("dit", 999), ("dico", 999), ("fcdm", 999), ("sit", 1), ("flowdcn", 1)]
)
def test_the_time_embedding_sees_the_published_range(family, last):
    """Steps 0 to 999 as they are of a DDPM, flow times 0 to 1 as they are, not times 1000."""
    process = create_config(f"imagenet.{family}_s").process
    model, seen = build_case(family), []
    for module in model.modules():
        if isinstance(module, TimeEmbedding):
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    t = process.draw((4000, 3, 1, 1), torch.Generator().manual_seed(0)).t
    x, _, y = inputs(model)
    for times in t[:3999].view(3, -1).T[::100]:
        model(x, times, y)
        assert seen
        assert all(reported.equal(times) for reported in seen)
        seen.clear()
    assert 0 <= t.min() < 0.002 * last
    assert 0.998 * last < t.max() <= last
    assert bool((t == t.round()).all()) == (last == 999)


def test_published_settings_of_dfm():
    paper, code = (create_config(f"imagenet.dfm_{name}_xl_512") for name in ("dit", "sit"))
    assert paper.model["positions"] == "rotary"
    assert "preconditioned" in str(find_target("imagenet.dfm_dit_xl_512"))
    assert (paper.images, code.images) == (500_000 * 256, 400_000 * 256)
    process = paper.process
    assert (process.factors, process.decomposition, process.standardize) == (
        (2,),
        "laplacian",
        False,
    )
    assert (process.earlier_location, code.process.earlier_location) == (1.5, 2.0)
    stages = [
        (s.kind, s.stage_steps, s.thresholds) for s in (paper.sampling.solver, code.sampling.solver)
    ]
    assert stages == [("euler", (30, 10), (0.7,)), ("euler", (40, 10), (0.9,))]


def test_published_settings_of_dfm_on_videos():
    config, pictures = create_config("kinetics.dfm"), create_config("imagenet.dfm_dit_xl_512")
    assert config.images == 200_000 * 256
    assert config.process == dataclasses.replace(pictures.process, standardize=True)
    assert (config.optim, config.sampling) == (pictures.optim, pictures.sampling)
    assert config.codec.cells(config.data.size) == (5, 64, 64)
    assert config.model == pictures.model | {"temporal": "full"}


@pytest.mark.parametrize("name", ["flowdcn", "dico", "sit"])
def test_scales_of_cifar10_are_the_plain_recipe_but_for_process_and_sampling(name):
    plain, scales = create_config(f"cifar10.{name}"), create_config(f"cifar10.{name}_dfm")
    assert (scales.process.kind, scales.process.factors) == ("dfm", (2,))
    found = (scales.process.decomposition, scales.process.location)
    assert found == (("laplacian", 0) if name == "dico" else ("dct", 0.5))
    sampling = SamplingConfig(create_solver(steps=40, stage_steps=(30, 10), thresholds=(0.9,)), 1.5)
    assert scales == dataclasses.replace(plain, process=scales.process, sampling=sampling)


@pytest.mark.parametrize(
    ("fcdm", "classes", "parameters"),
    [("cifar10.fcdm", 10, 4_990_851), ("toy.shapes_fcdm", 6, 440_403)],
)
def test_the_networks_for_a_small_data_set_are_of_one_size(fcdm, classes, parameters):
    counts = {}
    for name in [name for name in NAMES if name.startswith(f"{fcdm.partition('.')[0]}.")]:
        settings = {"num_classes": classes, "in_channels": 3} | create_config(name).model
        with torch.device("meta"):
            model = create_model(settings.pop("name"), **settings)
        if not model.video:
            counts[name] = sum(p.numel() for p in model.parameters())
    assert counts[fcdm] == parameters
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize("name", ["dico", "fcdm", "sit"])
def test_networks_for_shapes_differ_in_nothing_else_and_need_no_file(name):
    first, other = create_config("toy.shapes"), create_config(f"toy.shapes_{name}")
    assert other.model["name"] == name
    assert dataclasses.replace(other, model=first.model) == first
    assert len(open_source(first.data.path)) == 50_000


SHOWN = ["digits.flowdcn", "cifar10.sit_dfm", "imagenet.dico_xl", "imagenet.dfm_dit_xl_512"]


@pytest.mark.parametrize("name", SHOWN)
def test_help_prints_every_key_with_its_value(name, capsys):
    assert main(["train", name, "--help"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    shown = {line[0]: line[1:] for line in lines}
    for key, value, _ in describe_options(create_config(name)):
        assert shown[f"--{key}"][: len(value.split())] == value.split()


def test_the_page_has_a_true_row_for_every_recipe():
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| `\w+\.\w+`", line)]
    assert rows == [row(name, build(name)[0]) for name in NAMES]


def test_the_page_has_the_losses_reached_here():
    page = (Path(__file__).parents[2] / "docs/recipes.md").read_text()
    curves = {name: curve for name in list_recipes() if (curve := find_curve(name))}
    assert "digits.flowdcn" in curves
    for name, curve in curves.items():
        (row,) = [line for line in page.splitlines() if f"`convflow train {name} " in line]
        for images, loss in curve.losses.items():
            assert f"{loss:.3f} at {images:,}" in row
