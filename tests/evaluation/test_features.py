"""Features in parts on disk: kept, checked, made again, shared by processes."""

import hashlib

import numpy as np
import pytest
import torch

from convflow.evaluation import features as module
from convflow.evaluation.detectors import Detector
from convflow.evaluation.features import digest, extract, part_path
from convflow.types import InputError
from tests.extending.detector import load
from tests.two_processes import run_two

CPU = torch.device("cpu")


class RandomImages:
    """Random images that count how often each is read."""

    def __init__(self, num=23, size=(6, 4), seed=0, reproducible=True):
        rng = np.random.default_rng(seed)
        self.pixels = torch.from_numpy(rng.integers(0, 256, (num, 3, *size), np.uint8))
        self.size, self.channels, self.reproducible = size, 3, reproducible
        self.reads = []

    def read(self, indices, progress=None):
        self.reads += indices
        if progress is not None:
            progress(len(indices))
        return self.pixels[list(indices)]

    def describe(self):
        return {"name": "random"}


@pytest.fixture
def detector():
    return Detector("tiny", "00", "none", load())


def run(images, detector, folder, num=23, batch_size=5, **more):
    return extract(images, num, detector, folder, batch_size=batch_size, device=CPU, **more)


def test_features_in_order(detector, tmp_path):
    images, reported = RandomImages(), []
    found = run(images, detector, tmp_path, progress=reported.append)
    expected = detector(images.pixels)
    assert list(found.widths()) == ["features", "logits", "spatial"]
    for kind in list(found.widths()):
        torch.testing.assert_close(found.stack(kind), expected[kind])
    assert sum(reported) == 23
    rows = expected["spatial"].double()
    mean, covariance = found.moments("spatial")
    torch.testing.assert_close(mean, rows.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(covariance, rows.T.cov(), rtol=1e-6, atol=1e-6)


def test_parts_that_are_there_are_not_made_again(detector, tmp_path):
    run(RandomImages(), detector, tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    part_path(tmp_path, 10).unlink()
    part_path(tmp_path, 15).write_bytes(b"half a file")
    images, reported = RandomImages(), []
    run(images, detector, tmp_path, progress=reported.append)
    assert images.reads == list(range(10, 20))
    assert sum(reported) == 23
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("place", [0, 9, -1], ids=["length", "header", "features"])
def test_a_damaged_part_is_made_again(detector, tmp_path, place):
    path = run(RandomImages(), detector, tmp_path).paths()[0]
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[place] ^= 4
    path.write_bytes(damaged)
    run(RandomImages(), detector, tmp_path)
    assert path.read_bytes() == whole


def test_given_pictures_are_looked_at_again(detector, tmp_path):
    run(RandomImages(reproducible=False), detector, tmp_path)
    changed = RandomImages(reproducible=False)
    changed.pixels[7] += 1
    found = run(changed, detector, tmp_path)
    assert changed.reads == list(range(23))
    torch.testing.assert_close(found.stack("features"), detector(changed.pixels)["features"])


def test_the_hash_of_the_pictures_depends_on_nothing_but_them(detector, tmp_path):
    a = run(RandomImages(), detector, tmp_path / "a", batch_size=5).sha256()
    assert run(RandomImages(), detector, tmp_path / "b", batch_size=23).sha256() == a
    other = RandomImages()
    other.pixels[22, 2, 5, 3] += 1
    assert run(other, detector, tmp_path / "c").sha256() != a
    swapped = RandomImages()
    swapped.pixels = swapped.pixels.flip(0)
    assert run(swapped, detector, tmp_path / "d").sha256() != a
    expected = hashlib.sha256(digest(RandomImages().pixels).numpy().tobytes()).hexdigest()
    assert a == expected


def test_a_digest_knows_the_shape():
    flat = torch.zeros(1, 3, 4, 6, dtype=torch.uint8)
    assert not digest(flat).equal(digest(flat.view(1, 3, 6, 4)))


def test_pixels_and_chosen_kinds(detector, tmp_path):
    images = RandomImages()
    found = run(images, detector, tmp_path, kinds=("features", "absent"), keep_pixels=True)
    assert list(found.widths()) == ["features"]
    assert torch.cat(list(found.read("pixels"))).equal(images.pixels)


def test_a_summary_keeps_some_rows(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MANIFOLD_SIZE", 8)
    found = run(RandomImages(), detector, tmp_path)
    reference = found.summarise({"name": "x"})
    rows = {tuple(row) for row in found.stack("features").tolist()}
    assert reference.manifold.shape == (8, 13)
    assert {tuple(row) for row in reference.manifold.tolist()} <= rows
    assert len({tuple(row) for row in reference.manifold.tolist()}) == 8
    assert reference.about == {"name": "x", "count": 23, "sha256": found.sha256()}
    assert set(reference.moments) == {"features", "spatial"}


def test_a_part_of_another_process_that_cannot_be_seen(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(module.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(module.distributed, "sum_over_processes", lambda tensors: None)
    with pytest.raises(InputError, match=r"part_000000005.* from another process"):
        run(RandomImages(), detector, tmp_path)


def test_an_unwritable_folder(detector, tmp_path):
    (tmp_path / "a").write_text("a file")
    with pytest.raises(OSError, match="exists"):
        run(RandomImages(), detector, tmp_path / "a")


TOGETHER = """
import sys, torch
from pathlib import Path
from convflow import distributed
from tests.evaluation.test_features import Detector, RandomImages, load, run
with distributed.process_group(torch.device("cpu")):
    images = RandomImages()
    run(images, Detector("tiny", "00", "none", load()), Path(sys.argv[1]))
    print(distributed.rank(), sorted(set(images.reads)))
"""


@pytest.mark.slow
def test_two_processes_make_the_parts_of_one(detector, tmp_path):
    run(RandomImages(), detector, tmp_path / "one")
    said = run_two(["-c", TOGETHER, str(tmp_path / "two")])
    assert said == [
        f"0 {[*range(5), *range(10, 15), 20, 21, 22]}\n",
        f"1 {[*range(5, 10), *range(15, 20)]}\n",
    ]
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
