"""The CIFAR-10 network: its weights, its features, its training in small."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from safetensors import safe_open

from benchmarks.quality import cifar10_network as module
from benchmarks.quality.cifar10_network import Cifar10Network
from convflow.types import InputError
from tests.tolerance import assert_close_rms

NUM_FEATURES = 192
NUM_PARAMETERS = 1_018_538


def notes() -> dict[str, str]:
    with safe_open(module.WEIGHTS, "pt") as file:
        return file.metadata()


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def network() -> Cifar10Network:
    return module.load()


def test_weights_are_small_and_say_where_they_come_from(network):
    assert module.WEIGHTS.stat().st_size < 5e6
    weights = list(network.parameters())
    assert sum(weight.numel() for weight in weights) == NUM_PARAMETERS
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(weight.isfinite().all() for weight in weights)
    wanted = {"test_accuracy", "epochs", "seed", "seconds", "command", "torch", "cpu", "threads"}
    assert set(notes()) == wanted


def test_loads_from_its_file_alone_in_evaluation_mode_and_frozen(network):
    spec = importlib.util.spec_from_file_location("detector", module.__file__)
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    detector = alone.load()
    assert not any(part.training for part in detector.modules())
    assert not any(weight.requires_grad for weight in detector.parameters())
    pixels = draw(3, 3, 32, 32)
    assert torch.equal(detector(pixels)["features"], network(pixels)["features"])


def test_maps_are_what_the_last_stage_sees(network):
    pixels = draw(2, 3, 40, 32)
    maps = network.maps(pixels, (16, 16))
    assert maps.shape == (2, 128, 8, 8)
    rest = network.trunk[module.AT_8 :](maps).mean((2, 3))
    assert_close_rms(rest, network(pixels)["features"])


@pytest.mark.parametrize(
    "shape", [(1, 3, 32, 32), (2, 3, 1, 1), (3, 3, 20, 48), (2, 3, 131, 64), (0, 3, 32, 32)]
)
def test_features_of_any_size(network, shape):
    out = network(draw(*shape))
    assert out["features"].shape == (shape[0], NUM_FEATURES)
    assert out["logits"].shape == (shape[0], 10)
    for values in out.values():
        assert values.dtype == torch.float32
        assert values.isfinite().all()
    assert (out["features"] >= 0).all()


@pytest.mark.parametrize("size", [(32, 32), (40, 24)])
def test_features_do_not_depend_on_the_batch(network, size):
    pixels = draw(7, 3, *size)
    whole = network(pixels)["features"]
    assert_close_rms(torch.cat([network(one)["features"] for one in pixels.split(1)]), whole)
    assert_close_rms(torch.cat([network(some)["features"] for some in pixels.split(3)]), whole)


def test_flat_pictures_look_alike_at_every_size(network):
    colour = torch.tensor([200, 30, 90], dtype=torch.uint8).view(1, 3, 1, 1)
    small, exact, large = (
        network(colour.expand(1, 3, *size))["features"] for size in ((9, 5), (32, 32), (64, 80))
    )
    assert_close_rms(small, exact)
    assert_close_rms(large, exact)


def test_pictures_of_32_pixels_are_not_interpolated(network, monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("interpolated")

    monkeypatch.setattr(module.F, "interpolate", refuse)
    network(draw(2, 3, 32, 32))
    with pytest.raises(RuntimeError, match="interpolated"):
        network(draw(2, 3, 32, 31))


@pytest.mark.parametrize("pixels", [torch.zeros(2, 3, 32, 32), draw(2, 1, 32, 32), draw(3, 32, 32)])
def test_refuses_what_is_no_batch_of_colour_pictures(network, pixels):
    with pytest.raises(InputError, match=r"expected pixels \(B, 3, H, W\) uint8, got"):
        network(pixels)


def test_accuracy_on_real_pictures(network):
    if not (module.DATA / "test.parquet").exists():
        pytest.skip("needs ../shared/data/cifar10/test.parquet")
    share = module.accuracy(network, *module.read(module.DATA, "test", num=500))
    assert share >= float(notes()["test_accuracy"]) - 0.05


@pytest.mark.slow
def test_training_learns_and_its_weights_survive_the_disk(tmp_path):
    """The short form of the training: sixteen images, one shade per class."""
    labels = torch.arange(16) % 10
    pixels = (draw(16, 3, 32, 32) // 8) + (labels * 22).to(torch.uint8).view(-1, 1, 1, 1)
    torch.manual_seed(0)
    network = Cifar10Network()
    losses = module.train(network, pixels, labels, epochs=20, seed=0, batch_size=16)
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 0.5
    assert not network.training
    module.save(network, tmp_path / "x.safetensors", {"seed": "0"})
    again = module.load(tmp_path / "x.safetensors")
    with torch.inference_mode():
        for name, values in network(pixels).items():
            assert_close_rms(again(pixels)[name], values)


def test_same_seed_same_training():
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        labels = torch.arange(8) % 10
        pixels = draw(8, 3, 32, 32)
        runs.append(
            module.train(Cifar10Network(), pixels, labels, epochs=2, seed=seed, batch_size=8)
        )
    assert runs[0] == runs[1] != runs[2]


def test_shift_moves_by_at_most_four_pixels():
    pixels = draw(2000, 3, 6, 7)
    moved = module.shift(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape
    padded = torch.nn.functional.pad(pixels.float(), (4,) * 4, mode="reflect").to(torch.uint8)
    windows = padded.unfold(2, 6, 1).unfold(3, 7, 1)  # (2000, 3, 9, 9, 6, 7)
    same = (windows == moved[:, :, None, None]).all((1, 4, 5))
    assert same.any((1, 2)).all()
    assert same.any(0).all()  # each of the 81 places is taken by some image


@pytest.mark.parametrize("verb", ["train", "test"])
def test_missing_data_is_one_sentence(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cifar10_network.py", verb, "--data", str(tmp_path / "no")])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("expected data at ")
    assert error.count("\n") == 1
