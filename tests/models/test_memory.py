"""Memory needed against memory that is free."""

import re
from functools import partial

import pytest

from convflow.models.memory import TRUST, MemoryEstimate, check_memory
from convflow.models.zoo import create_model
from convflow.types import InputError
from tests.cases import MODELS

SMALL = {"width": 48, "depths": [1, 1, 1, 1, 1]}


def build():
    return create_model("dico", **SMALL)


@pytest.mark.slow
def test_the_batch_that_is_named_fits_and_the_next_does_not():
    work = MemoryEstimate(build, (64, 64), 64, training=True)
    free = work.needs() // 3
    with pytest.raises(InputError, match=r"batches of 64 at 64x64.*--micro-batch (\d+) fits") as e:
        work.check(free, "micro-batch")
    fits = int(str(e.value).split("--micro-batch ")[1].split()[0])
    assert TRUST * work._replace(batch=fits).needs() <= free * 1.001
    assert TRUST * work._replace(batch=fits + 1).needs() > free * 0.999


def test_no_batch_fits():
    with pytest.raises(InputError, match="take a smaller network or size"):
        MemoryEstimate(build, (64, 64), 2).check(1000, "batch-size")


SMALL_WORK, LARGE_WORK = ((12, 24), 1), ((48, 48), 64)
QUICK = {("flowdcn", LARGE_WORK), ("dico", SMALL_WORK), ("sit-rotary", LARGE_WORK)}


@pytest.mark.parametrize(
    ("case", "size", "batch"),
    [
        pytest.param(case, *work, marks=[] if (case, work) in QUICK else [pytest.mark.slow])
        for case in ("flowdcn", "dico", "fcdm", "dit", "sit-rotary", "flowdcn-patch-1")
        for work in (SMALL_WORK, LARGE_WORK)
    ],
)
def test_the_bound_is_above_the_estimate_and_nothing_is_estimated_below_it(
    case, size, batch, monkeypatch
):
    family, settings = MODELS[case]
    work = MemoryEstimate(partial(create_model, family, **settings), size, batch, training=True)
    bound = work.bound()
    assert work.needs() < bound
    monkeypatch.setattr(MemoryEstimate, "needs", lambda *_: pytest.fail("estimated"))
    work.check(bound, "batch-size")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(4096, 2048), (65536, 65536)])
@pytest.mark.parametrize("evaluations", [1, 2])
def test_where_no_batch_fits_a_size_that_does_is_named(size, evaluations):
    free = MemoryEstimate(build, (256, 128), 2).needs()
    work = MemoryEstimate(build, size, 64, evaluations=evaluations)
    message = r"got batches of 64 at .*; one of (\d+)x(\d+) fits"
    with pytest.raises(InputError, match=message) as e:
        work.check(free, "batch-size")
    height, width = map(int, re.search(message, str(e.value)).groups())
    assert height % 4 == width % 4 == 0
    assert height / width == pytest.approx(size[0] / size[1], rel=0.05)
    fits = work._replace(size=(height, width), batch=1)
    assert TRUST * fits.needs() <= free
    assert TRUST * fits._replace(size=(height + 16, width + 16)).needs() > free


@pytest.mark.slow
def test_a_batch_beyond_counting_needs_more_in_proportion():
    work = MemoryEstimate(build, (8192, 4096), 1, training=True)
    one, two, many = (work._replace(batch=batch).needs() for batch in (1, 2, 10**6))
    assert many == one + (10**6 - 1) * (two - one)


def test_what_fits_or_cannot_be_known_passes():
    work = MemoryEstimate(build, (64, 64), 1, training=True)
    work.check(None, "batch-size")
    work.check(2**40, "batch-size")
    assert work._replace(half=True).needs() < work.needs()


def test_without_a_network_a_batch_or_a_size_is_named_too():
    """As for a detector: bytes in proportion to the images."""
    for free, cure in ((1000, "--batch-size 8 fits"), (50, "one of 7x15 fits")):
        with pytest.raises(InputError, match=f"batches of 64 at 12x24 .*; {cure}"):
            check_memory(lambda batch: 100 * batch, (12, 24), 64, free, "batch-size")
