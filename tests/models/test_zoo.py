"""The published sizes, counted on device meta; names, folders and damaged files."""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import convflow
from convflow.codecs import PixelCodec
from convflow.models.families import BACKBONES, PRETRAINED
from convflow.models.zoo import (
    FAMILIES,
    RELEASED_SETTINGS,
    SIZES,
    check_process,
    create_model,
    describe_settings,
    load_model,
    settings_of,
)
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.process import create_process
from convflow.types import InputError
from tests.cases import GOLDENS, MODELS, TINY, build, build_pyramid

GOLDEN = json.loads((GOLDENS / "published_sizes.json").read_text())


RELEASED = {"flowdcn": "FlowDCN", "dico": "DiCo", "dit": "DiT", "sit": "DiT"}
"""Families as they are called in the file; SiT is the network of DiT."""

FIXED = {
    "flowdcn": lambda model: 18 * len(model.blocks),  # the 3x3 grid
    "dico": lambda model: 0,
    "dit": lambda model: 256 * model.settings["width"],  # a table of positions
    "sit": lambda model: 256 * model.settings["width"],
}
"""Numbers in a released module that are not trained, and not in ours."""


def published(name: str, pixels: int = 256) -> dict[str, float]:
    """Counts of the released module, empty where the file has none."""
    family, size = name.split("-")
    row = f"{RELEASED.get(family)}-{size.upper()}"
    return GOLDEN.get(row, GOLDEN.get(f"{row}@{pixels}", {}))


COUNTED = [name for name in SIZES if not name.startswith("sit-")]
"""SiT is left out, see `test_a_sit_is_the_dit_of_its_size`."""

SMALL = [name for name in COUNTED if name.partition("/")[0].endswith(("-s", "-b"))]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in COUNTED if name not in SMALL]


@pytest.fixture(scope="module", params=[*SMALL, *SLOW])
def released(request):
    """A published size exactly as released, without memory."""
    with torch.device("meta"):
        model = create_model(request.param, **RELEASED_SETTINGS[SIZES[request.param].family])
    return request.param, model


def test_the_parameters_are_those_of_the_released_module(released):
    """`trainable` is what we count; `params` adds what is fixed."""
    name, model = released
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == SIZES[name].params
    if row := published(name):
        assert count == row["trainable"]
        assert count + FIXED[model.family](model) == row["params"]


LARGE = [pytest.param(*row, marks=pytest.mark.slow) for row in ((512, 1), (1024, 2))]


@pytest.mark.parametrize(("pixels", "index"), [(256, 0), *LARGE])
def test_the_multiply_accumulates_are_those_of_the_released_module(released, pixels, index):
    """Matrix products and convolutions; torch does not count the sampling, see the next test."""
    name, model = released
    side = pixels // 8
    x = torch.empty(1, 4, side, side, device="meta")
    t, y = torch.empty(1, device="meta"), torch.empty(1, dtype=torch.int64, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x, t, y)
    gmacs = counter.get_total_flops() / 2 / 1e9
    assert SIZES[name].gmacs[index] == pytest.approx(gmacs, abs=6e-4)
    if expected := published(name, pixels).get(f"gmacs_{pixels}"):
        assert gmacs == pytest.approx(expected, rel=0.01)
        assert SIZES[name].gmacs[index] == pytest.approx(expected, abs=6e-4)


def test_a_sit_is_the_dit_of_its_size():
    sizes = {name: size for name, size in SIZES.items() if size.family == "sit"}
    assert len(sizes) == 12
    assert all(SIZES[name.replace("sit", "dit")][1:] == size[1:] for name, size in sizes.items())
    with torch.device("meta"):
        model = create_model("sit-b/4", **RELEASED_SETTINGS["sit"])
    assert sum(p.numel() for p in model.parameters()) == SIZES["sit-b/4"].params


def test_what_is_published_of_the_sizes_is_compared():
    compared = {name for name in SIZES for pixels in (256, 512) if published(name, pixels)}
    on_patches = {f"{f}-{s}/2" for f in RELEASED if f != "dico" for s in ("s", "b", "l", "xl")}
    assert on_patches | {f"dico-{size}" for size in ("s", "b", "l", "xl", "h")} == compared


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("flowdcn-s/2", 0.05),
        ("flowdcn-b/2", 0.11),
        pytest.param("flowdcn-l/2", 0.28, marks=pytest.mark.slow),
        pytest.param("flowdcn-xl/2", 0.37, marks=pytest.mark.slow),
    ],
)
def test_the_sampling_counted_separately(name, gmacs, monkeypatch):
    """At each tap every channel takes four corners and a weight; here of an image of 256 pixels.

    The published figures are those of notes on the paper (its own column is not known), rounded
    to 0.01; they are not part of `SIZES[name].gmacs`.
    """
    counts = []

    def sample(value, offsets, weights, border):
        counts.append(value.shape[-1] * weights.numel() * (4 + 1))
        return torch.empty_like(value)

    monkeypatch.setattr("convflow.ops.deform.op.deform_sample", sample)
    with torch.device("meta"):
        model = create_model(name)
        model(torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64))
    assert sum(counts) / 1e9 == pytest.approx(gmacs, abs=0.012)


