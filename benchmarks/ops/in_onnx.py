"""How fast onnxruntime runs `deform_sample`, written as GridSample and as gathers.

python benchmarks/ops/in_onnx.py [--rounds N] [--size 32x32] [--dirty]

Each form is exported with free sizes, as a network is, and runs on the CPU in float32. Before it is
timed its numbers are compared with those of `deform_sample`. The table is `in_onnx.csv`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from benchmarks import harness
from convflow.bench.agreement import require_agreement
from convflow.bench.ops import RIVALS, draw, shapes_of
from convflow.cli.options import size
from convflow.models.export import OPSET
from convflow.ops.deform import reference
from convflow.ops.deform.exported import by_grid_sample

FORMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "grid_sample": by_grid_sample,
    "reference": lambda *inputs: reference.deform_sample(*inputs, "zeros"),
    "gather": RIVALS["gather"],
}
"""What ONNX can hold; `reference` gathers one tap and corner at a time."""
LIMIT = 1e-5
"""Largest rms(difference) / rms(sums): GridSample takes coordinates as shares of the map."""


class Form(nn.Module):
    """One way to write the operator."""

    def __init__(self, form: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.form = form

    def forward(self, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        """Return the sums."""
        return self.form(values, offsets, weights)


def open_form(name: str, inputs: tuple[Tensor, ...], folder: Path) -> Callable[[], object]:
    """Return a call that runs a form in onnxruntime on some inputs, checked once."""
    free = {0: Dim.AUTO, 1: Dim.AUTO, 2: Dim.AUTO}
    with torch.no_grad():
        program = torch.export.export(Form(FORMS[name]), inputs, dynamic_shapes=(free, free, free))
    path = folder / f"{name}.onnx"
    torch.onnx.export(program, (), path, dynamo=True, opset_version=OPSET, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True))

    def call() -> object:
        return session.run(None, feed)[0]

    expected = RIVALS["deform_sample"](*inputs)
    require_agreement(f"{name} in onnxruntime", torch.from_numpy(call()), expected, LIMIT)
    return call


def set_up(shape: tuple[int, ...], mode: str) -> Mapping[str, harness.Call]:
    """Return calls of all forms on the same inputs."""
    torch.manual_seed(0)
    inputs = tuple(tensor.contiguous() for tensor in draw(shape)[1:])
    with tempfile.TemporaryDirectory() as folder:
        return {name: open_form(name, inputs, Path(folder)) for name in FORMS}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=size, help="height and width of every map, in cells")
    parser.add_argument(harness.DIRTY, action="store_true", help="allow files of no revision")
    options = parser.parse_args()
    shapes = shapes_of(options.size)
    case = harness.Case("deform_sample in onnxruntime", set_up, shapes, ["forward"])
    rows = harness.measure(case, options.rounds)
    for row in rows:
        print(f"{row.shape} {row.rival}: {row.median_ms:.2f} ms, {row.ratio:.2f} of GridSample's")
    harness.write(harness.RESULTS / "in_onnx.csv", rows, onnxruntime=onnxruntime.__version__)


if __name__ == "__main__":
    main()
