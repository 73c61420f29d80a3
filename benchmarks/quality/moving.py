"""Whether videos of trained networks hold together: python benchmarks/quality/moving.py RUN ...

Samples of each run of `moving` are judged by their pixels (`benchmarks.quality.motion`): `one` is
the share of videos with exactly one object in every frame, `smooth` that of those whose object goes
along a smooth path inside the frame, `right` that of those in which it is also the object asked
for. Drawn videos of the test split are judged first, all of which must be right.
Writes `results/moving.csv` and, with `--sheet`, some frames of the first samples of each run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from benchmarks.harness import RESULTS, machine, write_table
from benchmarks.quality.motion import MotionScores, score_motions
from convflow.data.moving import DrawnMotions
from convflow.data.shapes import SHAPES
from convflow.pipeline import Pipeline
from convflow.storage import read_json
from convflow.types import size_text
from convflow.videos import sheet

SHOWN = 6
"""Videos on a sheet: one of each class."""


def main() -> None:
    """Judge drawn videos, then samples of each run, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="runs, checkpoints or model folders")
    parser.add_argument("--num", type=int, default=240, help="videos of each (default: 240)")
    parser.add_argument("--batch-size", type=int, default=24, help="videos at once (default: 24)")
    parser.add_argument("--steps", type=int, help="solver steps (default: as the run says)")
    parser.add_argument("--guidance", type=float, help="scale (default: as the run says)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples")
    parser.add_argument("--precision", default="auto", help="arithmetic of the networks")
    parser.add_argument("--sheet", type=Path, help="folder for a sheet of frames of each run")
    parser.add_argument("--dirty", action="store_true", help="allow files that no revision holds")
    options = parser.parse_args()
    machine()  # refuses now rather than after minutes
    rows = []
    for run in [None, *options.runs]:
        found, about = _drawn(options) if run is None else _sampled(run, options)
        rows.append(about | _shown(found))
        print(f"{about['videos']}: {found}", flush=True)
    write_table(RESULTS / "moving.csv", rows)


def _drawn(options: argparse.Namespace) -> tuple[MotionScores, dict[str, str]]:
    """Return the scores of drawn videos, and what they are."""
    source = DrawnMotions("test")
    videos = [torch.from_numpy(source.read(i)).movedim(-1, 0) for i in range(options.num)]
    found = score_motions(torch.stack(videos), _labels(options.num))
    if found.right < 1:
        raise SystemExit(f"expected all drawn videos to be right, got {found}")
    size = size_text(tuple(videos[0].shape[1:]))
    return found, {"videos": "drawn", "images": "", "size": size, "steps": "", "guidance": ""}


def _sampled(run: Path, options: argparse.Namespace) -> tuple[MotionScores, dict[str, str]]:
    """Return the scores of samples of a run, and what they are."""
    pipe = Pipeline.from_pretrained(run)
    settings = {"steps": options.steps, "guidance": options.guidance}
    given = {name: value for name, value in settings.items() if value is not None}
    more = {"seed": options.seed, "precision": options.precision}
    made = pipe(num=options.num, batch_size=options.batch_size, **given, **more)
    if options.sheet is not None:
        options.sheet.mkdir(parents=True, exist_ok=True)
        sheet(made.pixels[:SHOWN], zoom=2).save(options.sheet / f"{run.name}.png")
    samples = pipe.samples(**given, **more)
    return score_motions(made.pixels, _labels(options.num)), {
        "videos": run.name,
        "images": _images_seen(pipe),
        "size": size_text(samples.size),
        "steps": str(samples.solver.num_steps),
        "guidance": f"{samples.guidance:g}",
    }


def _images_seen(pipe: Pipeline) -> str:
    """Return how many videos a checkpoint was trained on, "" for a folder that is none."""
    state = Path() if pipe.folder is None else pipe.folder.parent / "state.json"
    return str(read_json(state)["images_seen"]) if state.is_file() else ""


def _labels(num: int) -> torch.Tensor:
    return torch.arange(num) % len(SHAPES)


def _shown(found: MotionScores) -> dict[str, str]:
    digits = {"roughness": 5}
    values = {name: f"{v:.{digits.get(name, 3)}f}" for name, v in found._asdict().items()}
    return values | {"num": str(found.num)}


if __name__ == "__main__":
    main()
