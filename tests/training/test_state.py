"""A state is stored whole, checked when it is taken back, and saved before an error ends a run."""

import dataclasses
import itertools
import json
import shutil

import pytest
import safetensors.torch
import torch
from PIL import Image

from convflow import storage
from convflow.data.loader import Images, batches
from convflow.models.zoo import load_model
from convflow.pipeline import Pipeline
from convflow.training import checkpoint, launch
from convflow.training.keys import from_dict
from convflow.types import Diverged, InputError
from tests.cases import GOLDENS

OF_ALL = (checkpoint.RAW_FILE, checkpoint.EMA_FILE, checkpoint.OPTIMIZER_FILE)
"""What every checkpoint holds; one of objectives with parameters holds theirs too."""


def take_steps(trainer, count):
    config = trainer.config
    stream = batches(trainer.images, trainer.order, trainer.images_seen, config.batch_size)
    for batch in itertools.islice(stream, count):
        trainer.train_step(*batch)


def flip(path, place=-41):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def forget_sums(folder):
    """Make a checkpoint one of an earlier version."""
    state = json.loads((folder / "state.json").read_text())
    del state["files"], state["sha256"]
    (folder / "state.json").write_text(json.dumps(state))


def poison(path, number):
    """Put a number into the last tensor of a file; return the name of that tensor."""
    tensors = safetensors.torch.load(path.read_bytes())
    name = max(name for name, tensor in tensors.items() if tensor.ndim)
    tensors[name].flatten()[0] = number
    safetensors.torch.save_file(tensors, path)
    return name


@pytest.fixture
def saved(tiny, trainer_of):
    """A trainer with checkpoints of its steps 1 and 2, and the newer of them."""
    trainer = trainer_of(tiny())
    for _ in range(2):
        take_steps(trainer, 1)
        folder = trainer.save()
    return trainer, folder


@pytest.mark.parametrize("name", checkpoint.FILES)
def test_one_flipped_bit_is_refused(saved, name):
    trainer, folder = saved
    flip(folder / name)
    message = rf"{name} is damaged: .*; move {folder} elsewhere to go on from the checkpoint before"
    with pytest.raises(InputError, match=message):
        trainer.load(folder)
    if name.endswith("model.safetensors") or name == checkpoint.OPTIMIZER_FILE:
        settings = dataclasses.replace(trainer.config.checkpoint, verify=False)
        trainer.config = dataclasses.replace(trainer.config, checkpoint=settings)
        trainer.load(folder)


@pytest.mark.parametrize(
    ("key", "value", "good"),
    [
        ("images_seen", 8, False),
        ("precision", "bfloat16", False),
        ("stamp", "another", False),
        ("files", {}, False),
        ("config", {"seed": 5}, True),
    ],
)
def test_a_state_vouches_for_itself_but_its_settings(saved, key, value, good):
    trainer, folder = saved
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {key: value}))
    if good:
        trainer.load(folder)
        return
    with pytest.raises(InputError, match=rf"state.json is damaged: its SHA.*; move {folder} else"):
        trainer.load(folder)
    older = checkpoint.folder_of(trainer.run_folder, 1)
    assert checkpoint.find_good(trainer.run_folder) == older
    settings = dataclasses.replace(trainer.config.checkpoint, verify=False)
    trainer.config = dataclasses.replace(trainer.config, checkpoint=settings)
    trainer.load(folder)


def test_a_renamed_checkpoint_is_no_other_step(saved):
    trainer, folder = saved
    other = folder.rename(checkpoint.folder_of(trainer.run_folder, 7))
    with pytest.raises(InputError, match=f"expected step 7 in {other}/state.json, got 2; move"):
        trainer.load(other)


def test_what_pipelines_are_told_may_be_edited(saved):
    trainer, folder = saved
    path = folder / "ema/pipeline.json"
    known = json.loads(path.read_text())
    known["sampling"]["solver"]["steps"] = 7
    path.write_text(json.dumps(known))
    for place in (trainer.run_folder, folder, path.parent):
        assert Pipeline.from_pretrained(place).sampling.solver.steps == 7
    trainer.load(folder)
    path.write_text("{")
    with pytest.raises(InputError, match=rf"{path} .*; move {folder}"):
        Pipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_pipelines_check_what_they_read(saved, name):
    trainer, folder = saved
    flip(folder / "ema" / name)
    Pipeline.from_pretrained(folder, weights="raw")
    for place in (trainer.run_folder, folder, folder / "ema"):
        with pytest.raises(InputError, match=rf"ema/{name} is damaged.*; move {folder}"):
            Pipeline.from_pretrained(place)
    if name == "model.safetensors":
        Pipeline.from_pretrained(folder, verify=False)
        load_model(folder / "ema", verify=False)
        with pytest.raises(InputError, match="is damaged"):
            load_model(folder / "ema")


