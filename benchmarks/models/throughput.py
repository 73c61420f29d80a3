"""How fast the networks are, beside DiT of the same size and beside their own matrix products.

Run it as `python benchmarks/models/throughput.py` from the repository; `--quick` to see it work.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import harness
from convflow.models.zoo import SIZES, create_model
from tests.cases import perturb
from tests.tolerance import GOLDEN, assert_close_rms

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MODES = ["forward", "training"]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
NAMES = [name for name in SIZES if re.search(r"-[sb](/2)?$", name)]
EAGER, COMPILED, FLOOR = "eager", "compiled", "floor"
NOTE = """\
Networks of 1000 classes on 8x latents of random numbers, float32; the shape is batch x height x
width in pixels. "forward" is one evaluation without gradients; "training" is one evaluation, its
mean square, and all gradients, without optimizer. "ratio" is the rival's time over that of the
network as it stands ("eager"), the median over rounds in which the rivals take turns: above 1 the
rival is slower. "floor" is the time of nothing but the network's matrix products, convolutions and
attentions, the same calls on random tensors of the same shapes and strides (inputs of one shape
are one tensor, so that it is a little too fast). Convolutional networks run in the faster of two
memory layouts, tried first; DiT beside them in its own."""


class Spec(NamedTuple):
    """A tensor without its numbers."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


class Products(TorchDispatchMode):
    """Writes down every matrix product, convolution and attention that is called."""

    KINDS = re.compile(
        r"aten::(mm|addmm|bmm|baddbmm|convolution|_scaled_dot_product.*?)(_backward)?"
    )

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., object], Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.KINDS.fullmatch(func._schema.name):
            self.calls.append((func, *tree_map_only(Tensor, _spec, (args, kwargs))))
        return func(*args, **kwargs)

    def replay(self) -> harness.Call:
        """A call that repeats them all on random numbers."""
        draw = cache(_draw)
        calls = [
            (f, *tree_map_only(Spec, draw, (a, k), is_leaf=_is_spec)) for f, a, k in self.calls
        ]

        def floor() -> None:
            with torch.no_grad():
                for function, args, kwargs in calls:
                    function(*args, **kwargs)

        return floor


def _spec(tensor: Tensor) -> Spec:
    return Spec(tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device)


def _is_spec(tree: object) -> bool:
    return isinstance(tree, Spec)


def _draw(spec: Spec) -> Tensor:
    tensor = torch.empty_strided(*spec[:2], dtype=spec.dtype, device=spec.device)
    return tensor.normal_() if tensor.is_floating_point() else tensor.zero_()


class Subject(NamedTuple):
    """A network in its best layout, and its compiled twin or why there is none."""

    name: str
    layout: torch.memory_format
    model: nn.Module
    compiled: nn.Module | str


@cache
def subject(name: str, compiles: bool, shape: tuple[int, ...], modes: tuple[str, ...]) -> Subject:
    """A network with random weights, checked at one shape: its layouts and its twin agree."""
    torch.manual_seed(0)
    model = perturb(create_model(name), 0.02).to(DEVICE)
    convolves = any(isinstance(module, nn.Conv2d) for module in _inner(model))
    layouts = LAYOUTS if convolves else LAYOUTS[:1]
    x, t, y = batch(shape)
    times, outs = {}, []
    for layout in layouts:
        model.to(memory_format=layout)
        placed = x.contiguous(memory_format=layout)
        with torch.no_grad():
            outs.append(model(placed, t, y))
            start = time.perf_counter()
            for _ in range(2):
                model(placed, t, y).sum().item()
        times[layout] = time.perf_counter() - start
        assert_close_rms(outs[-1], outs[0], limit=GOLDEN)
    best = min(layouts, key=times.__getitem__)
    model.to(memory_format=best)
    if not compiles:
        return Subject(name, best, model, "none were asked for")
    compiled = torch.compile(model, dynamic=False)
    try:
        with torch.no_grad():
            out = compiled(x.contiguous(memory_format=best), t, y)
        for mode in modes:
            call(compiled, best, shape, mode)()
    except Exception as error:  # whatever the compiler lacks, the eager numbers remain
        return Subject(name, best, model, f"{type(error).__name__}: {str(error).strip()[:200]}")
    assert_close_rms(out, outs[0], limit=GOLDEN)
    return Subject(name, best, model, compiled)


