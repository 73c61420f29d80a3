"""A network as one file: for onnxruntime, and for torch.export."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from convflow.integrations.check import Run, check_program
from convflow.integrations.description import told_times, write_description
from convflow.models.backbone import Backbone
from convflow.models.export import OPSET, check_plain, count_times, export_onnx, export_program
from convflow.pipeline import Pipeline
from convflow.storage import writing_file
from convflow.types import InputError, size_text
from convflow.units import bytes_of

log = logging.getLogger("convflow")


class InHalf(nn.Module):
    """A copy of a network that computes in float16, and takes and gives float32."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.network = copy.deepcopy(model).half()
        self.num_times = count_times(model)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Return the prediction, as `Backbone.forward` does; times stay float32."""
        found: Tensor = self.network(x.half(), t, y).float()
        return found


def write_onnx(pipe: Pipeline, out: Path, *, name: str, half: bool = False) -> Iterator[str]:
    """Write an ONNX file that onnxruntime has run at several sizes, and yield what there is.

    Its inputs are x, t and y, and its output is the prediction, all in float32. Its metadata hold
    the description under the key `convflow`.

    Args:
        pipe: on the CPU.
        out: the file.
        name: what the model is called.
        half: compute in float16.

    Raises:
        InputError: a missing package, a network that cannot be written, or a file that does not do
            what the network does; then no file is left.
    """
    check_plain(pipe.model)
    warn_of_sizes(pipe)
    asked = InHalf(pipe.model) if half else None
    with writing_file(out) as draft:
        metadata = write_description(pipe, name)
        export_onnx(pipe.model, draft, asked=asked, metadata=metadata)
        off = _check(f"the file {out}", open_onnx(draft), pipe, half)
    yield f"{out}  <- ONNX, opset {OPSET}, {_summary(out, half)}; {_checked('onnxruntime', off)}"


def write_program(pipe: Pipeline, out: Path, *, name: str, half: bool = False) -> Iterator[str]:
    """Write a program that `torch.export.load` has read and run, and yield what there is.

    The description lies in it as the extra file `convflow`. Other arguments and errors are those of
    `write_onnx`.
    """
    check_plain(pipe.model)
    warn_of_sizes(pipe)
    program = export_program(pipe.model, InHalf(pipe.model) if half else None)
    with writing_file(out) as draft, draft.open("wb") as file:
        torch.export.save(program, file, extra_files=write_description(pipe, name))
        file.flush()
        run = torch.export.load(draft).module()
        off = _check(f"the program {out}", run, pipe, half)
    yield f"{out}  <- a program of torch.export, {_summary(out, half)}; {_checked('torch', off)}"


def open_onnx(path: Path) -> Run:
    """Return what onnxruntime makes of a file, on the CPU.

    Raises:
        InputError: the package is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(
            "expected the package onnxruntime, which checks the file, found none; "
            "pip install 'convflow[onnx]'"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        feed = {"x": x.numpy(), "t": t.numpy(), "y": y.numpy()}
        return torch.from_numpy(session.run(["prediction"], feed)[0])

    return run


def warn_of_sizes(pipe: Pipeline) -> None:
    """Log a line where the network is told of sizes by arguments that a graph does not hold."""
    if told := pipe.resolution.arguments():
        log.warning(
            f"this model is told {', '.join(told)} at sizes other than {size_text(pipe.size)}, and "
            "what is exported is not: there its pictures differ from those of convflow sample"
        )


def _check(name: str, run: Run, pipe: Pipeline, half: bool) -> float:
    last = max(told_times(pipe.process).values())
    return check_program(name, run, pipe.model, half=half, last_time=last)


def _summary(path: Path, half: bool) -> str:
    return f"{'float16' if half else 'float32'}, {bytes_of(path.stat().st_size)}"


def _checked(runtime: str, off: float) -> str:
    return f"{runtime} gives the same predictions at three sizes (relative error {off:.0e})"
