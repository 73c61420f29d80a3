"""A folder with a page that samples in a browser, by onnxruntime-web and a sampler of its own.

The page holds the velocity of the model's process in flow time. So its sampler knows neither
processes nor predictions, as those of `convflow.samplers` do not.
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convflow.codecs import PixelCodec
from convflow.integrations.check import check_program
from convflow.integrations.description import describe_model
from convflow.integrations.files import open_onnx, warn_of_sizes
from convflow.models.export import FORMS, OPSET, check_pictures, export_onnx
from convflow.pipeline import Pipeline
from convflow.samplers.tableaus import RUNGE_KUTTA
from convflow.seeds import draw_noise
from convflow.storage import write_text, writing_folder
from convflow.types import InputError
from convflow.units import bytes_of

PAGE = Path(__file__).with_name("page")
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
"""The package of npm that runs networks in browsers, and the version that was tested."""
MODULES = {"webgpu": "ort.webgpu.min.mjs", "wasm": "ort.wasm.min.mjs"}
"""The module of the runtime for each of its backends; a page loads the one that it needs."""
RUNTIME_FILES = (
    *MODULES.values(),
    *(f"ort-wasm-simd-threaded{of}.{end}" for of in (".asyncify", "") for end in ("mjs", "wasm")),
)
ELSEWHERE = f"https://cdn.jsdelivr.net/npm/{RUNTIME}@{VERSION}/dist/"
CHECKED_NUMBERS = 64
"""Numbers of the network's answer that a page compares with its own."""
USUAL_STEPS = 25
"""Steps of a page whose model is usually sampled by a solver that the page does not have."""
LARGEST_SIDE = 1024

log = logging.getLogger("convflow")