@pytest.mark.parametrize("part", OF_ALL)
def test_what_is_not_finite_is_neither_saved_nor_loaded(saved, part):
    trainer, folder = saved
    tensors = trainer.optimizer.state[trainer.model.blocks[0].mlp.out.weight]
    held = {
        checkpoint.RAW_FILE: trainer.model.blocks[0].mlp.out.weight,
        checkpoint.EMA_FILE: trainer.ema.model.blocks[0].mlp.out.weight,
        checkpoint.OPTIMIZER_FILE: tensors["exp_avg"],
    }[part]
    with torch.no_grad():
        held[0, 0] = torch.nan
    message = f"in {checkpoint.PARTS[part]}, got others, first in blocks.0.mlp.out.weight.*kept: "
    with pytest.raises(Diverged, match=f"{message}{folder};"):
        trainer.save()
    forget_sums(folder)
    name = poison(folder / part, torch.inf)
    with pytest.raises(InputError, match=f"{part} holds .* not finite, first in {name}; move") as e:
        trainer.load(folder)
    assert "optim.lr" not in str(e.value)
    older = checkpoint.folder_of(trainer.run_folder, 1)
    with pytest.raises(Diverged, match=f"{message}{older};"):  # the bad one is not called kept
        trainer.save()


def test_the_first_step_after_a_bad_checkpoint_does_not_blame_the_learning_rate(saved):
    trainer, folder = saved
    forget_sums(folder)
    poison(folder / checkpoint.RAW_FILE, 1e38)
    trainer.load(folder)
    older = checkpoint.folder_of(trainer.run_folder, 1)
    message = f"kept: {older}; the first step after {folder} was read, which may be bad: move it"
    with pytest.raises(Diverged, match=message) as caught:
        take_steps(trainer, 1)
    assert "optim.lr" not in str(caught.value)


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_in_the_way_is_moved_aside(tiny, trainer_of, whole, caplog):
    other, trainer = trainer_of(tiny("--seed 5")), trainer_of(tiny())
    content = {}
    for number, name in (("", "aside"), ("2", "aside2")):
        folder = other.save()
        if not whole:
            (folder / "state.json").unlink()
        content[name] = (folder / checkpoint.RAW_FILE).read_bytes()
        trainer.saved = other.saved = None
        assert trainer.save() == folder
        aside = folder.with_name(f"{folder.name}.aside{number}")
        assert (aside / checkpoint.RAW_FILE).read_bytes() == content[name]
        assert f"what lay there is now {aside}" in caplog.text
        shutil.rmtree(folder)
    trainer.save()
    trainer.load(folder)


def test_a_part_that_went_missing_is_written_again(saved):
    trainer, folder = saved
    (folder / checkpoint.OPTIMIZER_FILE).unlink()
    trainer.save()
    trainer.load(folder)


def test_another_way_to_sample_is_told_to_pipelines_of_a_saved_moment(saved):
    trainer, folder = saved
    content = (folder / "state.json").read_bytes()
    sampling = trainer.config.sampling
    sampling = dataclasses.replace(sampling, solver=dataclasses.replace(sampling.solver, steps=9))
    trainer.config = dataclasses.replace(trainer.config, sampling=sampling)
    assert trainer.save() == folder
    assert Pipeline.from_pretrained(folder).sampling.solver.steps == 9
    assert (folder / "state.json").read_bytes() == content
    trainer.load(folder)


def began_with(folder, *, older=False, **changed):
    """Make the state of a checkpoint one of other images, maybe of an earlier version."""
    state = json.loads((folder / "state.json").read_text()) | changed
    if older:
        del state["config"]["data"]["labels"]
    (folder / "state.json").write_text(json.dumps(state))


LABELS = "since convflow now reads files of labels and takes folders such as test for splits"


