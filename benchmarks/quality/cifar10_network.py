"""A small CIFAR-10 classifier whose pooled features compare sets of 32x32 images in seconds.

    python benchmarks/quality/cifar10_network.py train [--data FOLDER] [--epochs N] [--seed 0]
    python benchmarks/quality/cifar10_network.py test [--data FOLDER]
    convflow evaluate ... --detector benchmarks/quality/cifar10_network.py:load
    convflow train ... --objectives.repa.encoder benchmarks/quality/cifar10_network.py:load

For development: its Frechet distances compare with each other, never with a published FID, which
is defined by another network. It has learned the ten classes of CIFAR-10 and ignores much else.
"""

from __future__ import annotations

import argparse
import platform
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from convflow.data.loader import Images, Order
from convflow.data.sources import open_source
from convflow.types import InputError

WEIGHTS = Path(__file__).with_suffix(".safetensors")
DATA = Path(__file__).resolve().parents[3] / "shared/data/cifar10"
SIDE = 32
MEAN = (125.3, 122.9, 113.9)
"""Of the red, green and blue levels of the training images."""
STD = (62.5, 61.9, 66.5)
NUM_CLASSES = 10
WIDTHS = (32, 64, 128, 192)
"""Channels at 32x32, 16x16, 8x8 and 4x4; the last is the number of features."""
AT_8 = 8
"""Of so many layers the last is the residual block at 8x8 cells."""
EPOCHS = 16
PEAK_RATE = 0.2
DECAY = 5e-4
SMOOTHING = 0.1
PADDING = 4


class Cifar10Network(nn.Module):
    """Features and class scores of images of any size.

    A residual network (He et al., 2016) of nine convolutions: those of stride 2 lie
    between 32x32, 16x16, 8x8 and 4x4 cells, residual blocks at the last three, the mean over all
    cells, and one dense layer. The features are what the dense layer sees: at least 0.

    Images of another size than 32x32 are brought to it as float by bilinear interpolation with
    antialiasing, both sides independently, and not rounded afterwards. Levels are normalised
    inside.

    Example:
        >>> network = Cifar10Network().eval()
        >>> out = network(torch.zeros(2, 3, 48, 40, dtype=torch.uint8))
        >>> out["features"].shape, out["logits"].shape
        (torch.Size([2, 192]), torch.Size([2, 10]))
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = WIDTHS
        self.trunk = nn.Sequential(
            _layer(3, first),
            nn.ReLU(),
            _layer(first, second, stride=2),
            nn.ReLU(),
            _Residual(_layer(second, second), nn.ReLU(), _layer(second, second)),
            _layer(second, third, stride=2),
            nn.ReLU(),
            _Residual(_layer(third, third), nn.ReLU(), _layer(third, third)),
            _layer(third, last, stride=2),
            nn.ReLU(),
            _Residual(_layer(last, last)),
        )
        self.head = nn.Linear(last, NUM_CLASSES)
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def forward(self, pixels: UInt8[Tensor, "B 3 H W"]) -> dict[str, Float[Tensor, "B F"]]:
        """Look at images.

        Args:
            pixels: (B, 3, H, W) uint8, any size.

        Returns:
            `features` (B, 192) float32, at least 0, and `logits` (B, 10) float32: natural
            logarithms of the classes' probabilities up to a constant.

        Raises:
            InputError: The pixels are not uint8 or have not three channels.
        """
        features = self.trunk(self.prepare(pixels)).float().mean((2, 3))
        return {"features": features, "logits": self.head(features).float()}

    def maps(
        self, pixels: UInt8[Tensor, "B 3 H W"], grid: tuple[int, int] = (8, 8)
    ) -> Float[Tensor, "B 128 8 8"]:
        """Features of 8x8 cells, for objectives that align a network with these; at least 0.

        Args:
            pixels: as of `forward`.
            grid: wanted; the result is on that of the network all the same.
        """
        return self.trunk[:AT_8](self.prepare(pixels)).float()

    def prepare(self, pixels: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B 3 32 32"]:
        """Normalised levels of 32x32 pixels.

        Raises:
            InputError: The pixels are not uint8 or have not three channels.
        """
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise InputError(
                f"expected pixels (B, 3, H, W) uint8, got {tuple(pixels.shape)} {pixels.dtype}"
            )
        levels = pixels.float()
        if levels.shape[2:] != (SIDE, SIDE):
            levels = F.interpolate(levels, (SIDE, SIDE), mode="bilinear", antialias=True)
        return ((levels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


class _Residual(nn.Module):
    """relu(x + branch(x)), which is x >= 0 itself at first: the branch ends with a norm of 0."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        nn.init.zeros_(self.branch[-1][1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


def _layer(num_in: int, num_out: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(num_out))


def load(path: Path = WEIGHTS) -> Cifar10Network:
    """The trained network, in evaluation mode and frozen.

    Args:
        path: The weights; those beside this file if not given.
    """
    network = Cifar10Network()
    network.load_state_dict(load_file(path))
    return network.eval().requires_grad_(False)


