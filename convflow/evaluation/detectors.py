"""Feature networks by name: the published ones, exported programs and the user's own code."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.backends import cudnn, mkldnn
from torch.backends.cuda import matmul as gpu_matmul
from torch.export.passes import move_to_device_pass

from convflow.evaluation.dinov2 import DINOv2
from convflow.evaluation.inception import InceptionFID
from convflow.evaluation.programs import check_calls, read_program
from convflow.evaluation.user_code import (
    folder_of,
    import_place,
    importable,
    nearest,
    shorten,
    users_code,
)
from convflow.storage import find_misfits, hash_tensors, read_weights
from convflow.types import InputError, unknown_name


class PublishedDetector(NamedTuple):
    """A network with published weights; `sha256` is the start of their checksum, where known."""

    url: str
    sha256: str
    resize: str
    build: Callable[[Mapping[str, Tensor]], nn.Module]


DINOV2 = "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth"

PUBLISHED: dict[str, PublishedDetector] = {
    "inception": PublishedDetector(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        "6726825d",
        "299x299 bilinear as in TensorFlow 1, no half-pixel shift, no antialias, (x - 128) / 128",
        lambda weights: InceptionFID(),
    ),
    "dinov2": PublishedDetector(
        DINOV2,
        "",
        "224x224 bicubic with antialias as in Pillow, not rounded, clamped, ImageNet mean and std",
        DINOv2.fitting,
    ),
    "dinov2-8bit": PublishedDetector(
        DINOV2,
        "",
        "224x224 bicubic by Pillow in 8 bits, rounded after each pass, ImageNet mean and std",
        partial(DINOv2.fitting, eight_bit=True),
    ),
}


@dataclass(frozen=True)
class Detector:
    """Turns uint8 images into named features.

    Attributes:
        name: what `open_detector` was given.
        sha256: the checksum of its weights (and of its source, for the user's code), in hex.
        resize: how images are prepared, in words.
        network: what is called with the images; returns features, or a mapping of names to them.
        device: where images are moved first; None leaves them where they are.
        probes: features of images of noise by their shape, see `scores.probe`.
    """

    name: str
    sha256: str
    resize: str
    network: Callable[[Tensor], Any]
    device: torch.device | None = None
    probes: dict[tuple[int, ...], dict[str, Tensor]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def __call__(self, images: UInt8[Tensor, "B C *size"]) -> dict[str, Float[Tensor, "B F"]]:
        """Return the features of a batch, each row of one image, in float32 on the device.

        The network runs in inference mode and in full float32: no autocast, no TF32.

        Args:
            images: (B, C, H, W) or videos (B, C, F, H, W) in 0..255, at least one; the published
                networks take RGB and grey images.

        Returns:
            "features", and whatever else the network names: "spatial" and "logits" where it has
            them. What has more than two axes is flattened.

        Raises:
            InputError: other images, a network that fails, or one that returns something else
                than finite features, one row per image.
        """
        known = (4,) if self.name in PUBLISHED else (4, 5)
        if images.dtype != torch.uint8 or images.ndim not in known or 0 in images.shape:
            raise InputError(
                f"detector {self.name!r}: expected uint8 images (B, C, H, W), "
                f"got {images.dtype} {tuple(images.shape)}; give at least one image in 0..255"
            )
        images = images if self.device is None else images.to(self.device)
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False), _float32():
            with users_code(self.name, f"failed on images {tuple(images.shape)}"):
                result = self.network(images)
            return self._checked(result, len(images))

    @torch.no_grad()
    def maps(
        self, images: UInt8[Tensor, "B C H W"], grid: tuple[int, int]
    ) -> Float[Tensor, "B h w F"]:
        """Return features that keep their places, such as the tokens of patches, in float32.

        The network gives them as `network.maps(images, grid)` where it has such a method, else as
        "maps" in what it returns, or as all that it returns: (B, F, h, w). Gradients are off;
        autocast is as it is outside.

        Args:
            images: images in 0..255.
            grid: rows and columns that are wanted; a network may give others.

        Raises:
            InputError: a network that fails, or one that returns something else.
        """
        asked = getattr(self.network, "maps", None)
        with users_code(self.name, f"failed on images {tuple(images.shape)}"):
            result = self.network(images) if asked is None else asked(images, grid)
        found = result.get("maps") if isinstance(result, Mapping) else result
        if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != len(images):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(result).__name__
            raise InputError(
                f"detector {self.name!r}: expected features that keep their places, (B, F, h, w) "
                f"for {len(images)} images, got {shape}; return them alone or as 'maps'"
            )
        return found.movedim(1, -1).float()

    def _checked(self, result: Any, batch: int) -> dict[str, Tensor]:
        outputs = {"features": result} if isinstance(result, Tensor) else result
        if not isinstance(outputs, Mapping) or "features" not in outputs:
            got = list(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__
            raise InputError(
                f"detector {self.name!r}: expected a tensor or a mapping with 'features', "
                f"got {got}; return one of them"
            )
        return {name: self._rows(name, value, batch) for name, value in outputs.items()}

    def _rows(self, name: str, value: Any, batch: int) -> Tensor:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or not value.ndim or len(value) != batch or 0 in shape:
            raise InputError(
                f"detector {self.name!r}: expected {name!r} to be a tensor with one row for each "
                f"of {batch} images, got {shape}; return (B, F)"
            )
        rows = value.reshape(batch, -1).float()
        bad = ~rows.isfinite().all(dim=1)
        if bad.any():
            raise InputError(
                f"detector {self.name!r}: expected finite {name!r}, got NaN or infinity for "
                f"image {int(bad.int().argmax())} of a batch of {batch} (from 0); "
                "look at that image and at the network's weights"
            )
        return rows


def open_detector(
    name: str,
    *,
    weights: str | None = None,
    sha256: str | None = None,
    device: torch.device,
    trusted: bool = True,
) -> Detector:
    """Return the feature network called `name`, frozen, on a device.

    - "inception": the network of FID, sFID and the Inception Score; "dinov2" and "dinov2-8bit":
      that of FD-DINOv2, with images resized without rounding and in 8 bits. Their weights are
      downloaded once, into torch.hub's folder.
    - a path ending in `.pt2`: a program of `torch.export`, exported with a dynamic batch. A file
      that holds more than plain tensors and operators is refused, so none of its content runs.
    - "package.module:function" or "path/to/file.py:function": a function without arguments that
      returns the network, a module or a function. This runs the code in that file.

    Global torch state and the global random generators are as before, whatever the user's code
    draws.

    Args:
        name: one of the above.
        weights: for the published networks, another file or another URL.
        sha256: at least 8 first hex digits of the checksum that is required.
        device: where the network runs.
        trusted: whether code of the user may be imported, see `import_place`.

    Raises:
        InputError: an unknown name, files that are absent, damaged or do not fit, a checksum that
            differs, no network to download from, or errors of the user's code.
    """
    wanted = (sha256 or "").lower()
    if sha256 is not None and not re.fullmatch("[0-9a-f]{8,64}", wanted):
        raise InputError(f"expected a SHA-256 of 8 to 64 hex digits, got {sha256!r}; correct it")
    if weights is not None and name not in PUBLISHED:
        raise InputError(
            f"expected weights with {', '.join(PUBLISHED)} only, got {name!r}; leave them out"
        )
    gpus = [device] if torch.cuda.is_available() and device.type != "cpu" else []
    with torch.random.fork_rng(devices=gpus):
        if name in PUBLISHED:
            return _open_published(name, weights, wanted, device)
        if name.endswith(".pt2"):
            return _open_program(name, wanted, device)
        if ":" in name:
            return _open_function(name, wanted, device, trusted)
    raise InputError(
        f"{unknown_name('detector', name, PUBLISHED)}; a .pt2 file of torch.export, "
        "package.module:function and path/to/file.py:function work too"
    )


def _open_published(name: str, weights: str | None, wanted: str, device: torch.device) -> Detector:
    published = PUBLISHED[name]
    origin = weights or published.url
    path, fetched = Path(origin), False
    if origin.startswith(("http://", "https://")):
        wanted = wanted or ("" if weights else published.sha256)
        # Another place may call another file the same.
        mark = f"{hashlib.sha256(origin.encode()).hexdigest()[:8]}-" if weights else ""
        path = Path(torch.hub.get_dir(), "checkpoints", mark + origin.split("?")[0].split("/")[-1])
        if fetched := not path.exists():
            _download(origin, path, wanted)
    checksum = _checksum(name, path, wanted)
    try:
        state = _read(path)
    except InputError:
        if fetched:
            path.unlink(missing_ok=True)
        raise
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced
        network = published.build(state)
    _fill(network, state, f"{path} does not fit {name}")
    network = network.to(device).eval().requires_grad_(False)
    return Detector(name, checksum, published.resize, network, device)


def _open_program(name: str, wanted: str, device: torch.device) -> Detector:
    checksum = _checksum(name, Path(name), wanted)
    program = read_program(Path(name))
    try:
        if device.type != "cpu":
            program = move_to_device_pass(program, device)
        network = program.module()
        check_calls(network)
    except Exception as error:  # torch compiles the graph here
        raise InputError(
            f"expected a program of torch.export at {name}, got one that cannot be built "
            f"({shorten(error)}); export it again with this version of torch"
        ) from error
    return Detector(name, checksum, "its own", network.requires_grad_(False), device)


def _open_function(name: str, wanted: str, device: torch.device, trusted: bool) -> Detector:
    (place, _, function), what = name.rpartition(":"), f"detector {name!r}"
    module = import_place(name, trusted=trusted)
    if not callable(create := getattr(module, function, None)):
        known = [key for key, value in vars(module).items() if callable(value)]
        near = nearest("function", function, known)
        raise InputError(f"{what}: {near}; write it as {place}:function")
    with importable(folder_of(place)), users_code(name, f"failed in {function}()"):
        network = create()
    if not callable(network):
        raise InputError(
            f"{what}: expected {function}() to return a module or a function, "
            f"got {type(network).__name__}; return what takes the images"
        )
    digest = hashlib.sha256(Path(module.__file__).read_bytes() if module.__file__ else b"")
    if isinstance(network, nn.Module):
        state = network.state_dict().items()
        digest.update(hash_tensors({k: v for k, v in state if isinstance(v, Tensor)}).encode())
        network = network.to(device).eval().requires_grad_(False)
    _require(f"the code and weights of {name}", digest.hexdigest(), wanted)
    return Detector(name, digest.hexdigest(), "its own", network, device)


def _download(url: str, path: Path, wanted: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), wanted or None, sys.stderr.isatty())
    except RuntimeError as error:
        raise InputError(
            f"expected a file with SHA-256 {wanted} at {url}, got another ({shorten(error)}), "
            "which was not kept; try again or correct the checksum"
        ) from error
    except (OSError, HTTPException, ValueError) as error:
        raise InputError(
            f"could not download {url} ({shorten(error)}); fetch it on another machine and put it "
            f"at {path}, or give the path of the weights"
        ) from error


def _checksum(name: str, path: Path, wanted: str) -> str:
    if path.exists() and not path.is_file() and not path.is_dir():  # a device may have no end
        raise InputError(f"detector {name!r}: expected a regular file, got {path}; give another")
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        near = nearest("file", path.name, (other.name for other in path.parent.glob("*.p*t*")))
        raise InputError(
            f"detector {name!r}: expected a file at {path}, found none that can be read "
            f"({error.strerror}); {near}"
        ) from error
    _require(str(path), found, wanted)
    return found


def _require(what: str, found: str, wanted: str) -> None:
    if not found.startswith(wanted):
        raise InputError(
            f"expected SHA-256 {wanted} of {what}, got {found[: max(8, len(wanted))]}; "
            "use or fetch the right file, or correct the checksum"
        )


def _read(path: Path) -> dict[str, Tensor]:
    content = read_weights(path)
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise InputError(f"{path}: expected a mapping of names to tensors; save a state dict")
    return dict(content)


def _fill(network: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    """Give a network on the meta device its weights in float32, or name all that is wrong."""
    expected = network.state_dict()
    for name in expected:
        if name.endswith(".num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.long))
    if problems := find_misfits(expected, state):
        raise InputError(f"{complaint}: {'; '.join(problems)}; use the published file")
    floats = {n: t.float() if t.is_floating_point() else t for n, t in state.items()}
    network.load_state_dict(floats, assign=True)


@contextmanager
def _float32() -> Iterator[None]:
    """Compute float32 products and convolutions in float32, whatever was allowed outside."""
    # Parents first: what inherits from them then needs no change, and inherits afterwards too.
    gpu, cpu, changed = cast(Any, cudnn), cast(Any, mkldnn), []
    for setting in (gpu, cpu, gpu_matmul, gpu.conv, cpu.matmul, cpu.conv):
        if (before := setting.fp32_precision) != "ieee":
            changed.append((setting, before))
            setting.fp32_precision = "ieee"
    try:
        yield
    finally:
        for setting, before in reversed(changed):
            setting.fp32_precision = "none"  # inherited
            if setting.fp32_precision != before:
                setting.fp32_precision = before
