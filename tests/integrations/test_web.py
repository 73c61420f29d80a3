"""The page draws in a browser what the pipeline draws in Python, from the same noise."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.quality.browser import chromium, find_chromium, serving, wait_for
from convflow.bundle.config import SamplingConfig
from convflow.codecs import LatentCodec, PixelCodec
from convflow.integrations import web
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.guidance import guide
from convflow.samplers.linear import GeneralLinear
from convflow.samplers.ode import integrate, time_grid
from convflow.samplers.solvers import create_solver
from convflow.samplers.tableaus import RUNGE_KUTTA
from convflow.seeds import draw_noise
from convflow.types import InputError
from tests.cases import build_pyramid
from tests.integrations.conftest import pipeline
from tests.tolerance import assert_close_rms

LEVELS = 2
"""By how many of 255 levels a picture of the browser may differ from that of Python."""

needs_node = pytest.mark.skipif(not shutil.which("node"), reason="node is not installed")


def node(code: str, given: Any = None) -> Any:
    """What a module of JavaScript prints as JSON; it finds the page's modules and `given`."""
    names = {"drawNoise": "noise", "timeGrid, guided, integrate, toPixels": "sampler"}
    imports = [f"import {{ {n} }} from '{web.PAGE / f}.js';" for n, f in names.items()]
    text = "\n".join([*imports, f"const given = {json.dumps(given)};", code])
    words = ["node", "--input-type=module"]
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
@pytest.mark.parametrize(
    ("seed", "index", "count"),
    [(0, 0, 20_000), (2**32 - 1, 70_000, 20_000), (2**53 - 1, 1, 20_000), (4, 0, 1_000_000)],
)
def test_a_seed_means_in_the_browser_what_it_means_in_python(seed, index, count):
    """Up to the last bit: the logarithm of a browser may be rounded in another way."""
    code = """
    const bytes = new Uint8Array(drawNoise(...given).buffer);
    console.log(JSON.stringify(Buffer.from(bytes).toString("base64")));
    """
    found = np.frombuffer(base64.b64decode(node(code, [seed, index, count])), np.float32)
    expected = draw_noise(seed, [index], (1, 1, count)).flatten().numpy()
    assert np.abs(found - expected).max() <= 5e-7
    assert (found != expected).mean() < 2e-5


@needs_node
def test_a_seed_that_is_none_is_refused():
    code = "try { drawNoise(given, 0, 1); console.log(0) } catch (e) { console.log(1) }"
    assert [node(code, seed) for seed in (-1, 0.5, 2**54)] == [1, 1, 1]


@needs_node
@pytest.mark.parametrize(("shift", "last_step"), [(1.0, None), (3.0, None), (2.0, 0.04)])
def test_the_steps_are_those_of_python(shift, last_step):
    found = node("console.log(JSON.stringify(timeGrid(...given)))", [7, shift, last_step])
    assert found == pytest.approx(time_grid(7, shift=shift, last_step=last_step), abs=1e-15)


@needs_node
@pytest.mark.parametrize("solver", RUNGE_KUTTA)
def test_the_solver_is_that_of_python(solver):
    """The field is not linear in anything, and looks at the label; guidance is in an interval."""

    def field(x, t, y):
        return torch.sin(3 * x) * (1 + y.view(-1, 1, 1, 1)) + t.view(-1, 1, 1, 1).square() * x

    pipe = pipeline()
    noise, grid = draw_noise(1, [0], (3, 4, 5)), time_grid(6, shift=2.0)
    page = web.describe_page(pipe, "it", web.Velocity(pipe), "")
    code = """
    const network = (images, t, labels) => images.map(
      (x, i) => x.map((v) => Math.sin(3 * v) * (1 + labels[i]) + t * t * v));
    const velocity = guided(network, 1, 5, given.rule);
    const noise = Float32Array.from(given.noise);
    const x = await integrate(velocity, noise, given.grid, given.tableau);
    console.log(JSON.stringify([...x]));
    """
    rule = {"scale": 1.5, "interval": [0.1, 0.8], "count": 2 * 20}
    given = {
        "rule": rule, "noise": noise.flatten().tolist(), "grid": grid,
        "tableau": page["solvers"][solver],
    }  # fmt: skip
    guided = guide(field, lambda y: 0 * y + 5, 1.5, interval=(0.1, 0.8), channels=2)
    expected = integrate(guided, noise, torch.tensor([1]), grid, solver)
    found = torch.tensor(node(code, given)).view_as(expected)
    assert_close_rms(found, expected, limit=1e-5)