def save(network: Cifar10Network, path: Path, notes: dict[str, str]) -> None:
    """Write the weights as float32, with notes on where they come from."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, path, metadata=notes)


def train(
    network: Cifar10Network,
    pixels: UInt8[Tensor, "N 3 H W"],
    labels: Int[Tensor, " N"],
    *,
    epochs: int,
    seed: int,
    batch_size: int = 256,
) -> list[float]:
    """Train in place: bfloat16, Nesterov momentum, one cycle of the learning rate.

    Images are mirrored at random and shifted by up to 4 pixels, the border reflected.

    Args:
        network: Freshly made.
        pixels: (N, 3, 32, 32) uint8, at least one batch.
        labels: (N,) int64 in 0..9.
        epochs: Times that every image is shown.
        seed: Of the order and the shifts; the caller seeds the first weights.
        batch_size: Images per step.

    Returns:
        The loss of every step, in nats with smoothed labels.
    """
    generator = torch.Generator().manual_seed(seed)
    order = Order(len(labels), seed, flip=True)
    num_steps = epochs * len(labels) // batch_size
    network.train().to(memory_format=torch.channels_last)
    heavy = [weight for weight in network.parameters() if weight.ndim > 1]
    light = [weight for weight in network.parameters() if weight.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": heavy, "weight_decay": DECAY}, {"params": light, "weight_decay": 0.0}],
        lr=PEAK_RATE,
        momentum=0.9,
        nesterov=True,
    )
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_RATE, num_steps, pct_start=0.2, cycle_momentum=False
    )
    losses = []
    with tqdm(total=num_steps, unit="step", mininterval=5) as bar:
        for step in range(num_steps):
            places, flips = map(torch.from_numpy, order.at(step * batch_size, batch_size))
            moved = shift(pixels[places], generator)
            moved = torch.where(flips[:, None, None, None], moved.flip(3), moved)
            with torch.autocast(pixels.device.type, torch.bfloat16):
                logits = network(moved)["logits"]
            loss = F.cross_entropy(logits, labels[places], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
            losses.append(loss.item())
            bar.update()
            bar.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}", refresh=False)
    network.eval()
    return losses


def shift(pixels: UInt8[Tensor, "B 3 H W"], generator: torch.Generator) -> UInt8[Tensor, "B 3 H W"]:
    """Move each image by -4..4 pixels both ways; what comes in is the border reflected."""
    size, height, width = len(pixels), *pixels.shape[2:]
    wide = F.pad(pixels.float(), (PADDING,) * 4, mode="reflect").to(torch.uint8)
    top, left = torch.randint(2 * PADDING + 1, (2, size, 1), generator=generator)
    rows = (top + torch.arange(height))[:, :, None]
    columns = (left + torch.arange(width))[:, None, :]
    return wide[torch.arange(size)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)


def accuracy(
    network: Cifar10Network, pixels: UInt8[Tensor, "N 3 H W"], labels: Int[Tensor, " N"]
) -> float:
    """Share of images whose highest score is the right class, computed in float32."""
    with torch.inference_mode():
        best = [network(batch)["logits"].argmax(1) for batch in pixels.split(500)]
    return (torch.cat(best) == labels).double().mean().item()


def read(folder: Path, split: str, num: int | None = None) -> tuple[Tensor, Tensor]:
    """Pixels (N, 3, 32, 32) uint8 and labels (N,) int64 of `train` or `test`.

    Args:
        folder: It holds train.parquet and test.parquet.
        split: Which of them.
        num: Only the first so many; None for all.

    Raises:
        InputError: There is no such file.
    """
    source = open_source(str(folder / f"{split}.parquet"), split=split)
    indices = np.arange(len(source))[:num]
    return Images(source, indices, channels=3, size=(SIDE, SIDE)).batch(np.arange(len(indices)))


def main() -> None:
    """Train and write the weights, or test those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=("train", "test"))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the parquet files")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    try:
        held_out = read(options.data, "test")
        if options.verb == "train":
            images = read(options.data, "train")
    except InputError as error:
        parser.exit(2, f"{error}\n")
    if options.verb == "test":
        print(f"accuracy on {len(held_out[1]):,} test images: {accuracy(load(), *held_out):.2%}")
        return
    torch.manual_seed(options.seed)
    network = Cifar10Network()
    start = time.perf_counter()
    train(network, *images, epochs=options.epochs, seed=options.seed)
    seconds = time.perf_counter() - start
    share = accuracy(network, *held_out)
    notes = {
        "test_accuracy": f"{share:.4f}",
        "epochs": str(options.epochs),
        "seed": str(options.seed),
        "seconds": f"{seconds:.0f}",
        "command": shlex.join(["python", *sys.argv]),
        "torch": torch.__version__,
        "cpu": _cpu(),
        "threads": str(torch.get_num_threads()),
    }
    save(network, WEIGHTS, notes)
    print(f"accuracy on {len(held_out[1]):,} test images: {share:.2%} after {seconds:.0f} s")


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


if __name__ == "__main__":
    main()
