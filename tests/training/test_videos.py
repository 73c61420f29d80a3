"""Training on videos: the same parts and promises as on pictures."""

from dataclasses import replace

import pytest
import torch

from convflow.cli.main import main
from convflow.pipeline import Pipeline
from convflow.recipes import create_config
from convflow.training.origin import adopt
from convflow.training.overrides import override
from convflow.types import InputError
from tests.autoencoder import save_tiny

TINY = (
    "--model.width 16 --model.depth 1 --model.num-groups 2 --batch-size 4 --images 16 "
    "--data.size 4x16x16 --precision float32 --monitor.num-samples 2 --sampling.steps 3 "
    "--monitor.samples-minutes 1e6 --optim.warmup-images 0 --optim.schedule constant"
)
NETWORKS = {
    "dico": "--model.name dico --model.width 8 --model.depths 1,1,1,1,1 --model.temporal conv",
    "sit": "--model.name sit --model.width 16 --model.depth 1 --model.num-heads 2 "
    "--model.patch-size 4 --model.temporal factorised",
}


def settings(words="", recipe="toy.moving"):
    return override(create_config(recipe), [*TINY.split(), *words.split()])


def state_of(trainer):
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("toy.moving", "--data.buckets 3 --data.flip true --data.crop random"),
        ("toy.moving_dfm", "--process.axes time --data.augment 0.5"),
        ("toy.moving_dfm", "--process.factors 2,2 --process.axes time,space"),
        ("toy.moving", "--process ddpm --data.sizes 4x16x16,2x16x16"),
        ("toy.moving", "--process meanflow --sampling.solver average --sampling.steps 2"),
    ],
)
def test_going_on_is_exact(recipe, words, trainer_of, tmp_path):
    config = settings(words, recipe)
    straight = trainer_of(config, tmp_path / "straight")
    assert straight.run()
    before = trainer_of(settings(words + " --images 8", recipe), tmp_path / "before")
    assert before.run()
    after = trainer_of(config, tmp_path / "after")
    after.load(before.begun_from or before.saved)
    assert after.run()
    expected, found = state_of(straight), state_of(after)
    assert all(found[name].equal(expected[name]) for name in expected)
    names = {path.suffix for path in (tmp_path / "straight/samples").iterdir()}
    assert names == {".gif", ".png"}


def test_a_run_is_sampled_at_other_sizes(trainer_of, tmp_path):
    trainer = trainer_of(settings("--images 4"), tmp_path / "run")
    assert trainer.run()
    pipe = Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    made = pipe(["disc", "ring"], steps=2, size=(6, 16, 24))
    assert tuple(made.pixels.shape) == (2, 3, 6, 16, 24)
    assert [len(video) for video in made.images] == [6, 6]
    assert made.images[0][0].size == (24, 16)
    with pytest.raises(InputError, match="frames, height and width such as 4x16x16, got 16x16"):
        pipe(size=(16, 16))
    with pytest.raises(InputError, match="expected a model of images with an image and a mask"):
        pipe(image=made.images[0][0], mask=made.images[0][0])


@pytest.mark.parametrize("network", NETWORKS)
def test_other_networks_learn(network, trainer_of, tmp_path):
    words = TINY.replace("--model.width 16 --model.depth 1 --model.num-groups 2", "")
    recipe = replace(create_config("toy.moving"), model={"name": network})
    config = override(recipe, [*words.split(), *NETWORKS[network].split(), "--images", "4"])
    trainer = trainer_of(config, tmp_path / "run")
    assert trainer.run()
    assert all(tensor.isfinite().all() for tensor in trainer.model.state_dict().values())


def test_scales_along_time_of_latents_count_cells(trainer_of, tmp_path, capsys):
    save_tiny("AutoencoderKLWan", tmp_path / "vae")
    words = (
        f"--codec latent --codec.autoencoder {tmp_path / 'vae'} --data.size 13x32x32 --images 4 "
        "--process.axes time --model.patch-size 1"
    )
    trainer = trainer_of(settings(words, "toy.moving_dfm"), tmp_path / "run")
    assert trainer.process.sizes(trainer.shape[1:]) == ((2, 4, 4), (4, 4, 4))
    assert trainer.run()
    pipe = Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    assert tuple(pipe(num=1, steps=2, size=(5, 32, 32)).pixels.shape) == (1, 3, 5, 32, 32)
    coarse = pipe(num=1, steps=2, stop_scale=1).pixels
    assert tuple(coarse.shape) == (1, 3, 5, 32, 32)
    with pytest.raises(InputError, match=r"expected 4 \(2 k - 1\) \+ 1 frames, got 9x32x32"):
        pipe(num=1, size=(9, 32, 32))
    with pytest.raises(InputError, match=r"the nearest that works is 13x32x32"):
        trainer_of(settings(words.replace("13x", "17x"), "toy.moving_dfm"))
    assert main(["info", str(tmp_path / "run"), "--batch-size", "2"]) == 0
    said = capsys.readouterr().out
    assert "2x4x4" in said
    assert "4x4x4" in said


def test_a_network_of_videos_begins_from_one_of_pictures(trainer_of, tmp_path):
    words = TINY.replace("4x16x16", "16x16") + " --images 8"
    pictures = trainer_of(override(create_config("toy.shapes"), words.split()), tmp_path / "shapes")
    assert pictures.run()
    begun = settings(f"--init {tmp_path / 'shapes'}")
    adopted = adopt(create_config("toy.moving"), str(tmp_path / "shapes"))
    assert adopted.model["temporal"] == "conv"
    assert adopted.model["width"] == 16
    videos = trainer_of(begun, tmp_path / "moving")
    x, y = torch.randn(2, 3, 4, 16, 16), torch.tensor([1, 2])
    t = torch.tensor([0.3, 0.6])
    whole, single = videos.model.eval(), pictures.ema.model.eval()
    expected = torch.stack([single(frame, t, y) for frame in x.unbind(2)], 2)
    assert torch.allclose(whole(x, t, y), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.size 16x16", "three numbers such as 16x32x32 for the videos of moving, got 16x16"),
        ("--model.temporal none", "expected a network of videos for the data moving"),
        ("--data shapes", "two numbers such as 64x48 for the images of shapes, got 4x16x16"),
        ("--data shapes --data.size 16x16", "expected a network of images for the data shapes"),
        ("--process dfm --process.axes time --data.size 3x16x16", "frames that 2 divides"),
    ],
)
def test_pictures_and_videos_are_never_mixed(words, message, trainer_of):
    with pytest.raises(InputError, match=message):
        trainer_of(settings(words))
