"""Memory needed against memory that is free."""

import re
from functools import partial
from types import SimpleNamespace

import pytest

from convflow.models.zoo import create_model
from convflow.training.planner import TRUST, Work, check_memory, describe_disk
from convflow.types import InputError
from tests.cases import MODELS

SMALL = {"width": 48, "depths": [1, 1, 1, 1, 1]}


def build():
    return create_model("dico", **SMALL)


def test_the_batch_that_is_named_fits_and_the_next_does_not():
    work = Work(build, (64, 64), 64)
    free = work.needs(True) // 3
    with pytest.raises(InputError, match=r"batches of 64 at 64x64.*--micro-batch (\d+) fits") as e:
        check_memory(work, free, "micro-batch", training=True)
    fits = int(str(e.value).split("--micro-batch ")[1].split()[0])
    assert TRUST * work._replace(batch=fits).needs(True) <= free * 1.001
    assert TRUST * work._replace(batch=fits + 1).needs(True) > free * 0.999


def test_no_batch_fits():
    with pytest.raises(InputError, match="take a smaller network or size"):
        check_memory(Work(build, (64, 64), 2), 1000, "batch-size", training=False)


@pytest.mark.parametrize(
    "case", ["flowdcn", "dico", "fcdm", "dit", "sit-rotary", "flowdcn-patch-1"]
)
@pytest.mark.parametrize(("size", "batch"), [((12, 24), 1), ((48, 48), 64)])
def test_the_bound_is_above_the_estimate_and_nothing_is_estimated_below_it(
    case, size, batch, monkeypatch
):
    family, settings = MODELS[case]
    work = Work(partial(create_model, family, **settings), size, batch)
    bound = work.bound()
    assert work.needs(True) < bound
    monkeypatch.setattr(Work, "needs", lambda *_: pytest.fail("estimated"))
    check_memory(work, bound, "batch-size", training=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4096, 2048), (65536, 65536)])
@pytest.mark.parametrize("picture", [1, 2])
def test_where_no_batch_fits_a_size_that_does_is_named(size, picture):
    free = Work(build, (256, 128), 2).needs(False)
    work = Work(build, size, 64 * picture)
    message = r"got batches of 64 at .*; one of (\d+)x(\d+) fits"
    with pytest.raises(InputError, match=message) as e:
        check_memory(work, free, "batch-size", training=False, picture=picture)
    height, width = map(int, re.search(message, str(e.value)).groups())
    assert height % 4 == width % 4 == 0
    assert height / width == pytest.approx(size[0] / size[1], rel=0.05)
    fits = Work(build, (height, width), picture)
    assert TRUST * fits.needs(False) <= free
    assert TRUST * fits._replace(size=(height + 16, width + 16)).needs(False) > free


def test_a_batch_beyond_counting_needs_more_in_proportion():
    work = Work(build, (8192, 4096), 1)
    one, two, many = (work._replace(batch=batch).needs(True) for batch in (1, 2, 10**6))
    assert many == one + (10**6 - 1) * (two - one)


def test_what_fits_or_cannot_be_known_passes():
    work = Work(build, (64, 64), 1)
    check_memory(work, None, "batch-size", training=True)
    check_memory(work, 2**40, "batch-size", training=True)
    assert work._replace(half=True).needs(True) < work.needs(True)


@pytest.mark.parametrize(
    ("kept", "free", "fits"), [(0, 4.8e9, True), (0, 4.7e9, False), (2, 2.4e9, True)]
)
def test_disk_that_is_needed_is_said_and_too_little_is_noticed(
    tmp_path, monkeypatch, kept, free, fits
):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=free))
    line, found = describe_disk(75_000_000, 3, kept, tmp_path)
    assert line.startswith(
        "checkpoints take about 1.2 GB each, at most 3 are kept and 1 is being written: 4.8 GB; "
    )
    assert found == fits
    assert ("too little; free some, lower --checkpoint.keep" in line) == (not fits)
