"""The held-out loss of small flows that are told their time as published, and 1000 times that.

    python benchmarks/quality/time_scale.py [--data FOLDER] [--networks flowdcn dico sit]

CIFAR-10 at 16x16 pixels, networks of 0.3 to 0.5 M parameters, 200 steps of 16 images, the loss of
the averaged weights on 512 images that are held back. A row for each training goes to
`results/time_scale.csv`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, write_table
from convflow.recipes import create_config
from convflow.training.launch import train
from convflow.training.overrides import override

SHARED = (
    "--data.size 16x16 --data.check some --batch-size 16 --images 3200 --device cpu --precision "
    "float32 --optim.warmup-images 800 --monitor.validation 512 --monitor.validation.every 200 "
    "--monitor.log-every 200 --monitor.samples-minutes 1e6 --monitor.tensorboard false"
)
LOSS = "validation_loss_ema"
NETWORKS = {
    "flowdcn": "--model.width 64 --model.depth 6 --model.num-groups 4",
    "dico": "--model.width 24 --model.depths 1,1,1,1,1",
    "sit": "--model.width 64 --model.depth 6 --model.num-heads 4",
    "fcdm": "--model.width 24 --model.depths 1,1,1,1,1",
}


def main() -> None:
    """Train every network with both scales and print the losses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="../shared/data/cifar10/train.parquet")
    parser.add_argument(
        "--networks", nargs="+", choices=NETWORKS, default=["flowdcn", "dico", "sit"]
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--lr", default="1e-3")
    parser.add_argument("--dirty", action="store_true", help="allow uncommitted changes")
    options = parser.parse_args()
    rows = []
    for network in options.networks:
        for seed in options.seeds:
            for scale in ("1", "1000"):
                words = f"--model.name {network} {NETWORKS[network]} {SHARED} --seed {seed} "
                words += f"--data {options.data} --optim.lr {options.lr} --model.time-scale {scale}"
                config = override(create_config("cifar10.flowdcn"), words.split())
                with TemporaryDirectory() as folder:
                    train(config, Path(folder))
                    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
                found = [json.loads(line) for line in lines]
                losses = [line[LOSS] for line in found if LOSS in line]
                row = {"network": network, "lr": options.lr, "seed": str(seed)}
                rows.append(row | {"time_scale": scale, LOSS: f"{losses[-1]:.4f}"})
                print(*rows[-1].values(), flush=True)
    write_table(RESULTS / "time_scale.csv", rows)


if __name__ == "__main__":
    main()
