"""Networks of the published sizes, eager and compiled, beside DiT of their size and their floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from convflow.bench import table
from convflow.bench.agreement import require_agreement
from convflow.bench.floor import Products
from convflow.bench.harness import Call, Row, seconds
from convflow.distributed import free_memory
from convflow.models.backbone import Backbone, check_size
from convflow.models.zoo import SIZES, create_model
from convflow.training.planner import Work, check_memory
from convflow.types import InputError, unknown_name

Shape = tuple[int, ...]
"""Batch, height and width in pixels."""

USUAL = ["flowdcn-s/2", "dico-s", "fcdm-s"]
MODES = ["forward", "training"]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
EAGER, COMPILED, FLOOR = "eager", "compiled", "floor"
FACTOR = 8
"""Pixels along a side of a cell of the latents."""

THROUGH_NETWORK = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""As `TOLERANCE` in `agreement.py`, of whole networks, whose errors add up over their layers.

The largest found in the S sizes on a CPU: 1.4e-6 between layouts; in bfloat16 8.3e-3 of outputs and
1.9e-2 of gradients.
"""

NOTE = """\
Networks of 1000 classes on 8x latents of random numbers, with random weights; the shape is batch x
height x width in pixels. "forward" is one evaluation without gradients; "training" is one
evaluation, its mean square, and all gradients, without optimizer. "ratio" is the rival's time over
that of the network as it stands ("eager"), the median over rounds in which the rivals take turns:
above 1 the rival is slower. "floor" is the time of nothing but the network's matrix products,
convolutions and attentions, the same calls on random tensors of the same shapes and strides (inputs
of one shape are one tensor, so that it is a little too fast). Convolutional networks run in the
faster of two memory layouts, tried first; DiT beside them in its own."""

Module = TypeVar("Module", bound=nn.Module)


class Setting(NamedTuple):
    """Where networks run, in which arithmetic, and whether compiled twins are wanted."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    compiles: bool = False

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the context in which networks run: autocast where the dtype is not float32."""
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=half)


class Subject(NamedTuple):
    """A network in its best layout, and its compiled twin or why there is none."""

    name: str
    layout: torch.memory_format
    model: nn.Module
    compiled: nn.Module | str

    @property
    def title(self) -> str:
        """The name and the layout."""
        return f"{self.name} {str(self.layout).removeprefix('torch.').removesuffix('_format')}"


def rival_of(name: str) -> str | None:
    """Return the DiT of the same size, "dico-b" -> "dit-b/2"; None where there is none."""
    rival = f"dit-{name.split('-')[1].partition('/')[0]}/2"
    return rival if rival in SIZES and rival != name else None


def check_work(names: Sequence[str], shape: Shape, mode: str, setting: Setting) -> None:
    """Raise InputError for an unknown name, a size that does not fit it, or lack of memory."""
    batch, height, width = shape
    for name in names:
        if name not in SIZES:
            raise InputError(unknown_name("model", name, SIZES))
    for name in names:
        build, half = partial(create_model, name), setting.dtype != torch.float32
        with torch.device("meta"):
            check_size(height, width, FACTOR * build().multiple)
        work = Work(build, (height, width), batch, FACTOR, half)
        free = free_memory(setting.device)
        check_memory(work, free, "batch-size", training=mode != MODES[0])


