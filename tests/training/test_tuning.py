"""What is trained of a network: frozen parameters stay, adapters go on exactly where they were."""

import json
import re
import shutil

import pytest
import torch

from convflow.bundle.folder import find_weights
from convflow.cli.main import main
from convflow.models.adapter import base_tensors
from convflow.models.zoo import load_model
from convflow.parallel.single import Single
from convflow.pipeline import Pipeline
from convflow.recipes import create_config
from convflow.training import checkpoint, launch
from convflow.training.overrides import override
from convflow.training.tuning import BASE, check_tuning
from convflow.types import InputError
from tests.tolerance import assert_close_rms

NETWORK = "--model.width 16 --model.depth 2 --model.num-groups 2 --model.patch-size 1 "
SHORT = (
    "--batch-size 4 --monitor.num-samples 2 --monitor.tensorboard false --sampling.steps 2 "
    "--optim.schedule constant --optim.warmup-images 0 --device cpu --precision float32 "
    "--optim.lr 0.02 --ema.decay 0.5 "
)


def settings(words):
    return override(create_config("digits.flowdcn"), f"{NETWORK}{SHORT}{words}".split())


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A finished run of all digits; do not write to it."""
    run = tmp_path_factory.mktemp("plain") / "run"
    assert launch.train(settings("--images 8"), run)
    return run


def state(run, step, kind="raw"):
    return load_model(checkpoint.folder_of(run, step) / kind).state_dict()


def test_frozen_parameters_stay_and_going_on_is_exact(plain, tmp_path):
    words = f"--init {plain} --freeze embed*,blocks.0.* --optim.layer-decay 0.5 --images"
    assert launch.train(settings(f"{words} 16"), tmp_path / "straight")
    assert launch.train(settings(f"{words} 8"), tmp_path / "halved")
    assert launch.train(settings(f"{words} 16"), tmp_path / "halved")
    before, after = state(plain, 2, "ema"), state(tmp_path / "straight", 4)
    for name, tensor in after.items():
        frozen = name.startswith(("embed", "blocks.0."))
        assert tensor.equal(before[name]) == frozen, name
    folders = [checkpoint.folder_of(tmp_path / r, 4) for r in ("straight", "halved")]
    for name in (*checkpoint.FILES[:3],):
        one, other = ((folder / name).read_bytes() for folder in folders)
        assert one == other, name
    kept = set(json.loads((folders[0] / "optimizer.safetensors").read_bytes().split(b"}}")[0][8:]
                          + b"}}")) - {"__metadata__"}  # fmt: skip
    assert not [name for name in kept if name.startswith(("embed", "blocks.0."))]
    with pytest.raises(InputError, match="started with other settings: freeze"):
        launch.train(settings(f"--init {plain} --freeze embed* --images 20"), tmp_path / "halved")


def test_factors_fall_with_the_depth(tiny, trainer_of):
    trainer = trainer_of(tiny("--optim.layer-decay 0.5 --model.depth 3"))
    named = {id(p): name for name, p in trainer.model.named_parameters()}
    factors = {
        named[id(p)].partition(".")[0] + "." + named[id(p)].split(".")[1]: group["lr_scale"]
        for group in trainer.optimizer.param_groups
        for p in group["params"]
    }
    assert factors["project.out"] == 1
    assert [factors[f"blocks.{block}"] for block in (2, 1, 0)] == [0.5, 0.25, 0.125]
    assert factors["embed_time.hidden"] == factors["embed_label.weight"] == 0.0625


@pytest.fixture(scope="module")
def halves(plain, tmp_path_factory):
    """The folder of two runs of adapters of one end; one was begun anew in the middle."""
    place = tmp_path_factory.mktemp("halves")
    for run, ends in (("straight", [16]), ("halved", [8, 16])):
        for images in ends:
            words = f"--init {plain} --lora.rank 2 --images {images}"
            assert launch.train(settings(words), place / run)
    return place


def test_adapters_go_on_exactly_and_their_run_needs_no_other(halves, plain, tmp_path, capsys):
    run, base = halves / "straight", state(plain, 2, "ema")
    folders = [checkpoint.folder_of(halves / r, 4) for r in ("straight", "halved")]
    for name in ("raw", "ema"):
        files = [folder / name / "adapter_model.safetensors" for folder in folders]
        assert files[0].read_bytes() == files[1].read_bytes()
        assert not (folders[0] / name / "model.safetensors").exists()
    assert (folders[0] / "optimizer.safetensors").read_bytes() == (
        folders[1] / "optimizer.safetensors"
    ).read_bytes()
    stored = load_model(run / BASE).state_dict()
    assert all(stored[name].equal(tensor) for name, tensor in base.items())
    merged, moved = load_model(find_weights(run, "ema")).state_dict(), set()
    for name, tensor in merged.items():
        if not tensor.equal(base[name]):
            moved.add(name)
    assert moved
    assert all(name.startswith("blocks.") and name.endswith(".weight") for name in moved)

    shutil.copytree(run, tmp_path / "elsewhere")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "elsewhere"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["adapter"]["rank"], told["adapter"]["layers"]) == (2, 18)
    assert told["config"]["lora"]["modules_to_save"] == "none"
    given = {"labels": [0, 3], "steps": 2, "seed": 1}
    expected = Pipeline.from_pretrained(tmp_path / "elsewhere")(**given).images
    for words in ([], ["--merge"]):
        out = tmp_path / f"out{len(words)}"
        assert main(["export", str(run), "--out", str(out), *words]) == 0
        assert (out / "ema" / "model.safetensors").exists() == bool(words)
        images = Pipeline.from_pretrained(out / "ema")(**given).images
        assert [i.tobytes() for i in images] == [i.tobytes() for i in expected]
    capsys.readouterr()
    assert main(["export", str(run), "--merge"]) == 2
    assert "--merge: expected a run of low-rank adapters and --out, got no --out" in (
        capsys.readouterr().err
    )
    assert main(["export", str(plain), "--merge", "--out", str(tmp_path / "x")]) == 2
    assert "got " + str(plain) + " without adapters; leave it out" in capsys.readouterr().err


def test_a_changed_or_missing_base_is_found(halves, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(halves / "straight", run)
    path = run / BASE / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for use in (lambda: load_model(find_weights(run, "ema")), lambda: _resume(run)):
        with pytest.raises(InputError, match=r"base.model.safetensors is damaged: its size or SHA"):
            use()
    shutil.rmtree(run / BASE)
    with pytest.raises(InputError, match="expected the network of the adapter"):
        load_model(checkpoint.folder_of(run, 4) / "ema")
    with pytest.raises(InputError):
        _resume(run)


def _resume(run):
    config = launch.read_run_config(run)
    return launch.train(override(config, ["--images", "24"]), run)


def test_new_classes_train_their_table_whole(tiny, trainer_of, tmp_path, plain):
    """Of weights with other classes; a part by name too, and nothing where that is said."""
    first = tiny("--images 8 --optim.lr 0.02")
    assert launch.train(first, tmp_path / "first")
    words = f"--init {tmp_path / 'first'} --lora.rank 1 --lora.alpha 4"
    same = trainer_of(tiny(words), tmp_path / "same")
    assert same.config.lora.modules_to_save == "none"
    assert same.config.lora.alpha == 4
    init = (
        f"--init {plain} --data.channels 1 {NETWORK} --model.reach 2 --data.size 8x8 --lora.rank 1"
    )
    other = trainer_of(tiny(init), tmp_path / "other")
    assert other.config.lora.modules_to_save == "embed_label"
    trained = {n for n, p in other.model.named_parameters() if p.requires_grad}
    assert {n for n in trained if ".lora_" not in n} == {
        "embed_label.modules_to_save.default.weight"
    }
    said = other.model(*_inputs(other.model))
    own = base_tensors(other.model)
    assert own["embed_label.weight"][-1].equal(state(plain, 2, "ema")["embed_label.weight"][-1])
    assert said.isfinite().all()
    assert_close_rms(said, other.ema.model(*_inputs(other.model)))
    more = f"{init} --lora.modules-to-save project,embed_time.* --lora.target blocks.*.mlp.*"
    chosen = trainer_of(tiny(more), tmp_path / "chosen")
    assert chosen.config.lora.modules_to_save == "embed_time.hidden,embed_time.out,project"


def _inputs(network):
    return torch.zeros(1, network.in_channels, 8, 8), torch.zeros(1), torch.tensor([0])


class Sharing(Single):
    """An engine whose processes hold shares of a network."""

    sharded = True


@pytest.mark.slow
def test_scales_around_weights_of_one_are_trained_whole_beside_adapters(plain, tmp_path):
    words = f"--init {plain} --lora.rank 2 --process dfm --images"
    for run, ends in (("straight", [8]), ("halved", [4, 8])):
        for images in ends:
            assert launch.train(settings(f"{words} {images}"), tmp_path / run)
    one, other = (state(tmp_path / run, 2) for run in ("straight", "halved"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    before = state(plain, 2, "ema")
    assert not torch.equal(one["stems.0.stem.weight"], before["embed_patches.weight"])
    assert torch.equal(one["backbone.embed_label.weight"], before["embed_label.weight"])


def test_a_shared_network_takes_no_adapters():
    engine = Sharing(torch.device("cpu"))
    with pytest.raises(InputError, match=r"expected auto or ddp with --lora\.rank, got fsdp"):
        check_tuning(settings("--init x --lora.rank 2"), engine, None)
    with pytest.raises(InputError, match="expected auto or ddp with --freeze, got fsdp"):
        check_tuning(settings("--freeze embed*"), engine, None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lora.rank 2", "--lora.rank: expected trained weights to adapt, got none; add --init"),
        ("--init P --lora.rank 2 --lora.target blok.*", "got 'blok.*', which fits none; nearest: "),
        ("--init P --lora.rank 2 --lora.target embed_patches", "a linear or 1x1 layer, got 'embed"),
        (
            "--init P --lora.rank 2 --lora.modules-to-save emb",
            "a module with parameters, got 'emb'",
        ),
        (
            "--init P --lora.rank 2 --lora.modules-to-save blocks.0",
            "the modulation of a block, got",
        ),
        ("--init P --lora.rank 2 --lora.modules-to-save blocks.0.mlp", "without adapters, got"),
        ("--init P --lora.rank 2 --freeze embed*", "--freeze: expected none with --lora.rank"),
        ("--init P --lora.rank 2 --optim.kind muon", "--optim.kind: expected an optimizer for"),
        ("--freeze embed*,blok*", "--freeze: expected patterns that fit a parameter, got 'blok*'"),
        ("--freeze *", "expected some parameters to train, got *, which fits all of them"),
        ("--optim.lr-scale blok*=2", "got 'blok*', which fits none; nearest: blocks."),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_written(words, message, plain, tmp_path):
    with pytest.raises(InputError, match=re.escape(message)):
        launch.train(settings(words.replace("P", str(plain))), tmp_path / "run")
    assert not (tmp_path / "run").exists()
