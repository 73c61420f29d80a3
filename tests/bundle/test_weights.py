"""The weights of a checkpoint become model folders, whole or from shards."""

import dataclasses
import json
import shutil

import pytest
import torch

from convflow.bundle import weights
from convflow.bundle.weights import export_weights
from convflow.pipeline import Pipeline
from convflow.storage import hash_tensors, read_tensors
from convflow.training import checkpoint, launch
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.shards import cut

NAME = "model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of an earlier version with a checkpoint of this one."""
    run = tmp_path_factory.mktemp("whole") / "run"
    shutil.copytree(GOLDENS / "run_0_1", run)
    config = dataclasses.replace(launch.read_run_config(run), images=24)
    assert launch.train(config, run)
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A run whose newest checkpoint is in shards."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    cut(checkpoint.folder_of(run, 3), 3)
    return run


def test_shards_are_gathered_for_use(run, whole, tmp_path):
    with pytest.raises(InputError, match=f"got a checkpoint in shards; .* convflow export {run}$"):
        Pipeline.from_pretrained(run)
    out = tmp_path / "out"
    assert export_weights(run, out) == [out / "raw", out / "ema"]
    export_weights(run)
    for kind in ("raw", "ema"):
        expected = hash_tensors(read_tensors(checkpoint.folder_of(whole, 3) / kind / NAME))
        for folder in (out / kind, checkpoint.folder_of(run, 3) / kind):
            assert hash_tensors(read_tensors(folder / NAME)) == expected
            Pipeline.from_pretrained(folder)
    Pipeline.from_pretrained(run)
    assert [path.name for path in run.rglob(".writing-*")] == []


def test_whole_weights_are_copied(whole, tmp_path):
    (raw, _) = export_weights(checkpoint.folder_of(whole, 2), tmp_path / "out")
    stored = checkpoint.folder_of(whole, 2) / "raw"
    assert all((raw / p.name).read_bytes() == p.read_bytes() for p in stored.glob("*s*.s*"))
    with pytest.raises(InputError, match=r"could not write .*out: it exists already"):
        export_weights(whole, tmp_path / "out")
    with pytest.raises(InputError, match="expected a run or a checkpoint of convflow train, got"):
        export_weights(raw)


def test_what_is_missing_or_damaged_is_named_and_nothing_is_written(run, tmp_path):
    shard = next((checkpoint.folder_of(run, 3) / "shards/ema").glob("shard-1*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    config = launch.read_run_config(run)
    for message in ("is damaged: its size or SHA-256", "found none; "):
        with pytest.raises(InputError, match=message):
            export_weights(run, tmp_path / "out")
        with pytest.raises(InputError, match=message):
            launch.train(config, run)
        shard.unlink(missing_ok=True)
    assert not (tmp_path / "out").exists()


def test_another_layout_is_refused_by_name(run):
    path = checkpoint.folder_of(run, 3) / "state.json"
    state = json.loads(path.read_text()) | {"shards": 2, "version": "9.0"}
    path.write_text(json.dumps(state | {"sha256": checkpoint.sum_of(state)}))
    with pytest.raises(InputError, match=r"layout 1, got 2 in .* convflow 9.0 wrote;"):
        launch.train(launch.read_run_config(run), run)


def test_weights_are_rounded_from_whole_files_and_from_shards(run, whole, tmp_path):
    wanted = read_tensors(checkpoint.folder_of(whole, 3) / "ema" / NAME)
    for source in (run, whole):
        out = tmp_path / f"out-{source.parent.name}"
        (_, ema) = export_weights(source, out, dtype=torch.bfloat16)
        stored = read_tensors(ema / NAME)
        assert stored.keys() == wanted.keys()
        assert all(stored[n].equal(t.bfloat16()) for n, t in wanted.items())
        assert sum(t.nbytes for t in stored.values()) == sum(t.nbytes for t in wanted.values()) / 2
        model = Pipeline.from_pretrained(ema, device="cpu").model
        assert {t.dtype for t in model.state_dict().values()} == {torch.float32}
    with pytest.raises(InputError, match=r"--dtype: expected a new folder .* add --out FOLDER"):
        export_weights(run, dtype=torch.bfloat16)


def test_numbers_beyond_a_dtype_are_refused():
    with pytest.raises(InputError, match=r"within 65504, got 70000 in a\.weight; use bfloat16"):
        weights._cast(torch.tensor([1.0, -7e4]), torch.float16, "a.weight")
    assert weights._cast(torch.tensor([6e4]), torch.float16, "a").dtype == torch.float16
    assert weights._cast(torch.tensor([7e4]), torch.bfloat16, "a").isfinite().all()
    assert weights._cast(torch.tensor([70_000]), torch.float16, "a").dtype == torch.int64
