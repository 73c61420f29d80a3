"""Memory needed against memory that is free."""

import json
import subprocess
import sys

import pytest
import torch

from convflow.models.zoo import create_model
from convflow.training.planner import TRUST, Work, check_memory, free_memory
from convflow.types import InputError

MEASURE = """if True:
    import json, resource, sys
    import torch
    from convflow.models.zoo import create_model

    def run(batch, cells):
        inputs = [torch.zeros_like(blank) for blank in model.blank_inputs(batch, cells)]
        with torch.set_grad_enabled(training):
            out = model(*inputs)
        if training:
            out.square().mean().backward()

    torch.set_num_threads(1)
    name, settings, training, batch, side = json.loads(sys.argv[1])
    model = create_model(name, **settings)
    for parameter in model.parameters():  # heads of zeros would stop the gradient
        torch.nn.init.normal_(parameter, std=0.02)
    run(1, (8, 8))  # libraries load
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * resource.getpagesize()
    run(batch, (side, side))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)"""

SMALL = {
    "flowdcn": {"width": 192, "depth": 4},
    "dico": {"width": 48, "depths": [1, 1, 1, 1, 1]},
    "fcdm": {"width": 48, "depths": [1, 1, 1, 1, 1]},
    "dit": {"width": 192, "depth": 4, "num_heads": 3},
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "training"), [("flowdcn", True), ("fcdm", True), ("dico", False), ("dit", False)]
)
def test_the_estimate_is_within_a_fifth_of_what_is_used(name, training):
    batch, side = (8, 64) if training else (24, 64)
    words = json.dumps([name, SMALL[name], training, batch, side])
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, words], capture_output=True, text=True, check=True
    )
    work = Work(lambda: create_model(name, **SMALL[name]), (side, side), batch)
    estimate = work.needs(training) - work._replace(batch=1).needs(training)
    assert 0.8 < estimate / int(done.stdout) < 1.25


def build():
    return create_model("dico", **SMALL["dico"])


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


def test_free_memory():
    free = free_memory(torch.device("cpu"))
    assert free is None or 2**20 < free < 2**50
    assert free_memory(torch.device("meta")) is None
