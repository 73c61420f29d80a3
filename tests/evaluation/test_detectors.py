"""Detectors of every kind: where weights come from, what they return, and what must be refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convflow.evaluation import detectors
from convflow.evaluation.detectors import PUBLISHED, Detector, open_detector
from convflow.evaluation.dinov2 import DINOv2
from convflow.types import InputError
from tests.cases import GOLDENS
from tests.evaluation.test_dinov2 import read_dinov2_golden
from tests.evaluation.test_inception import read_inception_golden, seeded_weights
from tests.tolerance import GOLDEN, assert_close_rms

CPU, META = torch.device("cpu"), torch.device("meta")


def random_images(batch=3, channels=3, size=(6, 8)):
    return torch.randint(256, (batch, channels, *size), dtype=torch.uint8)


def checksum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def tiny():
    """DINOv2 weights of 250 kB."""
    return read_dinov2_golden()[0]


@pytest.fixture
def tiny_file(tiny, tmp_path):
    torch.save(tiny, tmp_path / "tiny.pth")
    return tmp_path / "tiny.pth"


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    weights = seeded_weights()
    for name in [n for n in weights if n.endswith("num_batches_tracked")]:
        del weights[name]  # the published file may lack them
    torch.save(weights, path)
    return path


def same_features(detector, weights):
    with torch.device("meta"):
        network = DINOv2.fitting(weights)
    network.load_state_dict(weights, assign=True)
    images = random_images()
    assert detector(images)["features"].equal(network(images)["features"].detach())


# The published networks


def test_inception_from_its_published_layout(inception_file):
    golden, _ = read_inception_golden()
    detector = open_detector("inception", weights=str(inception_file), device=CPU)
    assert detector.sha256 == checksum(inception_file)
    assert (detector.name, detector.device) == ("inception", CPU)
    assert "299x299" in detector.resize
    out = detector(golden["in.images"])
    expected = {"features": "2048", "spatial": "spatial_2023", "logits": "logits_unbiased"}
    assert list(out) == list(expected)
    for name, published in expected.items():
        assert_close_rms(out[name], golden[f"out.{published}"], limit=GOLDEN)


def test_rectangles_grey_and_batches(tiny, tiny_file):
    detector = open_detector("dinov2", weights=str(tiny_file), device=CPU)
    grey = random_images(3, 1, (30, 20))
    out = detector(grey)["features"]
    assert out.shape == (3, 32)
    assert out.equal(detector(grey.repeat(1, 3, 1, 1))["features"])
    for i in range(3):
        assert_close_rms(detector(grey[i : i + 1])["features"], out[i : i + 1])


def test_dinov2_of_both_resizes_from_one_file(tiny_file):
    """A card tells them apart by name and by how images are prepared."""
    clean, rounded = (
        open_detector(name, weights=str(tiny_file), device=CPU)
        for name in ("dinov2", "dinov2-8bit")
    )
    assert clean.sha256 == rounded.sha256
    assert "not rounded" in clean.resize
    assert "8 bits, rounded after each pass" in rounded.resize
    images = random_images(2, 3, (300, 200))
    one, other = (detector(images)["features"] for detector in (clean, rounded))
    assert 0 < (one - other).norm() < 0.1 * one.norm()


def test_the_published_places():
    inception, dinov2 = PUBLISHED["inception"], PUBLISHED["dinov2"]
    assert inception.url.endswith(f"/pt_inception-2015-12-05-{inception.sha256}.pth")
    assert dinov2.url.endswith("/dinov2_vitl14/dinov2_vitl14_pretrain.pth")
    assert dinov2.sha256 == ""
    assert PUBLISHED["dinov2-8bit"][:2] == dinov2[:2]


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "half"])
def test_kinds_of_files(tiny, tmp_path, kind):
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    stored = {n: t.half() for n, t in tiny.items()} if kind == "half" else tiny
    if kind == "safetensors":
        save_file(stored, path)
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=kind != "old")
    detector = open_detector("dinov2", weights=str(path), device=CPU)
    assert {p.dtype for p in detector.network.parameters()} == {torch.float32}
    same_features(detector, {n: t.float() for n, t in stored.items()})


def test_frozen(tiny_file):
    network = open_detector("dinov2", weights=str(tiny_file), device=CPU).network
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s | {"register_tokens": torch.zeros(1)}, "unused register_tokens"),
        (lambda s: {n: t for n, t in s.items() if n != "cls_token"}, "missing cls_token"),
        (
            lambda s: s | {"norm.bias": torch.zeros(3), "norm.weight": torch.zeros(4)},
            r"norm\.bias is \(3,\), expected \(32,\); norm\.weight is \(4,\)",
        ),
        (lambda s: {"model": s}, "expected a mapping of names to tensors; save a state dict"),
        (lambda s: {"fc.bias": torch.zeros(3)}, "expected DINOv2 weights in the torch.hub layout"),
    ],
)
def test_tensors_that_do_not_fit_are_all_named(tiny, tmp_path, change, message):
    torch.save(change(dict(tiny)), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        open_detector("dinov2", weights=str(tmp_path / "w.pth"), device=CPU)


def test_num_batches_tracked_alone_may_be_absent(tmp_path):
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"missing Conv2d_1a_3x3\.bn\.bias; missing") as caught:
        open_detector("inception", weights=str(tmp_path / "w.pth"), device=CPU)
    assert ".num_batches_tracked" not in str(caught.value)
    assert "fc.weight" in str(caught.value)


def test_damaged_weights(tiny_file):
    whole = tiny_file.read_bytes()
    for content in (b"", b"not weights", whole[:-2000], whole[:1000]):
        tiny_file.write_bytes(content)
        with pytest.raises(InputError, match=r"tiny\.pth is damaged"):
            open_detector("dinov2", weights=str(tiny_file), device=CPU)
    assert tiny_file.exists()  # the user's file stays


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_wants_to_run_code_is_refused(tiny, tmp_path):
    torch.save(tiny | {"x": Malice(tmp_path / "new")}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="wants to run code when it is opened, and was refused"):
        open_detector("dinov2", weights=str(tmp_path / "w.pth"), device=CPU)
    assert not (tmp_path / "new").exists()


def test_absent_weights_name_the_nearest_file(tiny_file):
    with pytest.raises(InputError, match=r"found none that can be read .*did you mean 'tiny\.pth'"):
        open_detector("dinov2", weights=str(tiny_file.with_name("tini.pth")), device=CPU)


def test_checksums_of_files(tiny_file):
    right = checksum(tiny_file)
    for given in (right, right[:8], right[:9].upper()):
        detector = open_detector("dinov2", weights=str(tiny_file), sha256=given, device=CPU)
        assert detector.sha256 == right
    wrong = right[:7] + ("0" if right[7] != "0" else "1")
    with pytest.raises(InputError, match=f"expected SHA-256 {wrong} of .*, got {right[:8]}"):
        open_detector("dinov2", weights=str(tiny_file), sha256=wrong, device=CPU)
    assert tiny_file.exists()
    for odd in (right[:7], "x" * 8, right + "0", ""):
        with pytest.raises(InputError, match="expected a SHA-256 of 8 to 64 hex digits, got"):
            open_detector("dinov2", weights=str(tiny_file), sha256=odd, device=CPU)


# Downloads


class Server(ThreadingHTTPServer):
    """Serves `files`; counts requests; cuts off what lies under /cut/."""

    files: dict[str, bytes]
    requests: int = 0


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests += 1
        content = self.server.files.get(self.path.split("?")[0].split("/")[-1])
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if "/cut/" in self.path else content)
        return None

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path, tiny_file):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    server = Server(("127.0.0.1", 0), Answer)
    server.files = {"tiny.pth": tiny_file.read_bytes()}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def cached(tmp_path):
    return sorted(path.name for path in (tmp_path / "hub").rglob("*") if path.is_file())


def publish(monkeypatch, url, sha256):
    entry = PUBLISHED["dinov2"]._replace(url=url, sha256=sha256)
    monkeypatch.setitem(detectors.PUBLISHED, "dinov2", entry)


def test_weights_are_downloaded_once(monkeypatch, server, tiny, tiny_file, tmp_path):
    publish(monkeypatch, f"{server.url}/tiny.pth", checksum(tiny_file)[:8])
    for _ in range(2):
        detector = open_detector("dinov2", device=CPU)
        assert detector.sha256 == checksum(tiny_file)
        same_features(detector, tiny)
    assert server.requests == 1
    assert cached(tmp_path) == ["tiny.pth"]
    assert (tmp_path / "hub" / "checkpoints" / "tiny.pth").exists()


def test_a_file_of_another_program_is_used(monkeypatch, server, tiny_file, tmp_path):
    publish(monkeypatch, f"{server.url}/tiny.pth", checksum(tiny_file)[:8])
    place = tmp_path / "hub" / "checkpoints" / "tiny.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(tiny_file.read_bytes())
    open_detector("dinov2", device=CPU)
    assert server.requests == 0
    place.write_bytes(b"another file")
    with pytest.raises(InputError, match=r"expected SHA-256 .* use or fetch the right file"):
        open_detector("dinov2", device=CPU)


def test_another_file_than_the_published_is_not_kept(monkeypatch, server, tmp_path):
    publish(monkeypatch, f"{server.url}/tiny.pth", "6726825d")
    with pytest.raises(
        InputError, match=r"expected a file with SHA-256 6726825d at http.* not kep"
    ):
        open_detector("dinov2", device=CPU)
    assert cached(tmp_path) == []


def test_other_urls_do_not_mix(server, tiny, tiny_file, tmp_path):
    other = {name: tensor * 1.5 for name, tensor in tiny.items()}
    torch.save(other, tmp_path / "other.pth")
    server.files["b"] = (tmp_path / "other.pth").read_bytes()
    first = open_detector("dinov2", weights=f"{server.url}/a/tiny.pth?download=1", device=CPU)
    server.files["tiny.pth"] = server.files["b"]
    second = open_detector("dinov2", weights=f"{server.url}/b/tiny.pth", device=CPU)
    same_features(first, tiny)
    same_features(second, other)
    names = cached(tmp_path)
    assert len(names) == 2
    assert all(name.endswith("-tiny.pth") for name in names)
    wrong = "00000000"
    with pytest.raises(InputError, match="expected a file with SHA-256 00000000"):
        open_detector("dinov2", weights=f"{server.url}/c/tiny.pth", sha256=wrong, device=CPU)
    assert cached(tmp_path) == names


def test_a_download_that_breaks_off_is_not_kept(server, tmp_path):
    with pytest.raises(InputError, match=r"is damaged|could not download"):
        open_detector("dinov2", weights=f"{server.url}/cut/tiny.pth", device=CPU)
    assert cached(tmp_path) == []
    open_detector("dinov2", weights=f"{server.url}/whole/tiny.pth", device=CPU)


def test_without_network_the_way_by_hand_is_told(monkeypatch, server, tmp_path):
    publish(monkeypatch, f"{server.url}/absent.pth", "")
    place = tmp_path / "hub" / "checkpoints" / "absent.pth"
    message = rf"could not download {server.url}/absent\.pth .*404.* put it at {place}, or give the"
    with pytest.raises(InputError, match=message):
        open_detector("dinov2", device=CPU)
    with pytest.raises(InputError, match=r"could not download .*; fetch it on another machine"):
        open_detector("dinov2", weights="http://127.0.0.1:9/tiny.pth", device=CPU)
    assert cached(tmp_path) == []


# Exported programs


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, images):
        maps = self.conv(images.float() / 255)
        return {"features": maps.mean((2, 3)), "spatial": maps}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    network = Small().eval()
    shapes = {"images": {0: torch.export.Dim("batch", min=1)}}
    exported = torch.export.export(network, (random_images(2),), dynamic_shapes=shapes)
    torch.export.save(exported, path)
    return path, network


def test_an_exported_program(program):
    path, network = program
    detector = open_detector(str(path), sha256=checksum(path)[:10], device=CPU)
    assert (detector.sha256, detector.resize) == (checksum(path), "its own")
    assert not any(p.requires_grad for p in detector.network.parameters())
    for batch in (1, 5):
        images = random_images(batch)
        out, expected = detector(images), network(images)
        assert out["features"].shape == (batch, 5)
        assert out["spatial"].shape == (batch, 5 * 4 * 6)
        assert_close_rms(out["features"], expected["features"])
        assert_close_rms(out["spatial"], expected["spatial"].flatten(1))


def test_an_exported_program_moves(program):
    network = open_detector(str(program[0]), device=META).network
    assert {p.device.type for p in network.parameters()} == {"meta"}


def test_pictures_the_program_was_not_exported_for(program):
    detector = open_detector(str(program[0]), device=CPU)
    with pytest.raises(InputError, match=r"small\.pt2' failed on images \(2, 3, 9, 9\): "):
        detector(random_images(2, size=(9, 9)))


def test_programs_that_cannot_be_opened(program, tmp_path):
    with pytest.raises(InputError, match="expected SHA-256 00000000 of"):
        open_detector(str(program[0]), sha256="00000000", device=CPU)
    with pytest.raises(InputError, match=r"expected a file at .*smal\.pt2.*mean 'small\.pt2'"):
        open_detector(str(program[0].with_name("smal.pt2")), device=CPU)
    os.mkfifo(tmp_path / "pipe.pt2")
    with pytest.raises(InputError, match=r"expected a regular file, got .*pipe\.pt2"):
        open_detector(str(tmp_path / "pipe.pt2"), device=CPU)
    (tmp_path / "folder.pt2").mkdir()
    with pytest.raises(InputError, match=r"Is a directory\)"):
        open_detector(str(tmp_path / "folder.pt2"), device=CPU)
    for content in (b"", b"no program", program[0].read_bytes()[:-500]):
        (tmp_path / "bad.pt2").write_bytes(content)
        with pytest.raises(InputError, match=r"expected a program saved by torch\.export\.save at"):
            open_detector(str(tmp_path / "bad.pt2"), device=CPU)


# The user's own code

USERS = """
from __future__ import annotations
from dataclasses import dataclass
import torch
import neighbour_of_{name}

