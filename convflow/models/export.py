"""Networks as programs that run without convflow: `torch.export` and ONNX, for any size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from convflow.models.backbone import Backbone
from convflow.storage import writing_file
from convflow.types import InputError

OPSET = 20
LARGEST_FILE = 2**31 - 2**20
EXAMPLE_CELLS = (4, 6)
"""Height and width of the example, in multiples of the network: not equal, and not one."""


def export_program(model: Backbone) -> ExportedProgram:
    """Return the network as one graph of plain torch operators.

    Batch, height and width stay free, from two multiples of the network on; the deformable operator
    goes in as its reference. `torch.export.save` writes it, `.module()` runs it.

    Raises:
        InputError: a network of scales, or one that pads, whose graph depends on the size.

    Example:
        >>> from convflow import create_model
        >>> program = export_program(create_model("dit", width=16, depth=1, num_heads=2))
        >>> x, t, y = torch.randn(2, 4, 10, 6), torch.rand(2), torch.tensor([3, 1000])
        >>> program.module()(x, t, y).shape
        torch.Size([2, 4, 10, 6])
    """
    _check_plain(model)
    if model.settings.get("pad"):
        raise InputError(
            "expected a network without padding, got one with pad=True; create it with pad=False "
            "and the same weights, and pad outside"
        )
    first = next(model.parameters())
    height, width = (side * model.multiple for side in EXAMPLE_CELLS)
    x = torch.zeros(3, model.in_channels, height, width, dtype=first.dtype, device=first.device)
    more = (2 + model.told_guidance,) if model.second_time else ()
    t = x.new_zeros(3, *more)
    example = (x, t, x.new_zeros(3, dtype=torch.int64))
    free = Dim.AUTO
    shapes = ({0: free, 2: free, 3: free}, {0: free}, {0: free})
    return torch.export.export(model, example, dynamic_shapes=shapes)


def export_onnx(model: Backbone, path: str | Path) -> None:
    """Write the network as an ONNX file with the inputs x, t, y and the output prediction.

    Needs `pip install convflow[onnx]`. Batch, height and width stay free, as in `export_program`.

    Args:
        model: the network, on any device.
        path: of the file; an old one is replaced when the new one is whole.

    Raises:
        InputError: a missing package, a network of scales, one that pads, or one too large for such
            a file.
    """
    _check_plain(model)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > LARGEST_FILE:
        raise InputError(
            f"expected a network of at most 2 GB, which is all that an ONNX file holds, got "
            f"{size / 1e9:.1f} GB; export it in half precision: model.half()"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            "expected the packages onnx and onnxscript, found none; pip install 'convflow[onnx]'"
        ) from error
    program = export_program(model)
    with writing_file(Path(path)) as draft:
        torch.onnx.export(
            program,
            (),
            draft,
            dynamo=True,
            opset_version=OPSET,
            input_names=["x", "t", "y"],
            output_names=["prediction"],
            external_data=False,
            verbose=False,
        )


def _check_plain(model: Backbone) -> None:
    """Raise InputError for a pyramid, whose inputs are not one image with one time."""
    if model.num_scales > 1:
        raise InputError(
            "expected a network on one image, which alone can be exported, got a pyramid of "
            f"{model.num_scales} scales; export another"
        )
