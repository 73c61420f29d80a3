"""A folder for diffusers draws the images of this library, in a process that has none of it."""

import json
import os
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import convflow
from convflow import create_model
from convflow.bundle.config import SamplingConfig
from convflow.integrations.diffusers_folder import check_exportable, export_diffusers
from convflow.models.dico import DiCo
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.average import Average
from convflow.samplers.solvers import create_solver
from convflow.types import InputError
from tests.autoencoder import save_autoencoder
from tests.integrations.models import SMALL, create_pipe

WITHOUT = """
import sys
for name in ("convflow", "jaxtyping", "msgspec", "numba", "torchvision"):
    sys.modules[name] = None
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import save_file
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.set_progress_bar_config(disable=True)
    labels = ["hen", 0, None]
    x = pipe(labels, generator=5, output_type="latent").images
    levels = (pipe(labels, generator=5, output_type="pt").images * 255).round().byte()
    save_file({"x": x.contiguous(), "levels": levels.contiguous()}, folder + ".safetensors")
"""


def sampling(solver, guidance=2.0, **options):
    more = {name: options.pop(name) for name in ("interval", "channels_guided") if name in options}
    return SamplingConfig(create_solver(solver, steps=3, **options), guidance, **more)


def staged(solver, steps, **options):
    return SamplingConfig(create_solver(solver, steps=steps, **options), 2.0, interval=(0.2, 1.0))