@dataclass
class Settings:
    width: int = neighbour_of_{name}.WIDTH

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, Settings().width).double()
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, images):
        return self.drop(self.linear(images.double().mean((2, 3))))

def network():
    torch.manual_seed(1)
    return Network()

def mapping():
    return lambda images: {{"features": images.flatten(1).half() / 255, "logits": images[:, 0, 0]}}

def nothing():
    return None

def broken():
    raise KeyError("weights are gone")
"""


@pytest.fixture
def users_file(tmp_path, request):
    name = f"users_{abs(hash(request.node.name))}"
    (tmp_path / f"neighbour_of_{name}.py").write_text("WIDTH = 7\n")
    (tmp_path / f"{name}.py").write_text(USERS.format(name=name))
    return tmp_path / f"{name}.py"


@pytest.fixture(params=["file", "module"])
def place(users_file, request, monkeypatch):
    """The user's code as a path and as a module in a package."""
    if request.param == "file":
        return str(users_file)
    package = users_file.parent / f"package_{users_file.stem}"
    package.mkdir()
    users_file.rename(package / users_file.name)
    monkeypatch.syspath_prepend(users_file.parent)
    return f"{package.name}.{users_file.stem}"


def test_a_module(place):
    before = list(sys.path)
    detector = open_detector(f"{place}:network", device=CPU)
    assert sys.path == before
    assert detector.resize == "its own"
    assert not detector.network.training
    assert not any(p.requires_grad for p in detector.network.parameters())
    images = random_images()
    out = detector(images)
    assert list(out) == ["features"]
    assert out["features"].dtype == torch.float32
    expected = detector.network.linear(images.double().mean((2, 3)))
    assert_close_rms(out["features"], expected, torch.float32)