def _inner(model: nn.Module) -> list[nn.Module]:
    """Modules of the network, but for the cutting into patches."""
    return [module for name, module in model.named_modules() if not name.startswith("embed")]


def batch(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Latents, times and labels for a batch, height and width in pixels."""
    number, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, 4, height // 8, width // 8, generator=generator)
    t = torch.rand(number, generator=generator)
    y = torch.randint(1000, (number,), generator=generator)
    return x.to(DEVICE), t.to(DEVICE), y.to(DEVICE)


def call(model: nn.Module, layout: torch.memory_format, shape: tuple[int, ...], mode: str) -> Any:
    """One forward pass, or one with all gradients, ready to be called again and again."""
    x, t, y = batch(shape)
    x = x.contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad():
            model(x, t, y)

    def training() -> None:
        model(x, t, y).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return forward if mode == "forward" else training


def set_up(
    find: Callable[[str], Subject], name: str, shape: tuple[int, ...], mode: str
) -> Mapping[str, harness.Call]:
    """The network eager and compiled, its floor, and DiT of its size."""
    ours = find(name)
    eager = call(ours.model, ours.layout, shape, mode)
    with Products() as products:
        eager()
    calls = {EAGER: eager}
    if isinstance(ours.compiled, nn.Module):
        calls[COMPILED] = call(ours.compiled, ours.layout, shape, mode)
    calls[FLOOR] = products.replay()
    if name != (rival := rival_of(name)):
        theirs = find(rival)
        calls[rival] = call(theirs.model, theirs.layout, shape, mode)
        if isinstance(theirs.compiled, nn.Module):
            calls[f"{rival} {COMPILED}"] = call(theirs.compiled, theirs.layout, shape, mode)
    return calls


def rival_of(name: str) -> str:
    """The DiT of the same size: "dico-b" -> "dit-b/2"."""
    return f"dit-{name.split('-')[1].partition('/')[0]}/2"


def show(rows: Sequence[harness.Row]) -> None:
    """Print one line for each rival, with pictures a second, and a summary for each network."""
    print(f"{'case':25} {'shape':12}{'mode':10}{'rival':18}{'median':>11}{'img/s':>9}{'ratio':>7}")
    for row in rows:
        speed = int(row.shape.partition("x")[0]) / row.median_ms * 1e3
        print(
            f"{row.case:25} {row.shape:12}{row.mode:10}{row.rival:18}{row.median_ms:8.1f} ms"
            f"{speed:9.2f}{row.ratio:7.2f}"
        )
    for row in rows:
        if row.rival == FLOOR:
            print(f"{row.case}, {row.shape}, {row.mode}: {1 / row.ratio:.2f} times its floor")


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    add("--sizes", nargs="+", type=int, default=[256, 512], metavar="PIXELS")
    add("--batch", type=int, default=8, help="pictures at once")
    add("--modes", nargs="+", choices=MODES, default=MODES)
    add("--rounds", type=int, default=7, help="how often every rival has its turn")
    add("--no-compile", action="store_true", help="leave out torch.compile")
    add("--table", default=f"throughput_{DEVICE.type}", metavar="NAME", help="in results/")
    add("--quick", action="store_true", help="one picture of 256 pixels, two rounds, no table")
    add(harness.DIRTY, action="store_true", help="allow numbers that no revision can repeat")
    options = parser.parse_args()
    shapes = [(options.batch, side, side) for side in options.sizes]
    rounds, compiles = options.rounds, not options.no_compile
    if options.quick:
        shapes, rounds = [(1, 256, 256)], 2

    harness.machine()  # refuses now rather than after minutes
    print(NOTE, "\n")
    find = partial(subject, compiles=compiles, shape=shapes[0], modes=tuple(options.modes))
    rows = []
    for name in options.models:
        try:
            found = find(name)
        except AssertionError as error:
            raise SystemExit(f"{name}: the variants disagree, nothing to time: {error}") from error
        if isinstance(found.compiled, str):
            print(f"{name}: no compiled numbers, {found.compiled}")
        layout = str(found.layout).removeprefix("torch.").removesuffix("_format")
        title = f"{name} {layout}"
        case = harness.Case(title, partial(set_up, find, name), shapes, options.modes)
        rows += harness.measure(case, rounds)
    show(rows)
    if not options.quick:
        path = harness.RESULTS / f"{options.table}.csv"
        harness.write(path, rows)
        print(f"\n{harness.machine()}\nwritten to {path}")


if __name__ == "__main__":
    main()
