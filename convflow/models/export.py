"""Networks as programs that run without convflow: `torch.export` and ONNX, for any size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from convflow.models.backbone import Backbone
from convflow.ops.deform.exported import ExportForm, written_as
from convflow.storage import writing_file
from convflow.types import InputError, Size

OPSET = 20
LARGEST_FILE = 2**31 - 2**20
EXAMPLE_CELLS = (5, 4, 6)
"""Frames, height and width of the example, in multiples of the network: not equal, and not one."""
AXES = {4: ("batch", None, "height", "width"), 5: ("batch", None, "frames", "height", "width")}
"""The names of the free axes of images (B, C, H, W) and of videos in an ONNX file."""
SMALLEST_HALF = 256
"""Numbers of a tensor that is worth a cast from float16."""
FORMS: dict[str, ExportForm] = {"onnx": "grid_sample", "torch": "reference", "web": "reference"}
"""How the deformable operator is written for each target of `convflow export`: "reference", or
"grid_sample" where that is faster (`benchmarks/ops/in_onnx.py`)."""


def export_program(
    model: Backbone, asked: nn.Module | None = None, form: ExportForm = FORMS["torch"]
) -> ExportedProgram:
    """Return the network as one graph of plain torch operators.

    Batch, height and width, and the frames of videos, stay free, from two multiples of the network
    on; the deformable operator goes in as plain operators. `torch.export.save` writes it,
    `.module()` runs it.

    Args:
        model: the network.
        asked: what is exported in its place: a module called as `asked(x, t, y)`, which asks the
            network. Its inputs have the network's dtype; for its times see `count_times`.
        form: of the deformable operator, where its border is "zeros".

    Raises:
        InputError: a network of scales, or one that pads, whose graph depends on the size.

    Examples:
        >>> from convflow import create_model
        >>> program = export_program(create_model("dit", width=16, depth=1, num_heads=2))
        >>> x, t, y = torch.randn(2, 4, 10, 6), torch.rand(2), torch.tensor([3, 1000])
        >>> program.module()(x, t, y).shape
        torch.Size([2, 4, 10, 6])
    """
    check_plain(model)
    if model.settings.get("pad"):
        raise InputError(
            "expected a network without padding, got one with pad=True; create it with pad=False "
            "and the same weights, and pad outside"
        )
    first = next(model.parameters())
    size = cells_of(model, EXAMPLE_CELLS)
    x = torch.zeros(3, model.in_channels, *size, dtype=first.dtype, device=first.device)
    count = count_times(asked or model)
    t = x.new_zeros(3, count) if count > 1 else x.new_zeros(3)
    free = Dim.AUTO

    def fitting(part: torch.Tensor) -> torch.Tensor:
        dtype = first.dtype if part.is_floating_point() else part.dtype
        return torch.zeros_like(part, dtype=dtype, device=first.device)

    y = tree_map(fitting, model.blank_conditions(3))
    example = (x, t, y)
    sides = dict.fromkeys((0, *range(2, x.dim())), free)
    shapes = (sides, {0: free}, tree_map(lambda _: {0: free}, y))
    with written_as(form):
        return torch.export.export(asked or model, example, dynamic_shapes=shapes)


def export_onnx(
    model: Backbone,
    path: str | Path,
    *,
    asked: nn.Module | None = None,
    metadata: Mapping[str, str] | None = None,
    store_half: bool = False,
    form: ExportForm = FORMS["onnx"],
) -> None:
    """Write the network as an ONNX file with the inputs x, t, y and the output prediction.

    Needs `pip install convflow[onnx]`. The axes `batch`, `height` and `width`, and `frames` of
    videos, stay free, as in `export_program`.

    Args:
        model: the network, on any device.
        path: of the file; an old one is replaced when the new one is whole.
        asked: what is written in place of the network, as in `export_program`.
        metadata: texts by key that the file holds besides.
        store_half: hold weights as float16, and compute in float32: half the size, everywhere.
        form: of the deformable operator, as in `export_program`.

    Raises:
        InputError: a missing package, a network of scales, one that pads, or one too large for such
            a file.
    """
    check_plain(model)
    check_labels(model, "an ONNX file")
    weights = [*(asked or model).parameters()]
    size = sum(p.numel() * (2 if store_half else p.element_size()) for p in weights)
    if size > LARGEST_FILE:
        half = store_half or weights[0].element_size() == 2
        cure = "export a program of torch.export" if half else "export it in float16"
        raise InputError(
            f"expected a network of at most 2 GB, which is all that an ONNX file holds, got "
            f"{size / 1e9:.1f} GB; {cure} in its place"
        )
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            "expected the packages onnx and onnxscript, found none; pip install 'convflow[onnx]'"
        ) from error
    written = torch.onnx.export(
        export_program(model, asked, form),
        (),
        dynamo=True,
        opset_version=OPSET,
        input_names=["x", "t", "y"],
        output_names=["prediction"],
        verbose=False,
    )
    assert written is not None, "it returns None only where it writes a file itself"
    _name_axes(written.model.graph)
    written.model.metadata_props.update(metadata or {})
    if store_half:
        _store_half(written.model.graph)
    with writing_file(Path(path)) as draft:
        written.save(draft, external_data=False)


def _name_axes(graph: Any) -> None:
    """Call the free axes of a graph of `onnx_ir` by their names."""
    import onnx_ir as ir

    for value in (*graph.inputs, *graph.outputs):
        names = AXES.get(len(value.shape), ("batch",))
        free = dict(enumerate(names))
        sides = [free.get(i) or side for i, side in enumerate(value.shape)]
        value.shape = ir.Shape(sides)


def _store_half(graph: Any) -> None:
    """Hold the large tensors of a graph of `onnx_ir` as float16, and cast them where they enter."""
    import onnx_ir as ir

    for name, value in [*graph.initializers.items()]:
        if value.const_value.dtype != ir.DataType.FLOAT or value.const_value.size < SMALLEST_HALF:
            continue
        numbers = value.const_value.numpy().astype("float16")
        stored = ir.Value(name=f"{name}_half", const_value=ir.tensor(numbers, name=f"{name}_half"))
        cast = ir.node("Cast", [stored], attributes={"to": ir.DataType.FLOAT})
        value.replace_all_uses_with(cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(stored)
        graph.insert_before(graph[0], cast)


def cells_of(model: Backbone, cells: Size) -> Size:
    """Return the size in model space of so many multiples of a network.

    Args:
        model: the network.
        cells: frames, height and width in its multiples; the frames count for videos alone.
    """
    frames, height, width = cells
    size = (height * model.multiple, width * model.multiple)
    return (frames * model.frame_multiple, *size) if model.video else size


def count_times(asked: nn.Module) -> int:
    """Return how many times a module takes for each image, a scale of guidance among them.

    One stands for times (B,), more for (B, count). Other modules than a network say it by an
    attribute `num_times`; without it they take one.
    """
    if isinstance(asked, Backbone):
        return 1 + asked.second_time + (asked.second_time and asked.told_guidance)
    return getattr(asked, "num_times", 1)


def check_labels(model: Backbone, what: str) -> None:
    """Raise InputError for a network of texts, whose conditions are no labels."""
    if model.takes_text:
        raise InputError(
            f"expected a network that is told class labels for {what}, got one that is told texts; "
            "export it with --to torch, or --to safetensors"
        )


def check_pictures(model: Backbone, what: str) -> None:
    """Raise InputError for a network of videos."""
    if model.video:
        raise InputError(
            f"expected a model of images for {what}, got one of videos; export it with --to torch, "
            "onnx or safetensors"
        )


def check_plain(model: Backbone) -> None:
    """Raise InputError for a pyramid, whose inputs are not one image with one time."""
    if model.num_scales > 1:
        raise InputError(
            "expected a network on one image, which alone can be exported, got a pyramid of "
            f"{model.num_scales} scales; export another"
        )
