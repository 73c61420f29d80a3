"""Memory of a network that no process holds whole: python benchmarks/models/sharded.py

DiCo-XL on images of 64x64 pixels, batch 2, on two processes under torchrun with `--parallel fsdp`
and `--memory.recompute blocks`: two steps and a checkpoint, then the run is resumed for two more,
then its weights are exported. It needs 22 GiB. For each process the table has the most resident
memory, that of before the network was made, and what `convflow plan` expects between the two.
`--tiny` tries it with a small network.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import DIRTY, RESULTS, machine, write_table

PROCESSES = 2
WORDS = (
    "--model.name dico-xl --data.size 64x64 --batch-size 2 --parallel fsdp --precision float32 "
    "--monitor.tensorboard false --monitor.num-samples 1 --sampling.steps 1 --device cpu "
    "--monitor.log-every 1 --checkpoint.keep 1 --memory.recompute blocks"
).split()
TINY = "--model.name dico --model.width 64 --model.depths 1,1,1,1,1".split()


def main() -> None:
    """Measure all phases, print them and write `results/sharded.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--phase", nargs=2, help="phase and run folder; for the processes")
    parser.add_argument("--tiny", action="store_true", help="a small network, and no table")
    parser.add_argument(DIRTY, action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    words = WORDS + TINY * options.tiny
    if options.phase:
        work(options.phase[0], Path(options.phase[1]), words)
        return
    machine()  # refuses now rather than after minutes
    expected, rows = planned(words), []
    with tempfile.TemporaryDirectory(prefix="convflow-sharded-", dir=Path.home()) as place:
        for phase in ("begin", "resume", "export"):
            for found in start(phase, Path(place) / "run", options.tiny):
                known = expected if phase != "export" else {}
                used = found["peak_mib"] - found["before_mib"]
                ratio = f"{known['plan_mib'] / used:.2f}" if known else ""
                rows.append({"phase": phase, **found, "plan_mib": "", **known, "ratio": ratio})
                print(*rows[-1].values(), flush=True)
    if not options.tiny:
        write_table(RESULTS / "sharded.csv", rows)


def planned(words: list[str]) -> dict[str, int]:
    """Return what `convflow plan` says of a device, in MiB, and the number of parameters."""
    command = [sys.executable, "-m", "convflow", "plan", "toy.shapes", "--json"]
    command += ["--devices", str(PROCESSES), "--model.num-classes", "6", *words]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    total = found["memory"]["fsdp"]["recompute"]["blocks"]["total"]
    return {"plan_mib": total >> 20, "parameters": found["parameters"]}


def start(phase: str, run: Path, tiny: bool) -> list[dict[str, float]]:
    """Run a phase and return what each process needed."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    words = [__file__, "--phase", phase, str(run), *["--tiny"] * tiny]
    command = [sys.executable, *torchrun * (phase != "export"), *words]
    subprocess.run(command, check=True)
    return [json.loads(path.read_text()) for path in sorted(run.parent.glob(f"{phase}-*.json"))]


def work(phase: str, run: Path, words: list[str]) -> None:
    """Do the part of one process in a phase, and note its memory beside the run."""
    import torch

    from convflow.bundle.weights import export_weights
    from convflow.recipes import create_config
    from convflow.training import launch
    from convflow.training.overrides import override

    torch.set_num_threads(1)
    rank = int(os.environ.get("RANK", "0"))
    config = override(create_config("toy.shapes"), words)
    images = {"begin": 4, "resume": 8}.get(phase)
    before, began = peak_kib(), time.monotonic()
    if images is None:
        export_weights(run, run.parent / "exported")
    else:
        launch.train(override(config, ["--images", str(images)]), run)
    note = {
        "rank": rank,
        "before_mib": before >> 10,
        "peak_mib": peak_kib() >> 10,
        "seconds": round(time.monotonic() - began, 1),
    }
    (run.parent / f"{phase}-{rank}.json").write_text(json.dumps(note))


def peak_kib() -> int:
    """Return the most resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