def test_a_function(place):
    images = random_images()
    out = open_detector(f"{place}:mapping", device=CPU)(images)
    assert {name: tuple(rows.shape) for name, rows in out.items()} == {
        "features": (3, 3 * 6 * 8),
        "logits": (3, 8),
    }
    assert {rows.dtype for rows in out.values()} == {torch.float32}
    assert out["logits"].equal(images[:, 0, 0].float())


def test_the_users_module_moves(users_file):
    detector = open_detector(f"{users_file}:network", device=META)
    assert {p.device.type for p in detector.network.parameters()} == {"meta"}


def test_what_cannot_be_a_network(place):
    for function, message in {
        "nothing": r"expected nothing\(\) to return a module or a function, got NoneType",
        "broken": r"failed in broken\(\): KeyError: 'weights are gone'; mend its code",
        "netwrok": r"unknown function 'netwrok'; did you mean 'network'\?",
        "Settings": "to return a module or a function, got Settings",
    }.items():
        with pytest.raises(InputError, match=message):
            open_detector(f"{place}:{function}", device=CPU)


def test_absent_code_names_the_nearest(place, users_file):
    last = place.removesuffix(".py")
    wrong = place.replace(last, last + "x")
    with pytest.raises(InputError, match=f"did you mean '{users_file.stem}"):
        open_detector(f"{wrong}:network", device=CPU)