@needs_node
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_the_nearest_levels(channels, pipe):
    x = torch.tensor([-9, -1, -0.996, 0, 1 / 255, 0.3, 1, 9.0, 0.5]).repeat(channels)
    code = "console.log(JSON.stringify([...toPixels(Float32Array.from(given[0]), given[1])]))"
    found = torch.tensor(node(code, [x.tolist(), channels])).view(9, 4)
    expected = pipe.codec.decode(x.view(1, channels, 3, 3)).view(channels, 9).expand(3, 9)
    assert torch.equal(found[:, :3].T, expected)
    assert (found[:, 3] == 255).all()


def test_the_velocity_is_that_of_the_process(unchecked):
    """In flow time, of every process, whatever the network predicts."""
    x, t, y = torch.randn(2, 3, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([1, 5])
    for process in (FlowMatching(), FlowMatching(schedule="vp", prediction="noise"), DDPM()):
        case = "dit-learned-variance" if process.learned_variance else "dit"
        pipe = pipeline(case, process=process)
        expected = process.field(pipe.model, process.stages(1)[0], x)(x, t, y)
        assert torch.equal(web.Velocity(pipe)(x, t, y), expected)


def test_other_solvers_and_guidance_become_those_of_a_page(caplog):
    sampling = SamplingConfig(create_solver("ab2", steps=9), guidance=2.0, guidance_kind="cfg-zero")
    pipe = pipeline(sampling=sampling)
    with caplog.at_level(logging.WARNING, "convflow"):
        page = web.describe_page(pipe, "it", web.Velocity(pipe), "runtime/")
    assert (page["page"]["solver"], page["page"]["steps"]) == ("euler", web.USUAL_STEPS)
    assert page["runtime"]["files"] == "runtime/"
    assert "no solver ab2" in caplog.text
    assert "cfg alone, not by cfg-zero" in caplog.text


def test_models_that_no_page_can_show_are_refused(tmp_path):
    latents = pipeline()
    latents.codec = LatentCodec("an autoencoder")
    with pytest.raises(InputError, match="expected a model of pixels for a page"):
        list(web.write_page(latents, tmp_path / "x", name="it"))
    scales = Pipeline(build_pyramid(), PixelCodec(), (8, 8), process=MultiscaleFlow((2,)))
    with pytest.raises(InputError, match="expected a model with one scale for a page"):
        list(web.write_page(scales, tmp_path / "x", name="it"))
    assert not (tmp_path / "x").exists()


def test_the_runtime_is_copied_or_asked_for(tmp_path, monkeypatch):
    (tmp_path / "package/dist").mkdir(parents=True)
    (tmp_path / "target").mkdir()
    with pytest.raises(InputError, match=r"--runtime: expected a folder with ort\.webgpu"):
        web.copy_runtime(tmp_path / "target", tmp_path / "package")
    for name in (*web.RUNTIME_FILES, "other.js"):
        (tmp_path / "package/dist" / name).write_text(name)
    for source in (tmp_path, tmp_path / "package", tmp_path / "package/dist"):
        assert web.copy_runtime(tmp_path / "target", source)
        assert {path.name for path in (tmp_path / "target").iterdir()} == {*web.RUNTIME_FILES}
    (tmp_path / "package/dist/ort.wasm.min.mjs").unlink()
    with pytest.raises(InputError, match=r"--runtime: expected a folder with ort\.wasm\.min"):
        web.copy_runtime(tmp_path / "target", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert not web.copy_runtime(tmp_path / "target", None)


def test_an_archive_of_npm_that_is_damaged_or_lacks_a_file_counts_as_none(tmp_path, monkeypatch):
    kinds = iter(("none", "damaged", "lacking"))

    def pack(words, cwd, **_):
        kind = next(kinds)
        if kind != "none":
            (cwd / "a.tgz").write_bytes(b"no archive")
        if kind == "lacking":
            with tarfile.open(cwd / "a.tgz", "w:gz") as archive:
                (cwd / "x").write_text("x")
                archive.add(cwd / "x", f"package/dist/{web.RUNTIME_FILES[0]}")

    monkeypatch.setattr(shutil, "which", lambda _: "npm")
    monkeypatch.setattr(subprocess, "run", pack)
    for _ in range(3):
        assert not web.copy_runtime(tmp_path, None)
    assert next(kinds, None) is None


def test_a_folder_without_the_runtime_is_said_before_the_export(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "export_onnx", lambda *_, **__: pytest.fail("it was exported"))
    with pytest.raises(InputError, match="--runtime: expected a folder with"):
        list(web.write_page(pipe, tmp_path / "x", name="it", runtime=tmp_path))
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
def test_a_page_without_npm_reads_its_runtime_elsewhere(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(web, "_fetch", lambda place: False)
    lines = list(web.write_page(pipe, tmp_path / "x", name="it", half=True))
    assert "float16 weights" in lines[0]
    assert web.ELSEWHERE in lines[1]
    model = json.loads((tmp_path / "x/model.json").read_text())
    assert model["runtime"]["files"] == web.ELSEWHERE
    assert not (tmp_path / "x/runtime").exists()
    with pytest.raises(InputError, match="it exists already"):
        list(web.write_page(pipe, tmp_path / "x", name="it"))


@pytest.fixture(scope="session")
def runtime() -> Path:
    """The folder of onnxruntime-web, fetched once by npm and kept."""
    place = Path(tempfile.gettempdir()) / f"convflow-tests/{web.RUNTIME}-{web.VERSION}"
    if not (place / "package/dist" / web.RUNTIME_FILES[0]).is_file():
        place.mkdir(parents=True, exist_ok=True)
        if not web._fetch(place):
            pytest.skip("npm gives no onnxruntime-web")
    return place


@pytest.fixture(scope="module")
def browser():
    """Chromium of the machine, without a window."""
    pytest.importorskip("playwright.sync_api")
    if find_chromium() is None:
        pytest.skip("chromium is not installed")
    with chromium() as found:
        yield found


@pytest.fixture
def visit(browser):
    """A function that serves a folder and gives the page in it, when it is ready or has failed."""
    with ExitStack() as stack:

        def visit(folder: Path) -> Any:
            page = browser.new_page()
            stack.callback(page.close)
            page.said = []
            page.on("console", lambda m: page.said.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: page.said.append(str(error)))
            page.goto(stack.enter_context(serving(folder)))
            wait_for(page, "Ready|not work")
            return page

        yield visit


def pictures(page: Any) -> np.ndarray:
    """The pixels on the canvases of a page, (N, 3, H, W)."""
    code = """() => [...document.querySelectorAll("canvas")].map((c) => [c.height, c.width, [
      ...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]])"""
    found = [np.array(p).reshape(h, w, 4)[..., :3] for h, w, p in page.evaluate(code)]
    return np.stack(found).transpose(0, 3, 1, 2)


def draw(page: Any, **fields: Any) -> np.ndarray:
    """Fill the form and return the pictures."""
    for name, value in fields.items():
        if name in ("label", "solver"):
            page.select_option(f"#{name}", label=str(value))
        elif name == "guidance":  # a slider
            code = "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }"
            page.eval_on_selector("#guidance", code, str(value))
        else:
            page.fill(f"#{name}", str(value))
    page.click("#draw")
    wait_for(page, "Drawn in|not work")
    assert "not work" not in page.inner_text("#status"), page.inner_text("#status")
    return pictures(page)


PAGES = {
    "flowdcn": {},
    "dico": {
        "process": FlowMatching(schedule="cosine", prediction="data"),
        "sampling": SamplingConfig(GeneralLinear("heun", 5), guidance=1.375),  # between two tenths
    },
    "dit-learned-variance": {"process": DDPM()},
    "flowdcn-no-classes": {"sampling": SamplingConfig(GeneralLinear("heun", 5, shift=2.0))},
}
"""Networks and processes, one for each family of operators."""


@pytest.mark.slow
@pytest.mark.parametrize("case", PAGES)
def test_chromium_draws_what_python_draws(case, runtime, visit, tmp_path):
    pipe = pipeline(case, **PAGES[case])
    list(web.write_page(pipe, tmp_path / "page", name="it", runtime=runtime))
    page = visit(tmp_path / "page")
    assert page.inner_text("#status") == "Ready."
    assert page.input_value("#guidance") == page.inner_text("#scale") or not pipe.model.num_classes
    unit = pipe.multiple
    size = {"size": (4 * unit, 3 * unit), "seed": 11}
    given = {"height": 4 * unit, "width": 3 * unit, "seed": 11}
    if not pipe.model.num_classes:
        found = draw(page, **given, num=2)
        assert not page.is_visible("#guidance")
        compare(found, pipe(num=2, **size).pixels)
    else:
        asked = {"label": "a, b", "solver": "heun", "steps": 4, "guidance": 2.5, "num": 2}
        found = draw(page, **given, **asked)
        command = page.text_content("#command")
        assert "convflow sample MODEL" in command
        assert "--guidance-kind cfg --label-policy balanced" in command
        assert "--label 'a, b'" in command
        chosen = {"solver": "heun", "steps": 4, "guidance": 2.5}
        compare(found, pipe("a, b", num=2, **chosen, **size).pixels)
        found = draw(page, label="every class in turn", solver="euler", steps=6, num=3, seed=2)
        chosen = {"solver": "euler", "steps": 6, "guidance": 2.5, "size": size["size"], "seed": 2}
        compare(found, pipe(num=3, **chosen).pixels)
        found = draw(page, label="no label", num=1)
        compare(found, pipe([None], num=1, **chosen).pixels)
    assert page.said == []


def compare(found: np.ndarray, expected: torch.Tensor) -> None:
    """Pictures of the browser are those of Python, but for two levels."""
    expected = expected.expand(-1, 3, -1, -1).numpy().astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= LEVELS
    assert expected.std() > 10, "a picture of one colour tells nothing"


@pytest.mark.slow
def test_a_page_stops_and_says_what_is_wrong(pipe, runtime, visit, tmp_path):
    list(web.write_page(pipe, tmp_path / "page", name="<i>pets</i>", runtime=runtime))
    page = visit(tmp_path / "page")
    assert page.inner_text("h1") == "<i>pets</i>"
    page.fill("#steps", "1000")
    page.click("#draw")
    page.wait_for_selector("canvas")  # the running state
    assert not page.is_enabled("#draw")
    page.click("#stop")
    wait_for(page, "Stopped")
    page.fill("#steps", "3")
    first = draw(page, seed=1)
    page.click("#again")
    wait_for(page, "Drawn in")
    assert page.input_value("#seed") == "2"
    assert "Nothing is sent anywhere." in page.inner_text("#about")
    assert page.get_attribute("#height", "min") == str(2 * pipe.multiple)
    assert not np.array_equal(first, pictures(page))
    assert "--seed 2" in page.text_content("#command")
    page.fill("#height", "13")  # which the model does not take
    page.click("#draw")
    assert page.eval_on_selector("#height", "e => e.validity.stepMismatch")
    shutil.move(tmp_path / "page/network.onnx", tmp_path / "away.onnx")
    page.reload()
    wait_for(page, "not work")
    assert "network.onnx was not found" in page.inner_text("#status")
    assert not page.is_enabled("#draw")


@pytest.mark.slow
def test_a_wrong_answer_of_the_network_is_seen(pipe, runtime, visit, tmp_path):
    """As a graphics driver may give it; here the file with the right answer is changed."""
    list(web.write_page(pipe, tmp_path / "page", name="it", runtime=runtime))
    path = tmp_path / "page/model.json"
    told = json.loads(path.read_text())
    told["check"]["velocity"] = [1.05 * number for number in told["check"]["velocity"]]
    path.write_text(json.dumps(told))
    page = visit(tmp_path / "page")
    assert "its answer is off by 0.0" in page.inner_text("#status")
