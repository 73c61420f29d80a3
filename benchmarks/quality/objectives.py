"""What losses beside that of the process do to a small network, and what they cost.

    python benchmarks/quality/objectives.py quality [--budget small] [--data ../shared/data/cifar10]
    python benchmarks/quality/objectives.py cost [--budget small]

`quality` trains a FlowDCN and a DiCo of about a million parameters on CIFAR-10, plain and with each
objective, on the same images in the same order, and scores their samples without guidance. The
encoder is the small network of CIFAR-10, which is the detector of the scores too: so a loss may
please the score without better images. "watched" has REPA with a weight of 1e-6: its projector
learns to read an unaligned network (Adam divides by the size of gradients), and its cosine is the
one to compare with. Writes `results/objectives.csv`.

`cost` measures a training step (forward, backward, AdamW, average) of the S sizes on latents
(4, 32, 32) of images of 256x256 pixels: time as a ratio to the plain step, which takes turns with
it, and peak memory of a process that takes these steps alone. Encoders have random weights where
theirs are not at hand, which costs the same. Writes `results/objectives_cost.csv`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine, write_table
from benchmarks.quality.cifar10_network import WEIGHTS
from benchmarks.quality.contest import DETECTOR, SCORES, Contender, Way, add_options, race
from convflow.evaluation.dinov2 import DINOv2
from convflow.evaluation.user_code import import_place
from convflow.models.zoo import create_model
from convflow.objectives.objective import Inputs
from convflow.objectives.table import OWN, create_objectives
from convflow.processes.flow import FlowMatching
from convflow.training.ema import EMA
from convflow.training.step import Losses

NETWORKS = {
    "flowdcn": "--model.width 96 --model.depth 6 --model.num-groups 3",
    "dico": "--model.width 24 --model.depths 2,2,3,2,2",
}
PROJECTOR = "--objectives.it.hidden 256"
"""Hidden features of projectors, in proportion to networks of about a hundred channels."""

SHORT = "--optim.warmup-images 1024 --ema.decay 0.995"
ENCODER = f"--objectives.it.encoder {DETECTOR} --objectives.it.kind"
LOSSES = {
    "plain": "",
    "watched": f"{ENCODER} repa {PROJECTOR} --objectives.it.weight 1e-6",
    "repa": f"{ENCODER} repa {PROJECTOR}",
    "irepa": f"{ENCODER} irepa",
    "repa until half": f"{ENCODER} repa {PROJECTOR} --objectives.it.until HALF",
    "u-repa": f"{ENCODER} u-repa {PROJECTOR}",
    "sra": f"--objectives.it.kind sra {PROJECTOR}",
    "dispersive": "--objectives.it.kind dispersive",
    "contrastive": "--objectives.it.kind contrastive",
    "direction": "--objectives.it.kind direction",
    "data": "--process.prediction data",
    "data, velocity": "--process.prediction data --objectives.process.kind velocity",
}
ON_DICO = ("plain", "watched", "repa", "irepa", "u-repa", "dispersive")
PLAIN = ["--solver", "ab2", "--steps", "10", "--guidance", "1", "--precision", "bfloat16"]
COSTS = {
    "repa": {"encoder": DETECTOR}, "irepa": {"encoder": DETECTOR}, "u-repa": {"encoder": DETECTOR},
    "repa, DINOv2-S": {"encoder": "dinov2"}, "repa, DINOv2-B": {"encoder": "dinov2"},
    "sra": {}, "dispersive": {}, "contrastive": {}, "direction": {}, "velocity": {},
}  # fmt: skip
SIZES = ("flowdcn-s/2", "dico-s")


def quality(options: argparse.Namespace) -> None:
    """Run the race, and print the cosines beside the scores."""
    contenders = []
    for network, words in NETWORKS.items():
        for name, loss in LOSSES.items():
            if name in ON_DICO if network == "dico" else name != "u-repa":
                loss = loss.replace("HALF", str(options.images[-1] // 2))
                given = [*words.split(), *SHORT.split(), *loss.split()]
                contenders.append(Contender(f"{network} {name}", f"cifar10.{network}", given))
    rows = race(contenders, [Way("plain", PLAIN)], options, "objectives", look=look)
    print(f"\n| | seed | images seen | cosine | {' | '.join(SCORES)} |\n|{'---|' * 8}")
    for row in rows:
        cells = [row[key] for key in ("contender", "seed", "images", "cosine")]
        print(f"| {' | '.join([*cells, *(row[title] for title in SCORES)])} |")


def look(run: Path, contender: Contender, images: int) -> dict[str, str]:
    """Return what a row says of a training beside the scores of its samples."""
    return {"cosine": cosine_of(run, str(images))}


def cosine_of(run: Path, images: str) -> str:
    """Return the mean cosine between projected features and the encoder's, as a run saw it last."""
    path = run / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = [
        -line["it.negative_cosine"]
        for line in lines
        if "it.negative_cosine" in line and line["images"] <= int(images)
    ]
    return f"{statistics.mean(known[-5:]):.3f}" if known else ""