def cases(place):
    flow, noise = FlowMatching(), FlowMatching(schedule="cosine", prediction="noise")
    rotary = {"positions": "rotary", "qk_norm": True}
    yield "dico", create_pipe("dico", process=flow, sampling=sampling("heun", shift=2.0))
    yield "fcdm", create_pipe("fcdm", process=flow, sampling=sampling("ab2", interval=(0.2, 0.9)))
    learned = {"learned_variance": True}
    chain = sampling("euler", channels_guided=2)
    yield "dit", create_pipe("dit", settings=learned, process=DDPM(), sampling=chain)
    yield "sit", create_pipe("sit", settings=rotary, process=noise, sampling=sampling("euler"))
    average = {"second_time": True}
    yield (
        "averages",
        create_pipe(
            "dico", settings=average, process=MeanFlow(), sampling=SamplingConfig(Average(steps=2))
        ),
    )
    told = {**average, "told_guidance": True, "learned_variance": True}
    process = MeanFlow(guidance_max=8.0, velocity_head=True)
    chosen = SamplingConfig(Average(steps=3, shift=2.0, told_guidance=2.5))
    yield "averages-told", create_pipe("dit", settings=told, process=process, sampling=chosen)
    instant = sampling("heun", interval=(0.1, 0.9))
    yield (
        "averages-instant",
        create_pipe("fcdm", settings=average, process=MeanFlow(), sampling=instant),
    )
    scales = MultiscaleFlow(factors=(2, 2), deviations=(0.9, 0.5, 0.2))
    yield "scales-dico", create_pipe("dico", process=scales, sampling=staged("ab2", 7))
    scales = MultiscaleFlow(decomposition="haar")
    chosen = staged("heun", 5, stage_steps=(2, 3), thresholds=(0.8,))
    more = {"coarse": "upsample", "stage_embedding": True}
    yield "scales-sit", create_pipe("sit", settings=more, process=scales, sampling=chosen)
    local = save_autoencoder(place / "vae")
    yield "flowdcn", create_pipe("flowdcn", autoencoder=local, sampling=sampling("heun"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folders by family, the pipelines they were made of, and what diffusers made of them."""
    place = tmp_path_factory.mktemp("exported")
    pipes = dict(cases(place))
    for family, pipe in pipes.items():
        export_diffusers(pipe, place / family, most=20_000)
    (place / "without.py").write_text(WITHOUT)
    environment = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
    environment |= {"HF_HOME": str(place / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "without.py", *pipes]
    answer = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-3000:]
    return place, pipes


CASES = (
    "dico fcdm dit sit flowdcn averages averages-told averages-instant scales-dico scales-sit"
).split()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_images_are_those_of_this_library(exported, case):
    place, pipes = exported
    made = load_file(place / f"{case}.safetensors")
    samples = pipes[case].samples(["hen", 0, None], seed=5)
    ours = samples.sample(range(3))
    assert ours.abs().max() > 0.1
    torch.testing.assert_close(made["x"], ours, rtol=1e-4, atol=1e-4)
    apart = (made["levels"].int() - samples.read(range(3)).int()).abs()
    assert apart.max() <= 1


@pytest.mark.parametrize("case", ["dico", "flowdcn", "averages-told", "scales-dico"])
def test_this_library_opens_the_folder_too(exported, case):
    place, pipes = exported
    pipe = Pipeline.from_pretrained(place / case, device="cpu")
    again, ours = (p.samples(["cat"], seed=1).sample([0]) for p in (pipe, pipes[case]))
    assert torch.equal(again, ours)
    assert pipe.class_names == ("cat", "dog", "hen")
    assert convflow.load_model(place / case).settings == pipes[case].model.settings


def test_large_weights_are_in_shards(exported):
    place, _ = exported
    names = {path.name for path in (place / "dit/transformer").iterdir()}
    assert "diffusion_pytorch_model.safetensors.index.json" in names
    assert len([name for name in names if name.endswith(".safetensors")]) > 1
    assert {"config.json", "transformer_dit.py"} <= names


def test_the_folder_says_what_it_is(exported):
    place, _ = exported
    index = json.loads((place / "flowdcn/model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "FlowPipeline"]
    assert index["transformer"] == ["transformer_flowdcn", "FlowDCN"]
    assert index["vae"] == ["diffusers", "AutoencoderKL"]
    assert index["id2label"] == {"0": "cat", "1": "dog", "2": "hen"}
    assert (place / "flowdcn/vae/config.json").is_file()
    assert "library_name: diffusers" in (place / "flowdcn/README.md").read_text()
    index = json.loads((place / "dico/model_index.json").read_text())
    assert index["vae"] == [None, None]
    assert index["settings"]["codec"] is None


def test_diffusers_runs_no_code_unasked(exported):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(exported[0] / "dico")


def test_what_diffusers_cannot_hold_is_refused(tmp_path):
    pipe = create_pipe("dico")
    pipe.process = OwnFlow()
    with pytest.raises(InputError, match="expected a process of flow, meanflow, ddpm, dfm for"):
        export_diffusers(pipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    pipe = create_pipe("dico")
    pipe.model.__class__ = OwnNetwork
    with pytest.raises(InputError, match="expected one of flowdcn, dico, fcdm, dit, sit for"):
        check_exportable(pipe)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temporal": "conv"}, "expected a model of images for a folder for diffusers, got one"),
        (
            {"num_classes": 0, "text_width": 8, "text_length": 4},
            "expected a network that is told class labels for a folder for diffusers, got one that",
        ),
    ],
    ids=["videos", "texts"],
)
@pytest.mark.parametrize("scales", [False, True])
def test_networks_of_videos_and_texts_are_refused(settings, told, scales, tmp_path):
    pipe = create_pipe("dico")
    inner = {**SMALL["dico"], "in_channels": 3, "num_classes": 3, **settings}
    if scales:
        pipe.model = create_model("pyramid", backbone={"family": "dico", **inner})
    else:
        pipe.model = create_model("dico", **inner)
    with pytest.raises(InputError, match=told) as error:
        export_diffusers(pipe, tmp_path / "out")
    assert str(error.value).endswith("safetensors")
    assert not (tmp_path / "out").exists()


class OwnFlow(FlowMatching):
    """A process of a user, of which diffusers knows nothing."""


class OwnNetwork(DiCo):
    """A network of a user."""