class Velocity(nn.Module):
    """The velocity of images in flow time, from 0 (noise) to 1 (data), without guidance."""

    def __init__(self, pipe: Pipeline) -> None:
        super().__init__()
        self.network = pipe.model
        (stage,) = pipe.process.stages(1)
        noise = torch.empty(0, pipe.model.in_channels, *pipe.size)
        self.field = pipe.process.field(self.network, stage, noise)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W) at flow times t (B,)."""
        return self.field(x, t, y)


def write_page(
    pipe: Pipeline, out: Path, *, name: str, half: bool = False, runtime: Path | None = None
) -> Iterator[str]:
    """Write the folder of a page that a plain file server can serve, and yield what there is.

    Args:
        pipe: a model of pixels, on the CPU.
        out: a new folder.
        name: what the page is called.
        half: hold weights as float16; the page computes in float32 all the same.
        runtime: a folder with the files of onnxruntime-web; None to fetch them by npm, and where
            that fails to let the page read them from a server that mirrors npm.

    Raises:
        InputError: a model of videos, of latents or of scales, a network that cannot be written, a
            missing package, or a folder without the runtime; then nothing is left.
    """
    check_pictures(pipe.model, "a page")
    if not isinstance(pipe.codec, PixelCodec):
        raise InputError(
            "expected a model of pixels for a page, got one of latents, whose autoencoder would "
            "have to run in the browser too; use --to onnx"
        )
    if pipe.process.multiscale:
        raise InputError(
            "expected a model with one scale for a page, got one of the process "
            f"{pipe.process.kind}; export another"
        )
    if runtime is not None:
        find_runtime(runtime)
    warn_of_sizes(pipe)
    velocity = Velocity(pipe)
    with writing_folder(out) as draft:
        shutil.copytree(PAGE, draft, dirs_exist_ok=True)
        network = draft / "network.onnx"
        export_onnx(pipe.model, network, asked=velocity, store_half=half, form=FORMS["web"])
        run = open_onnx(network)
        off = check_program("the network of the page", run, pipe.model, asked=velocity, half=half)
        (draft / "runtime").mkdir()
        copied = copy_runtime(draft / "runtime", runtime)
        model = describe_page(pipe, name, velocity, "runtime/" if copied else ELSEWHERE)
        write_text(draft / "model.json", json.dumps(model, indent=1))
        if not copied:
            (draft / "runtime").rmdir()
    kind, size = "float16" if half else "float32", (out / "network.onnx").stat().st_size
    yield (
        f"{out}  <- a page, ONNX, opset {OPSET}, {kind} weights, {bytes_of(size)}; onnxruntime "
        f"gives the same velocities at three sizes (relative error {off:.0e})"
    )
    if not copied:
        yield f"the page reads {RUNTIME} from {ELSEWHERE}, for npm gave none; see --runtime"
    yield f"look at it: python -m http.server --directory {out}"


@torch.no_grad()
def describe_page(pipe: Pipeline, name: str, velocity: Velocity, files: str) -> dict[str, Any]:
    """Return what the page reads of its model, ready for JSON.

    Args:
        pipe: the model.
        name: what the page is called.
        velocity: of the model.
        files: where the files of the runtime are, as seen from the page, with a slash at the end.
    """
    chosen = pipe.sampling
    if chosen.solver.kind not in RUNGE_KUTTA:
        chosen = chosen.varied(pipe.process, solver="euler", steps=USUAL_STEPS)
        log.warning(
            f"a page has no solver {pipe.sampling.solver.kind}; it begins with euler in "
            f"{USUAL_STEPS} steps"
        )
    if chosen.guidance_kind != "cfg":
        log.warning(f"a page guides by cfg alone, not by {chosen.guidance_kind}")
    return {
        **describe_model(pipe, name),
        "solvers": {kind: rule.step((0.0, 1.0), 0)._asdict() for kind, rule in RUNGE_KUTTA.items()},
        "page": {
            "solver": chosen.solver.kind,
            "steps": chosen.solver.num_steps,
            "shift": getattr(chosen.solver, "shift", 1.0),
            "last_step": getattr(chosen.solver, "last_step", None),
            "guidance": chosen.guidance if pipe.model.num_classes else 1.0,
            "interval": list(chosen.interval),
            "channels_guided": chosen.channels_guided,
            "largest": max(LARGEST_SIDE, *pipe.size),
        },
        "runtime": {"modules": MODULES, "files": files, "version": VERSION},
        "check": _first_answer(pipe, velocity),
    }


def _first_answer(pipe: Pipeline, velocity: Velocity) -> dict[str, Any]:
    """Return some numbers of the velocity of noise that the page can draw too."""
    noise = draw_noise(0, [0], (pipe.model.in_channels, *pipe.size))
    found = velocity(noise, torch.tensor([0.5]), torch.tensor([0])).flatten()
    every = max(1, len(found) // CHECKED_NUMBERS)
    return {
        "seed": 0, "size": list(pipe.size), "time": 0.5, "label": 0, "every": every,
        "velocity": found[::every].tolist(),
    }  # fmt: skip


def copy_runtime(target: Path, source: Path | None) -> bool:
    """Copy the files of onnxruntime-web into a folder, and return whether there were any.

    Args:
        target: the folder.
        source: the package, or its folder `dist`; None to ask npm for it.

    Raises:
        InputError: a source without the files.
    """
    if source is None:
        with tempfile.TemporaryDirectory() as place:
            return _fetch(Path(place)) and copy_runtime(target, Path(place))
    for path in find_runtime(source):
        shutil.copyfile(path, target / path.name)
    return True


def find_runtime(source: Path) -> list[Path]:
    """Return the files of onnxruntime-web in the package or in its folder `dist`.

    Raises:
        InputError: a file is missing.
    """
    absent: dict[Path, list[str]] = {}
    for folder in (source, source / "dist", source / "package/dist"):
        absent[folder] = [name for name in RUNTIME_FILES if not (folder / name).is_file()]
        if not absent[folder]:
            return [folder / name for name in RUNTIME_FILES]
    missing = min(absent.values(), key=len)
    raise InputError(
        f"--runtime: expected a folder with {missing[0]}, got {source}; npm pack {RUNTIME}@"
        f"{VERSION} and tar -xzf make one"
    )


def _fetch(place: Path) -> bool:
    """Let npm fetch the package and unpack what is needed of it; return whether it did."""
    npm = shutil.which("npm")
    if npm is None:
        return False
    words = [npm, "pack", f"{RUNTIME}@{VERSION}", "--pack-destination", str(place)]
    try:
        subprocess.run(words, cwd=place, check=True, capture_output=True, timeout=600)
        (archive,) = place.glob("*.tgz")
        with tarfile.open(archive) as packed:
            members = [m for m in packed.getmembers() if Path(m.name).name in RUNTIME_FILES]
            packed.extractall(place, members, filter="data")
        find_runtime(place)
    except (OSError, ValueError, subprocess.SubprocessError, tarfile.TarError, InputError):
        return False
    return True
