"""Networks leave the library: one graph for all sizes in the compiler, torch.export and ONNX."""

from __future__ import annotations

import pytest
import torch
from torch._inductor.utils import fresh_cache

from convflow import export_onnx
from convflow.models.export import cells_of, export_program
from convflow.models.zoo import create_model
from convflow.types import InputError
from tests.cases import MODELS, VIDEOS, build, build_pyramid, inputs, perturb
from tests.tolerance import assert_close_rms

FEWEST = ["flowdcn", "dico", "fcdm", "dit", "sit-rotary"]
"""A network of each family, the two kinds of positions among them."""

SHAPES = [(7, (4, 6)), (1, (2, 3)), (2, (5, 3)), (5, (4, 4)), (2, (3, 8))]
"""Batches, and heights and widths in multiples of the network."""

SEVERAL = [(max(batch, 2), size) for batch, size in SHAPES]
"""The compiler makes a graph of its own for a batch of one, and takes equal sizes for the same:
a first batch of four images would be tied to a height of four."""


def small(case):
    """A network with one block in each stage, because tracing takes its time for each block."""
    family, settings = (MODELS | VIDEOS)[case]
    if settings.get("layout") == "isotropic-skip":  # one block has nothing to skip
        return build(case)
    few = {"depths": [1] * len(settings["depths"])} if "depths" in settings else {"depth": 1}
    return perturb(create_model(family, **settings | few).eval())


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in MODELS if not case.endswith("-pad")])
def test_the_compiler_needs_one_graph_for_all_sizes(case, unchecked):
    model = small(case).requires_grad_(False)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    first, *others = (inputs(model, *shape) for shape in SEVERAL)
    assert_close_rms(compiled(*first), model(*first))
    with torch.compiler.set_stance("fail_on_recompile"):
        for other in others:
            assert_close_rms(compiled(*other), model(*other))


@pytest.mark.slow
@pytest.mark.parametrize("case", ["flowdcn", "dit"])
def test_the_compiled_network_runs_at_five_sizes(case, unchecked):
    model = small(case).requires_grad_(False)
    with fresh_cache():
        for _ in range(2 if case == "dit" else 1):  # again from the compiler's cache, guards too
            torch._dynamo.reset()
            compiled = torch.compile(model, fullgraph=True, dynamic=True)
            compiled(*inputs(model, *SEVERAL[0]))
            with torch.compiler.set_stance("fail_on_recompile"):
                for shape in SEVERAL:
                    x, t, y = inputs(model, *shape)
                    assert_close_rms(compiled(x, t, y), model(x, t, y))


@pytest.mark.parametrize(
    "case", [c if c == "dit" else pytest.param(c, marks=pytest.mark.slow) for c in FEWEST]
)
def test_an_exported_program_is_plain_torch_and_takes_any_size(case, tmp_path, unchecked):
    model = small(case)
    program = export_program(model)
    operators = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not [name for name in operators if "convflow" in name]
    torch.export.save(program, tmp_path / "network.pt2")
    run = torch.export.load(tmp_path / "network.pt2").module()
    for shape in SHAPES:
        x, t, y = inputs(model, *shape)
        assert_close_rms(run(x, t, y), model(x, t, y))


@pytest.mark.parametrize(
    "case",
    [
        "flowdcn-dico-video",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("flowdcn-video", "sit-full")),
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("dico-video", "sit-factorised")),
    ],
)
def test_an_exported_network_of_videos_takes_any_size(case, unchecked):
    model = small(case)
    run = export_program(model).module()
    for frames, (batch, (rows, columns)) in zip((2, 5, 3, 4, 6), SHAPES, strict=True):
        size = cells_of(model, (frames, rows, columns))
        x = torch.randn(batch, model.in_channels, *size)
        t, y = torch.rand(batch), torch.arange(batch) % 3
        assert_close_rms(run(x, t, y), model(x, t, y))


@pytest.mark.slow
@pytest.mark.parametrize("case", FEWEST)
def test_onnx_gives_the_same_prediction_at_any_size(case, tmp_path):
    import onnx
    import onnxruntime

    model, path = small(case), tmp_path / "network.onnx"
    export_onnx(model, path)
    onnx.checker.check_model(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert [each.name for each in session.get_inputs()] == ["x", "t", "y"]
    for shape in SHAPES:
        x, t, y = inputs(model, *shape)
        feed = {"x": x.numpy(), "t": t.numpy(), "y": y.numpy()}
        (found,) = session.run(["prediction"], feed)
        assert_close_rms(torch.from_numpy(found), model(x, t, y))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["reference", "grid_sample"])
def test_onnx_holds_the_operator_in_both_forms(form, tmp_path):
    import onnx
    import onnxruntime

    model, path = small("flowdcn"), tmp_path / "network.onnx"
    export_onnx(model, path, form=form)
    names = {node.op_type for node in onnx.load(path).graph.node}
    assert ("GridSample" in names) == (form == "grid_sample")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in SHAPES:
        x, t, y = inputs(model, *shape)
        feed = {"x": x.numpy(), "t": t.numpy(), "y": y.numpy()}
        (found,) = session.run(["prediction"], feed)
        assert_close_rms(torch.from_numpy(found), model(x, t, y))


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch, unchecked):
    with pytest.raises(InputError, match="without padding"):
        export_program(build("dico-pad"))
    monkeypatch.setattr("convflow.models.export.LARGEST_FILE", 100)
    with pytest.raises(InputError, match=r"at most 2 GB.*export it in float16"):
        export_onnx(build("dit"), tmp_path / "network.onnx")
    with pytest.raises(InputError, match=r"at most 2 GB.*export a program of torch\.export"):
        export_onnx(build("dit"), tmp_path / "network.onnx", store_half=True)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"pip install 'convflow\[onnx\]'"):
        export_onnx(build("dit"), tmp_path / "network.onnx")


@pytest.mark.parametrize("export", [export_program, lambda model: export_onnx(model, "x.onnx")])
def test_a_network_of_scales_is_refused(export):
    message = "expected a network on one image, .* got a pyramid of 3 scales"
    with pytest.raises(InputError, match=message):
        export(build_pyramid((2, 2)))