@pytest.mark.parametrize(
    ("words", "endings", "state", "ways"),
    [
        ("", "", {"num_pictures": 23}, ["23 images, got 22 in DATA; restore the data"]),
        (
            "",
            "",
            {"pictures": "x"},
            ["other images, classes, labels or captions than are in DATA now; re"],
        ),
        (
            "--data.on-bad skip",
            "",
            {"num_pictures": 23},
            ["; restore RUN/pictures.npz, which names the images of the run, or the data"],
        ),
        (
            "",
            ".gif .tga .gif",
            {"older": True, "num_pictures": 22},
            ["got 25 in DATA; since convflow now reads more kinds of files, move them away (2 "],
        ),
        ("", "", {"older": True, "num_pictures": 30}, ["restore the data", f"{LABELS}, pass"]),
        ("", "", {"older": True, "pictures": "x"}, [f"; or {LABELS}"]),
        (
            "",
            ".ppm",
            {"older": True, "num_pictures": 20},
            ["move them away (1 .ppm); or", f"; or {LABELS}"],
        ),
    ],
)
def test_other_pictures_are_refused_with_why(
    data, tiny, trainer_of, tmp_path, words, endings, state, ways
):
    pictures = shutil.copytree(data, tmp_path / "pictures")
    for number, ending in enumerate(endings.split()):
        place = next(pictures.iterdir()) / f"more{number}{ending}"
        Image.new("RGB", (8, 8)).save(place)
    trainer = trainer_of(tiny(f"--data {pictures} {words}"))
    folder = trainer.save()
    began_with(folder, **state)
    with pytest.raises(InputError) as error:
        trainer.load(folder)
    run = trainer.run_folder
    for way in ways:
        assert way.replace("DATA", str(pictures)).replace("RUN", str(run)) in str(error.value)
    assert (LABELS in str(error.value)) == (LABELS in "".join(ways))
    end = f"; or begin another run from its weights: convflow train --init {run} --data {pictures} "
    assert str(error.value).endswith(f"{end}--run {run}-2")


def test_pictures_that_are_new_or_gone_are_named(data, tiny, tmp_path):
    pictures, run = shutil.copytree(data, tmp_path / "pictures"), tmp_path / "run"
    config = tiny(f"--data {pictures} --images 8")
    assert launch.train(config, run)
    first = min(pictures.rglob("*.png"))
    first.rename(first.with_name("other.png"))
    name = first.parent.name
    with pytest.raises(
        InputError, match=rf"now \(new: {name}/other.png; gone: {name}/{first.name}"
    ):
        launch.train(dataclasses.replace(config, images=16), run)
    first.with_name("other.png").unlink()
    with pytest.raises(InputError, match=rf"got 21 in {pictures} \(gone: {name}/{first.name}\); "):
        launch.train(dataclasses.replace(config, images=16), run)


def test_a_bad_picture_ends_the_run_after_saving(tiny, trainer_of, monkeypatch, tmp_path):
    batch, error = Images.batch, InputError("odd/3.png: truncated; replace it")

    def damaged(self, indices, *rest):
        if len(calls) == 3:
            raise error
        calls.append(indices)
        return batch(self, indices, *rest)

    calls = []
    monkeypatch.setattr(Images, "batch", damaged)
    folder = checkpoint.folder_of(tmp_path / "run", 3)
    with pytest.raises(InputError, match=f"^odd/3.png: truncated; .*; saved before: {folder}$"):
        trainer_of(tiny()).run()
    monkeypatch.setattr(Images, "batch", batch)
    later, straight = trainer_of(tiny()), trainer_of(tiny(), tmp_path / "straight")
    later.load(folder)
    assert later.run()
    assert straight.run()
    for name in OF_ALL:
        one, other = (checkpoint.folder_of(t.run_folder, 20) / name for t in (later, straight))
        assert one.read_bytes() == other.read_bytes()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (
        tmp_path / "straight/metrics.jsonl"
    ).read_bytes()


@pytest.mark.parametrize("place", ["optimizer", "loss", "save"])
def test_a_save_that_cannot_be_hides_no_error(tiny, trainer_of, monkeypatch, place, caplog):
    trainer, error = trainer_of(tiny()), MemoryError("too large")

    def fail(*_, **__):
        raise error

    if place == "optimizer":  # half a step is no state to go on from
        trainer.optimizer.step = fail
    else:
        monkeypatch.setattr(trainer, "losses_of", fail)
    if place == "save":
        monkeypatch.setattr("convflow.training.trainer.store", lambda *_: 1 / 0)
    with pytest.raises(MemoryError, match="too large"):
        trainer.run()
    assert len(checkpoint.list_steps(trainer.run_folder)) == (place == "loss")
    assert ("nothing could be saved: division" in caplog.text) == (place == "save")


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    run = tmp_path / "run"
    shutil.copytree(GOLDENS / "run_0_1", run)
    old = checkpoint.folder_of(run, 2)
    assert "files" not in checkpoint.read_state(old)
    weights = storage.read_tensors(old / checkpoint.EMA_FILE)
    model = Pipeline.from_pretrained(run).model
    assert all(torch.equal(model.state_dict()[name], w) for name, w in weights.items())
    config = launch.read_run_config(run)
    assert config == from_dict(checkpoint.read_state(old)["config"])
    assert launch.train(dataclasses.replace(config, images=24), run)
    assert checkpoint.list_steps(run) == [2, 3]
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert lines[:2] == (GOLDENS / "run_0_1/metrics.jsonl").read_text().splitlines()
    assert "files" in checkpoint.read_state(checkpoint.folder_of(run, 3))
