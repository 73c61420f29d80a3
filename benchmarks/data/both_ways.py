"""Does a training from a store of latents see what a training from the images sees, and how fast?

    python -m benchmarks.data.both_ways FOLDER --data IMAGES [--images 2000]

A tiny autoencoder with seeded random weights is made in FOLDER. `convflow encode` writes the
latents of the images, then `convflow train` runs with the same seed: from the images, which are
encoded at each step, and from stores of them. The losses of all steps are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import DIRTY, RESULTS, write_table
from convflow.units import bytes_of

TINY = (
    "--model.width 48 --model.depth 2 --model.num-groups 4 --model.patch-size 1 --batch-size 20 "
    "--monitor.log-every 1 --monitor.tensorboard false --monitor.num-samples 2 --device cpu "
    "--monitor.samples-minutes 1000 --sampling.steps 1 --optim.warmup-images 0 --precision float32"
).split()


def save_autoencoder(folder: Path) -> None:
    """Save a seeded `AutoencoderKL` of 8 pixels a cell and 4 channels."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        scaling_factor=1.0,
    ).save_pretrained(folder)


def convflow(*words: object) -> float:
    """Run a command; return the seconds it took."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "convflow", *map(str, words)], check=True)
    return time.perf_counter() - began


def metrics(run: Path) -> tuple[list[float], float]:
    """Return the losses of a run, and the median of its images per second."""
    losses, rates = (
        [json.loads(line)[key] for line in (run / name).read_text().splitlines()]
        for name, key in (("metrics.jsonl", "loss"), ("speed.jsonl", "images_per_second"))
    )
    return losses, sorted(rates)[len(rates) // 2]


def main() -> None:
    """Encode once for each type of number, train, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--size", default="32x32")
    parser.add_argument(DIRTY, action="store_true", help="allow files that no revision holds")
    options = parser.parse_args()
    folder = options.folder
    if not (folder / "autoencoder").is_dir():
        save_autoencoder(folder / "autoencoder")
    codec = ["--codec.autoencoder", folder / "autoencoder"]
    words = ["train", "pictures.flowdcn", *TINY, "--data.size", options.size]
    words += ["--images", options.images]
    straight = folder / "from-images"
    convflow(*words, "--data", options.data, "--run", straight, "--codec", "latent", *codec)
    losses, rate = metrics(straight)
    rows = []
    for dtype in ("float32", "float16"):
        store, run = folder / f"store-{dtype}", folder / f"from-{dtype}"
        given = ["--data.size", options.size, "--records.dtype", dtype, "--device", "cpu"]
        spent = convflow("encode", options.data, "--out", store, *codec, *given)
        convflow(*words, "--data", store, "--run", run)
        theirs, own = metrics(run)
        apart = [abs(a - b) / abs(a) for a, b in zip(losses, theirs, strict=True)]
        size = sum(path.stat().st_size for path in store.iterdir())
        rows.append(
            {
                "store": dtype,
                "steps": len(losses),
                "images_per_s_from_images": f"{rate:.1f}",
                "images_per_s_from_store": f"{own:.1f}",
                "largest_difference_of_losses": f"{max(apart):.2e}",
                "encode_s": f"{spent:.0f}",
                "files": bytes_of(size),
            }
        )
        sys.stdout.write(f"{rows[-1]}\n")
    write_table(RESULTS / "both_ways.csv", rows)


if __name__ == "__main__":
    main()