def perturb(model: Module, scale: float = 0.1) -> Module:
    """Add normal noise to every parameter, so that gates and heads of zeros speak."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
    return model


def prepare(name: str, shape: Shape, modes: Sequence[str], setting: Setting) -> Subject:
    """Return a network with random weights in its best layout, checked at one shape.

    Every layout and the compiled twin must give what the network gives in float32 as it was
    built: outputs, and where `modes` have "training" gradients too.

    Raises:
        Disagreement: one of them does not.
    """
    model = perturb(create_seeded(name), 0.02).to(setting.device)
    truths = {mode: _answers(model, shape, mode, Setting(setting.device)) for mode in modes}

    def check(twin: nn.Module, layout: torch.memory_format, what: str) -> None:
        for mode, truth in truths.items():
            found = _answers(twin, shape, mode, setting, layout)
            text = f"{name} and itself {what}, {mode}"
            require_agreement(text, found, truth, THROUGH_NETWORK[setting.dtype])

    convolves = any(isinstance(module, nn.Conv2d) for module in _inner(model))
    times = {}
    for layout in LAYOUTS if convolves else LAYOUTS[:1]:
        model.to(memory_format=layout)  # type: ignore[call-overload]
        check(model, layout, f"in {layout}")
        run = call(model, layout, shape, modes[0], setting)
        times[layout] = min(seconds(run, setting.device) for _ in range(2))
    best = min(times, key=times.__getitem__)
    model.to(memory_format=best)  # type: ignore[call-overload]
    if not setting.compiles:
        return Subject(name, best, model, "none were asked for")
    compiled = cast(nn.Module, torch.compile(model, dynamic=False))
    try:
        for mode in modes:
            call(compiled, best, shape, mode, setting)()
    except Exception as error:  # whatever the compiler lacks, the eager numbers remain
        return Subject(name, best, model, f"{type(error).__name__}: {str(error).strip()[:200]}")
    check(compiled, best, "compiled")
    return Subject(name, best, model, compiled)


def create_seeded(name: str, **settings: Any) -> Backbone:
    """Return a new network, the same every time, without touching the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return create_model(name, **settings)


def batch_of(shape: Shape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, times and labels for a batch, height and width in pixels."""
    number, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, 4, height // FACTOR, width // FACTOR, generator=generator)
    t = torch.rand(number, generator=generator)
    y = torch.randint(1000, (number,), generator=generator)
    return x.to(device), t.to(device), y.to(device)


def call(
    model: nn.Module, layout: torch.memory_format, shape: Shape, mode: str, setting: Setting
) -> Call:
    """Return one forward pass, or one with all gradients, to be called again and again."""
    x, t, y = batch_of(shape, setting.device)
    x = x.contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad(), setting.arithmetic():
            model(x, t, y)

    def training() -> None:
        with setting.arithmetic():
            loss = model(x, t, y).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return forward if mode == MODES[0] else training


def set_up(
    find: Callable[[str], Subject], setting: Setting, name: str, shape: Shape, mode: str
) -> Mapping[str, Call]:
    """Return calls of the network eager and compiled, its floor, and DiT of its size.

    Args:
        find: from a name to the network, prepared.
        setting: that they were prepared in.
        name: a published size.
        shape: batch, height and width in pixels.
        mode: "forward" or "training".
    """
    ours = find(name)
    eager = call(ours.model, ours.layout, shape, mode, setting)
    with Products() as products:
        eager()
    calls = {EAGER: eager}
    if isinstance(ours.compiled, nn.Module):
        calls[COMPILED] = call(ours.compiled, ours.layout, shape, mode, setting)
    calls[FLOOR] = products.replay()
    if (rival := rival_of(name)) is not None:
        theirs = find(rival)
        calls[rival] = call(theirs.model, theirs.layout, shape, mode, setting)
        if isinstance(theirs.compiled, nn.Module):
            compiled = call(theirs.compiled, theirs.layout, shape, mode, setting)
            calls[f"{rival} {COMPILED}"] = compiled
    return calls


def cells(row: Row) -> table.Cells:
    """Return a row as text, with the pictures a second."""
    number = int(row.shape.partition("x")[0])
    return table.cells(vars(row) | {"images_per_s": 1e3 * number / row.median_ms})


def _answers(
    model: nn.Module,
    shape: Shape,
    mode: str,
    setting: Setting,
    layout: torch.memory_format = LAYOUTS[0],
) -> list[Tensor]:
    """Return the output, or the gradients of its mean square, in float32."""
    x, t, y = batch_of(shape, setting.device)
    x = x.contiguous(memory_format=layout)
    if mode == MODES[0]:
        with torch.no_grad(), setting.arithmetic():
            return [model(x, t, y).float()]
    with setting.arithmetic():
        loss = model(x, t, y).float().square().mean()
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return gradients


def _inner(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a network, but for the cutting into patches."""
    return [module for name, module in model.named_modules() if not name.startswith("embed")]
