"""Files for other programs do what the network does, or are not there."""

import json
import logging

import pytest
import torch

from convflow.bundle.config import ResolutionConfig
from convflow.codecs import PixelCodec
from convflow.integrations import check, files
from convflow.integrations.description import KEY, describe_model
from convflow.models.export import OPSET
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.meanflow import MeanFlow
from convflow.processes.multiscale import MultiscaleFlow
from convflow.types import InputError
from tests.cases import build_pyramid
from tests.integrations.conftest import pipeline
from tests.tolerance import assert_close_rms

SLOW = pytest.mark.slow
SIZE = 16, 20


def inputs(model, batch=2):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, model.in_channels, *SIZE, generator=generator)
    return x, torch.rand(batch, generator=generator), torch.arange(batch)


@pytest.mark.slow
def test_onnx_has_named_axes_and_says_what_it_is(pipe, tmp_path):
    import onnx

    out = tmp_path / "it.onnx"
    (line,) = files.write_onnx(pipe, out, name="pets")
    assert f"opset {OPSET}, float32" in line
    model = onnx.load(out)
    onnx.checker.check_model(model)
    assert {each.domain: each.version for each in model.opset_import}[""] == OPSET
    axes = {
        each.name: [side.dim_param or side.dim_value for side in each.type.tensor_type.shape.dim]
        for each in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        "x": ["batch", 3, "height", "width"],
        "t": ["batch"],
        "y": ["batch"],
        "prediction": ["batch", 3, "height", "width"],
    }
    told = {each.key: each.value for each in model.metadata_props}
    assert json.loads(told[KEY]) == json.loads(json.dumps(describe_model(pipe, "pets")))
    found = files.open_onnx(out)(*inputs(pipe.model))
    assert_close_rms(found, pipe.model(*inputs(pipe.model)))


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=SLOW) for case in ("flowdcn", "dico", "fcdm", "sit-rotary")]
)
def test_every_family_goes_to_every_file(case, tmp_path):
    pipe = pipeline(case)
    for half in (False, True):
        for write in (files.write_onnx, files.write_program):
            (line,) = write(pipe, tmp_path / f"{half}.{write.__name__}", name="it", half=half)
            assert ("float16" if half else "float32") in line


@pytest.mark.parametrize(
    ("half", "guidance_max"),
    [
        (False, 4.0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((False, 1.0), (True, 1.0), (True, 4.0))
        ),
    ],
)
def test_a_network_of_several_times_is_asked_with_all_of_them(guidance_max, half, tmp_path):
    process = MeanFlow(guidance_max=guidance_max)
    told = {"second_time": True, "told_guidance": process.tells_guidance}
    pipe = pipeline(network=told, process=process)
    list(files.write_program(pipe, tmp_path / "it.pt2", name="it", half=half))
    x, t, y = inputs(pipe.model)
    t = torch.stack([t / 2, t, 3 * t], 1)[:, : 2 + process.tells_guidance]
    found = torch.export.load(tmp_path / "it.pt2").module()(x, t, y)
    assert_close_rms(found, pipe.model(x, t, y), limit=check.ALLOWED[half])


@pytest.mark.slow
@pytest.mark.parametrize("guidance_max", [1.0, 4.0])
def test_a_network_of_several_times_goes_to_onnx(guidance_max, tmp_path):
    process = MeanFlow(guidance_max=guidance_max)
    told = {"second_time": True, "told_guidance": process.tells_guidance}
    pipe = pipeline(network=told, process=process)
    (line,) = files.write_onnx(pipe, tmp_path / "it.onnx", name="it", half=True)
    assert "onnxruntime gives the same predictions" in line


@pytest.mark.parametrize("write", [files.write_onnx, files.write_program])
@pytest.mark.parametrize("half", [False, True])
def test_a_network_of_scales_is_refused(write, half, tmp_path):
    scales = Pipeline(build_pyramid(), PixelCodec(), (8, 8), process=MultiscaleFlow((2,)))
    with pytest.raises(InputError, match="expected a network on one image"):
        list(write(scales, tmp_path / "it", name="it", half=half))
    assert not [*tmp_path.iterdir()]


def test_the_times_of_the_check_are_those_of_the_process(tmp_path, monkeypatch):
    asked = []

    def note(*_, last_time, **__):
        asked.append(last_time)
        return 0.0

    monkeypatch.setattr(files, "check_program", note)
    monkeypatch.setattr(files, "export_program", lambda *_: None)
    monkeypatch.setattr(torch.export, "save", lambda _, file, **__: file.write(b"x"))
    monkeypatch.setattr(torch.export, "load", lambda _: torch.nn.Module())
    monkeypatch.setattr(torch.nn.Module, "module", lambda self: self, raising=False)
    for case, process in (("dit-learned-variance", DDPM()), ("dit", MeanFlow())):
        told = {"second_time": process.second_time}
        pipe = pipeline(case, network=told, process=process)
        list(files.write_program(pipe, tmp_path / "a", name="it"))
    assert asked == [999.0, 1.0]


@pytest.mark.slow
def test_half_precision_halves_the_file_and_keeps_its_inputs(tmp_path):
    pipe, sizes = pipeline(network={"width": 128}), {}
    for half in (False, True):
        out = tmp_path / f"{half}.onnx"
        list(files.write_onnx(pipe, out, name="it", half=half))
        found = files.open_onnx(out)(*inputs(pipe.model))
        assert found.dtype == torch.float32
        assert_close_rms(found, pipe.model(*inputs(pipe.model)), limit=check.ALLOWED[half])
        sizes[half] = out.stat().st_size
    assert sizes[True] < 0.6 * sizes[False]
    assert next(pipe.model.parameters()).dtype == torch.float32


def test_a_program_runs_where_convflow_is_not(pipe, tmp_path):
    out = tmp_path / "it.pt2"
    (line,) = files.write_program(pipe, out, name="pets")
    assert "torch gives the same predictions" in line
    told = {KEY: ""}
    program = torch.export.load(out, extra_files=told)
    assert json.loads(told[KEY])["name"] == "pets"
    assert_close_rms(program.module()(*inputs(pipe.model)), pipe.model(*inputs(pipe.model)))


@pytest.mark.parametrize(
    "write", [pytest.param(files.write_onnx, marks=pytest.mark.slow), files.write_program]
)
def test_what_fails_the_check_is_not_there(write, pipe, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise InputError("it gives other predictions")

    monkeypatch.setattr(files, "check_program", refuse)
    (tmp_path / "old").write_text("precious")
    for out in (tmp_path / "new", tmp_path / "old"):
        with pytest.raises(InputError, match="other predictions"):
            list(write(pipe, out, name="it"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "precious"


@pytest.mark.slow
def test_a_missing_runtime_is_named(pipe, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime.*pip install 'convflow\[onnx\]'"):
        list(files.write_onnx(pipe, tmp_path / "it.onnx", name="it"))
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_numbers_beyond_float16_are_refused(pipe, tmp_path):
    with torch.no_grad():
        next(pipe.model.parameters()).fill_(1e5)
    with pytest.raises(InputError, match="without --dtype float16"):
        list(files.write_onnx(pipe, tmp_path / "it.onnx", name="it", half=True))


def test_a_model_that_is_told_of_sizes_warns(tmp_path, caplog):
    pipe = pipeline(resolution=ResolutionConfig(position_scaling="pi"))
    with caplog.at_level(logging.WARNING, "convflow"):
        list(files.write_program(pipe, tmp_path / "it.pt2", name="it"))
    assert "is told position_scaling at sizes other than" in caplog.text
