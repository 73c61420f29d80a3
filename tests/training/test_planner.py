"""Memory needed against memory that is free."""

import pytest

from convflow.models.zoo import create_model
from convflow.training.planner import TRUST, Work, check_memory
from convflow.types import InputError

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


def test_what_fits_or_cannot_be_known_passes():
    work = Work(build, (64, 64), 1)
    check_memory(work, None, "batch-size", training=True)
    check_memory(work, 2**40, "batch-size", training=True)
    assert work._replace(half=True).needs(True) < work.needs(True)