class Steps:
    """Training steps of a network of a published size, with or without an objective."""

    def __init__(self, size: str, name: str | None, folder: Path, batch: int) -> None:
        torch.manual_seed(0)
        kind = (name or OWN).split(",")[0]
        process = FlowMatching(prediction="data" if kind == "velocity" else "velocity")
        self.network = create_model(size)
        some = {"kind": kind} | COSTS.get(name or "", {})
        if some.get("encoder") == "dinov2":
            some["encoder_weights"] = str(random_dinov2(name, folder))
        settings = {OWN if kind in (OWN, "velocity") else "it": some}
        self.losses = Losses(self.network, create_objectives(settings, self.network, process))
        self.averages = [EMA(m, 0.9999, 10.0) for m in (self.network, self.losses.objectives)]
        trained = [p for p in self.losses.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4, foreach=True)
        average = self.averages[0].model
        self.batch = Inputs(
            torch.randn(batch, 4, 32, 32),
            torch.arange(batch) % 1000,
            average=average,
            average_features=average.features_after,
            pixels=torch.randint(256, (batch, 3, 256, 256), dtype=torch.uint8),
        )

    def __call__(self) -> float:
        """Take a step; return its seconds."""
        begun, shape = time.perf_counter(), tuple(self.batch.data.shape)
        generator = torch.Generator().manual_seed(0)
        draws = {n: o.draw(shape, generator) for n, o in self.losses.objectives.items()}
        loss, _ = self.losses(self.network, self.batch, draws)
        loss.mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for average, module in zip(
            self.averages, (self.network, self.losses.objectives), strict=True
        ):
            average.update(module, 1)
        return time.perf_counter() - begun


def random_dinov2(name: str | None, folder: Path) -> Path:
    """Write weights of a DINOv2 of the size that a name ends with, as published but random."""
    width, heads = {"S": (384, 6), "B": (768, 12)}[str(name)[-1]]
    path = folder / f"dinov2_{width}.pth"
    if not path.is_file():
        torch.save(DINOv2(width=width, depth=12, heads=heads).state_dict(), path)
    return path


def cost(options: argparse.Namespace) -> None:
    """Measure each objective in processes of its own, and print a table."""
    notes, rows = machine(), []
    rounds, batch = (2, 1) if options.budget == "small" else (5, 4)
    print("| network | objective | ms a step | over plain | peak MiB | more than plain |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            plain = 0.0
            for name in (None, *COSTS):
                if name == "u-repa" and size.startswith("flowdcn"):
                    continue
                words = [size, name or "", folder, str(batch), str(rounds)]
                peak = measure(["peak", *words])[1]
                plain = peak if name is None else plain
                seconds, ratio = measure(["time", *words])[0]
                rows.append({
                    "network": size, "objective": name or "plain", "ms": f"{1000 * seconds:.0f}",
                    "over_plain": f"{ratio:.3f}", "peak_mib": f"{peak:.0f}",
                    "more_mib": f"{peak - plain:.0f}",
                })  # fmt: skip
                print(f"| {' | '.join(rows[-1].values())} |", flush=True)
    write_table(
        RESULTS / "objectives_cost.csv", rows, batch=batch, rounds=rounds,
        threads_each=notes.get("threads", ""),
    )  # fmt: skip


def measure(words: list[str]) -> tuple[list[float], float]:
    """Return what a process of this script prints, and its peak MiB."""
    process = subprocess.Popen(
        [sys.executable, __file__, "one", *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed; see above")
    return json.loads(said), usage.ru_maxrss / 1024


def one(words: list[str]) -> None:
    """Take steps with an objective, for their memory or in turns with plain ones."""
    what, size, name, folder, batch, rounds = words
    import_place(DETECTOR)
    steps = Steps(size, name or None, Path(folder), int(batch))
    if what == "peak":
        print(json.dumps([steps() for _ in range(2)]))
        return
    plain = Steps(size, None, Path(folder), int(batch))
    _ = plain(), steps()
    pairs = [(plain(), steps()) for _ in range(int(rounds))]
    ratio = statistics.median(b / a for a, b in pairs)
    print(json.dumps([statistics.median(b for _, b in pairs), ratio]))


def main() -> None:
    """Compare losses by what they do, or by what they cost."""
    if sys.argv[1:2] == ["one"]:
        one(sys.argv[2:])
        return
    assert WEIGHTS.is_file()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("quality", "cost"))
    parser.add_argument("--budget", choices=("small", "full"), default="full")
    add_options(parser)
    parser.set_defaults(images=[10240, 20480], seeds=[0, 1], runs=Path("runs/objectives"))
    options = parser.parse_args()
    if options.budget == "small" and options.verb == "quality":
        options.images, options.seeds, options.num, options.draws = [2048], [0], 300, 1
    (quality if options.verb == "quality" else cost)(options)


if __name__ == "__main__":
    main()