def test_code_that_cannot_be_imported(users_file):
    before = set(sys.modules)
    for text, message in {
        "import torch,": "could not be imported: SyntaxError",
        "1 / 0": "could not be imported: ZeroDivisionError: division by zero; mend its code",
        "import sys; sys.exit(3)": "could not be imported: SystemExit: 3; mend its code",
        "import torhc": "could not be imported: .*No module named 'torhc'",
    }.items():
        users_file.write_text(text)
        with pytest.raises(InputError, match=f"detector '{users_file}:network' {message}"):
            open_detector(f"{users_file}:network", device=CPU)
    assert not any("_convflow_detector_" in name for name in set(sys.modules) - before)


def test_the_checksum_covers_source_and_weights(users_file):
    name, text = f"{users_file}:network", users_file.read_text()
    first = open_detector(name, device=CPU).sha256
    assert open_detector(name, sha256=first, device=CPU).sha256 == first
    users_file.write_text(text + "# a comment\n")
    second = open_detector(name, device=CPU).sha256
    weights = {}
    for seed in (1, 2):  # the same source, other weights
        users_file.write_text(
            text.replace("torch.manual_seed(1)", "torch.manual_seed(neighbour())")
            + f"def neighbour(): return int(open({str(users_file) + '.seed'!r}).read())\n"
        )
        users_file.with_name(users_file.name + ".seed").write_text(str(seed))
        weights[seed] = open_detector(name, device=CPU).sha256
    assert len({first, second, *weights.values()}) == 4
    with pytest.raises(InputError, match=r"expected SHA-256 .* of the code and weights of"):
        open_detector(name, sha256=first, device=CPU)


