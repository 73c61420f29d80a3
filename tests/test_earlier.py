"""Runs of earlier versions: their settings named all kinds, and they open, go on and sample."""

import dataclasses
import json
import shutil

import pytest

from convflow.bundle.folder import read_trained
from convflow.cli.main import main
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.ancestral import Ancestral
from convflow.samplers.linear import GeneralLinear
from convflow.samplers.sde import SDE
from convflow.training import checkpoint, launch
from tests.cases import GOLDENS

DEVIATIONS = (0.20960038122331837, 0.5797406375205008, 0.4618880922553403)
SCALES = MultiscaleFlow((2, 2), standardize=True, deviations=DEVIATIONS)
RUNS = {
    "run_0_1": (FlowMatching(), GeneralLinear("heun", 1)),
    "run_0_2_flow": (
        FlowMatching("logit-normal"),
        SDE(steps=6, last_step=0.04, diffusion="flowdcn"),
    ),
    "run_0_2_ddpm": (DDPM(), Ancestral(5)),
    "run_0_2_dfm": (SCALES, GeneralLinear("ab2", 6, stage_steps=(3, 2, 1))),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_with_the_settings_of_all_kinds_goes_on_and_is_sampled(name, tmp_path):
    run, (process, solver) = tmp_path / "run", RUNS[name]
    shutil.copytree(GOLDENS / name, run)
    config = launch.read_run_config(run)
    assert (config.process, config.sampling.solver) == (process, solver)
    assert read_trained(run, "ema")[2].inner.settings["time_scale"] == 1
    sample = ["sample", str(run), "--num", "2", "--device", "cpu", "--out"]
    assert main([*sample, str(tmp_path / "before.png")]) == 0
    images = config.images + config.batch_size
    assert launch.train(dataclasses.replace(config, images=images, device="cpu"), run)
    assert checkpoint.list_steps(run) == [2, 3]
    stored = json.loads((run / "config.json").read_text())
    assert stored["sampling"]["solver"]["kind"] == solver.kind
    assert read_trained(run, "ema")[2].inner.settings["time_scale"] == 1
    assert ("factors" in stored["process"]) == process.multiscale
    assert main([*sample, str(tmp_path / "after.png")]) == 0