def test_a_size_takes_other_settings():
    with torch.device("meta"):
        model = create_model("flowdcn-s/2", num_classes=10, in_channels=3, depth=2)
    assert (model.num_classes, model.in_channels, len(model.blocks)) == (10, 3, 2)
    assert model.settings["width"] == 384
    assert SIZES["flowdcn-s/2"].settings["depth"] == 12, "the table was changed"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("flowdnc-s/2", {}, r"unknown model 'flowdnc-s/2'; did you mean 'flowdcn-s/2'\?"),
        ("flowdcn", {"widht": 8}, r"flowdcn: unknown setting 'widht'; did you mean 'width'\?"),
        ("flowdcn", {"width": "wide"}, "width: expected a whole number, got 'wide'"),
        ("flowdcn", {"width": 10, "num_groups": 3}, "got width 10 and num_groups 3"),
    ],
)
def test_unknown_names_and_settings_are_refused(name, settings, message, unchecked):
    with pytest.raises(InputError, match=message):
        create_model(name, **settings)


def test_the_public_names():
    assert convflow.create_model is create_model
    assert convflow.load_model is load_model
    with pytest.raises(AttributeError, match="no attribute 'create_modle'"):
        convflow.create_modle  # noqa: B018


def test_every_size_belongs_to_a_family():
    assert {size.family for size in SIZES.values()} == set(BACKBONES) == set(RELEASED_SETTINGS)
    assert set(FAMILIES) == {*BACKBONES, *PRETRAINED, "pyramid"}


@pytest.fixture
def folder(tmp_path):
    build("flowdcn").save_pretrained(tmp_path)
    return tmp_path


def spoil(folder, **changes):
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "flowdc"}, r"config.json: unknown model family 'flowdc'; did you mean 'flowdc"),
        ({"family": None}, "unknown model family None"),
        ({"widht": 3}, r"unknown setting 'widht'; did you mean 'width'\?"),
        ({"depth": 3}, r"model.safetensors does not fit flowdcn: missing blocks.2"),
        ({"depth": 1}, r"does not fit flowdcn: unused blocks.1.* and \d+ more; use the config"),
        ({"num_classes": 7}, r"embed_label.weight is \(6, 16\), expected \(8, 16\)"),
    ],
)
def test_settings_that_do_not_fit_are_named(folder, changes, message):
    spoil(folder, **changes)
    with pytest.raises(InputError, match=message):
        load_model(folder)


def test_damaged_files_are_named(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content in (b"", whole[:100], whole[:-5], b"\xff" * 200):
        weights.write_bytes(content)
        with pytest.raises(InputError, match=r"safetensors is damaged or no safetensors file"):
            load_model(folder)
    weights.unlink()
    with pytest.raises(InputError, match=r"expected weights at .*found no such file"):
        load_model(folder)
    for text, message in (("{", "damaged or not JSON"), ("[]", "expected a JSON object, got list")):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            load_model(folder)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder with config.json and model"):
        load_model(tmp_path)


def test_a_path_with_nothing_there_is_missing(tmp_path):
    for place in (tmp_path / "absent", "absent", "a/b/c", "runs/tpyo"):
        with pytest.raises(InputError, match=r"found nothing at .*, expected a run"):
            load_model(place)


def test_a_hub_id_is_looked_up_there(folder, monkeypatch):
    asked = []

    def download(name, **options):
        asked.append((name, options["allow_patterns"]))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load_model("someone/something").settings["width"] == TINY["width"]
    assert asked == [("someone/something", ["*.json", "*.safetensors"])]


def test_a_hub_that_does_not_answer_is_an_input_error(monkeypatch):
    def fail(*_, **__):
        raise OSError("no network\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(InputError, match=r"neither a folder 'someone/some.*\(no network\)"):
        load_model("someone/something")


@pytest.mark.parametrize(
    ("case", "config", "message"),
    [
        (
            "flowdcn",
            create_process("ddpm"),
            "with channels for a variance, as the process ddpm has",
        ),
        (
            "dit-learned-variance",
            create_process("ddpm", variance="small"),
            "without channels for a",
        ),
        (
            "dit-learned-variance",
            create_process(),
            "without channels for a variance, as the process",
        ),
        (
            "flowdcn",
            create_process("dfm"),
            r"of scales with the factors \[2\], as the process dfm has",
        ),
        (
            None,
            create_process(),
            "of one scale, as the process flow has, got one of scales with the",
        ),
        (
            None,
            create_process("dfm", factors=(4,)),
            r"of scales with the factors \[4\], as the .* \[2\]",
        ),
    ],
)
def test_a_process_that_does_not_fit_is_refused_where_it_meets_the_network(case, config, message):
    model = build(case) if case else build_pyramid()
    with pytest.raises(InputError, match=f"expected a network {message}"):
        check_process(model, config)
    with pytest.raises(InputError, match=f"expected a network {message}"):
        Pipeline(model, PixelCodec(), (8, 8), process=config)


def test_channels_that_are_missing_are_called_what_their_process_has_them_for():
    model = create_model("sit", **MODELS["sit"][1], second_time=True)
    with pytest.raises(InputError, match=r"with channels for the velocity, as .* meanflow has, go"):
        check_process(model, MeanFlow(velocity_head=True))


def test_a_process_that_fits_is_taken():
    check_process(build("dit-learned-variance"), DDPM())
    check_process(build("sit-discard-half"), FlowMatching())
    check_process(build_pyramid((2, 2)), MultiscaleFlow((2, 2)))


@pytest.mark.parametrize("family", BACKBONES)
def test_every_setting_of_a_family_has_its_meaning(family):
    meanings = describe_settings(family)
    assert meanings.keys() == settings_of(family).keys()
    assert all(len(meaning) > 5 for meaning in meanings.values())