def test_an_edit_of_the_same_second_counts(users_file, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    code = "import torch\ndef f():\n    return lambda images: torch.full((len(images), 1), {}.0)\n"
    for value in (1, 2):
        users_file.write_text(code.format(value))
        os.utime(users_file, (1_700_000_000, 1_700_000_000))
        out = open_detector(f"{users_file}:f", device=CPU)(random_images())
        assert out["features"].eq(value).all()


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda x: None, "expected a tensor or a mapping with 'features', got NoneType"),
        (lambda x: (x, x), "expected a tensor or a mapping with 'features', got tuple"),
        (lambda x: {"logits": x}, r"mapping with 'features', got \['logits'\]"),
        (lambda x: {"features": 3}, "expected 'features' to be a tensor with .*, got int"),
        (lambda x: x[:2], r"one row for each of 3 images, got \(2, 3, 6, 8\)"),
        (lambda x: x.float().mean(), r"one row for each of 3 images, got \(\)"),
        (lambda x: x[:, :0], r"one row for each of 3 images, got \(3, 0, 6, 8\)"),
        (
            lambda x: {"features": x, "logits": x[:1]},
            "expected 'logits' to be a tensor with one row for each of 3 images",
        ),
        (
            lambda x: x.float().index_fill(0, torch.tensor([1]), float("nan")),
            r"expected finite 'features', got NaN or infinity for image 1 of a batch of 3",
        ),
        (
            lambda x: {
                "features": x,
                "spatial": x.float() / (torch.arange(3) < 2).view(3, 1, 1, 1),
            },
            r"expected finite 'spatial', got NaN or infinity for image 2 of a batch of 3",
        ),
        (lambda x: x.float() @ torch.ones(3), r"failed on images \(3, 3, 6, 8\): RuntimeError: "),
    ],
)
def test_results_that_are_refused(result, message):
    detector = Detector("mine", "", "its own", result)
    with pytest.raises(InputError, match=f"detector 'mine'.*{message}"):
        detector(random_images() | 1)


def test_one_number_per_picture_is_a_feature():
    detector = Detector("mine", "", "its own", lambda images: images.float().mean((1, 2, 3)))
    assert detector(random_images())["features"].shape == (3, 1)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "images", [random_images().float(), random_images()[0], random_images()[:0]]
)
def test_other_pictures_are_refused(images):
    with pytest.raises(InputError, match=r"detector 'mine': expected uint8 images \(B, C, H, W\)"):
        Detector("mine", "", "its own", lambda images: images)(images)


def test_memory_that_runs_out_stays_what_it_is():
    def network(images):
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        Detector("mine", "", "its own", network)(random_images())


# State that belongs to others


def precisions():
    backends = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul)
    return [place.fp32_precision for place in (*places, backends.mkldnn.conv)]


@pytest.fixture
def fast_math():
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.usefixtures("fast_math")
@pytest.mark.parametrize("fails", [False, True])
def test_features_are_computed_in_float32(fails):
    before, seen = precisions(), []
    weight = torch.randn(48, 5)

    def network(images):
        seen.extend([precisions(), torch.is_inference_mode_enabled()])
        product = images.flatten(2)[:, 0].float() @ weight
        seen.append(product.dtype)
        return product * (float("nan") if fails else 1)

    images = random_images()
    detector = Detector("mine", "", "its own", network)
    with torch.autocast("cpu", torch.bfloat16):
        if fails:
            with pytest.raises(InputError, match="expected finite 'features'"):
                detector(images)
        else:
            exact = images.flatten(2)[:, 0].double() @ weight.double()
            assert_close_rms(detector(images)["features"], exact, torch.float32)
    assert before != ["ieee"] * 4
    assert seen == [["ieee"] * 4, True, torch.float32]
    assert precisions() == before
    assert torch.get_float32_matmul_precision() == "medium"


UNTOUCHED = """
import torch
from tests.evaluation.test_detectors import Detector, random_images, precisions
before = precisions()
Detector("mine", "", "its own", lambda images: images)(random_images())
assert precisions() == before
torch.backends.fp32_precision = "ieee"
assert precisions() == ["ieee"] * 4, precisions()
"""


@pytest.mark.slow
def test_precision_is_still_inherited_afterwards():
    """In a fresh process: what one sets for all backends counts in each of them."""
    subprocess.run([sys.executable, "-c", UNTOUCHED], cwd=GOLDENS.parents[1], check=True)


@pytest.mark.parametrize("kind", ["dinov2", "program", "network"])
def test_opening_changes_no_global_state(kind, tiny_file, program, users_file):
    def state():
        flags = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads()
        return [*flags, *precisions(), torch.initial_seed()]

    name, weights = {
        "dinov2": ("dinov2", str(tiny_file)),
        "program": (str(program[0]), None),
        "network": (f"{users_file}:network", None),  # calls torch.manual_seed
    }[kind]
    before, generator = state(), torch.get_rng_state()
    open_detector(name, weights=weights, device=CPU)
    assert state() == before
    assert torch.get_rng_state().equal(generator)


def test_unknown_names():
    with pytest.raises(
        InputError, match=r"unknown detector 'incepton'; did you mean 'inception'\?"
    ):
        open_detector("incepton", device=CPU)
    for name in ("clip", "network.py", "network.onnx"):
        with pytest.raises(InputError, match=r"\.pt2 file of torch\.export, package\.module:func"):
            open_detector(name, device=CPU)
    with pytest.raises(InputError, match=r"inception, dinov2, dinov2-8bit only, got 'a"):
        open_detector("a.pt2", weights="b", device=CPU)
