"""Networks of the published sizes, eager and compiled, beside DiT of their size and their floor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, nn

from convflow.bench.agreement import require_agreement
from convflow.bench.floor import Products
from convflow.bench.harness import BenchRow, Call, seconds
from convflow.bench.utilisation import Rated, Workload, product, rate
from convflow.distributed import free_memory
from convflow.models.backbone import Backbone
from convflow.models.blocks import compile_blocks
from convflow.models.cost import measure_cost
from convflow.models.fitting import check_size
from convflow.models.half import cast_weights
from convflow.models.memory import MemoryEstimate
from convflow.models.zoo import SIZES, create_model
from convflow.nn.linear import fastest_engine, use_engine
from convflow.types import Size, check_name

Compilation = Literal["whole", "blocks"]
"""A graph of all, or one of each kind of block, which takes seconds where that takes minutes."""

BatchShape = tuple[int, ...]
"""Batch, height and width in pixels."""

USUAL_MODELS = ["flowdcn-s/2", "dico-s", "fcdm-s"]
MODEL_MODES = ["forward", "training"]
PRECISION_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Arithmetic by the name that commands take."""

MEMORY_FORMATS = [torch.contiguous_format, torch.channels_last]
EAGER, COMPILED, FLOOR, LIMIT, FLOAT32 = "eager", "compiled", "floor", "product limit", "float32"
PLAIN_LAYERS = "nn.Linear"
"""The rival as anyone would write it: its dense layers multiply by torch's own product."""

LIMIT_LINES = (FLOOR, LIMIT)
FACTOR = 8
"""Pixels along a side of a cell of the latents."""

NOISE, MANY = 0.02, 34e6
"""Deviation of the noise on weights; beyond so many, those of S, its norm over all stays the same.

FlowDCN-XL/2 with noise of 0.02 multiplies rounding errors: its gradients in bfloat16 are all error.
"""

PIECE = 8
"""Images at once for the float32 truth, which takes more memory than what is timed."""

THROUGH_NETWORK = {torch.float32: 1e-5, torch.bfloat16: 3e-2}
"""As `TOLERANCE` in `agreement.py`, of whole networks, whose errors add up over their layers.

The largest found in the S sizes on a CPU: 1.4e-6 between layouts; in bfloat16 8.3e-3 of outputs and
1.9e-2 of gradients.
"""

JUMPS = 5e-4
"""The same for gradients in float32, at least: a bilinear tap that rounding moves into the next
cell has another gradient. One FlowDCN-S/2 differs from its compiled twin by 1.1e-4, and by 7e-15
in float64.
"""

NOTE = """\
Networks of 1000 classes on 8x latents of random numbers, with random weights; the shape is batch x
height x width in pixels. "forward" is one evaluation without gradients, in bfloat16 with weights
that are cast already, as in sampling; "training" is one evaluation, its mean square, and all
gradients, without optimizer. "ratio" is the rival's time over
that of the network as it stands ("eager"), the median over rounds in which the rivals take turns:
above 1 the rival is slower. "floor" is the time of nothing but the network's matrix products,
convolutions and attentions, the same calls on random tensors of the same shapes and strides (inputs
of one shape are one tensor, so that it is a little too fast). Convolutional networks run in the
faster of two memory layouts, tried first; DiT beside them in its own.
"tflop" are the 10^12 operations that a call needs, two for each multiply-accumulate of products,
convolutions and attentions as `convflow info` counts them, three times as many in training.
"utilisation" is their rate over that of one large matrix product (2^30 multiply-accumulates by the
fastest of two shapes and two engines on a CPU; two squares of 8192 on a GPU) in the same
arithmetic, which takes turns with the others; "product limit" is the time of the
network's operations at that rate. Products in float32 are without TF32 unless torch was told so."""

Module = TypeVar("Module", bound=nn.Module)


class Setting(NamedTuple):
    """Where networks run and in which arithmetic; compiled twins and rivals that are wanted too.

    `float32_rival` puts DiT eager in float32 beside, as papers measured it.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32
    compiles: Compilation | None = None
    float32_rival: bool = False

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the context in which networks run: autocast where the dtype is not float32."""
        half = self.dtype != torch.float32
        return torch.autocast(self.device.type, self.dtype, enabled=half)


class PreparedModel(NamedTuple):
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
    rival = f"dit-{name.partition('-')[2].partition('/')[0]}/2"
    return rival if rival in SIZES and rival != name else None


def check_work(names: Sequence[str], shape: BatchShape, mode: str, setting: Setting) -> None:
    """Raise InputError for an unknown name, a size that does not fit it, or lack of memory."""
    batch, height, width = shape
    for name in names:
        check_name("model", name, SIZES)
    for name in names:
        build, half = partial(create_model, name), setting.dtype != torch.float32
        with torch.device("meta"):
            check_size((height, width), FACTOR * build().multiple)
        training = mode != MODEL_MODES[0]
        estimate = MemoryEstimate(build, (height, width), batch, FACTOR, half, training)
        estimate.check(free_memory(setting.device), "batch-size")


def perturb(model: Module, scale: float = 0.1) -> Module:
    """Add normal noise to every parameter, so that gates and heads of zeros speak."""
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, device=device)
            parameter.add_(scale * noise)
    return model


def prepare_model(
    name: str, shape: BatchShape, modes: Sequence[str], setting: Setting
) -> PreparedModel:
    """Return a network with random weights in its best layout, checked at one shape.

    Every layout and the compiled twin must give what the network gives in float32 as it was
    built: outputs, and where `modes` have "training" gradients too.

    Raises:
        Disagreement: one of them does not.
    """
    model = create_noisy(name, setting.device)
    plain = Setting(setting.device)
    truths = {mode: _answers(model, shape, mode, plain, piece=PIECE) for mode in modes}

    def check(twin: nn.Module, layout: torch.memory_format, what: str) -> None:
        for mode, truth in truths.items():
            found = _answers(twin, shape, mode, setting, layout)
            text = f"{name} and itself {what}, {mode}"
            allowed = THROUGH_NETWORK[setting.dtype]
            allowed = max(allowed, JUMPS) if mode == "training" else allowed
            require_agreement(text, found, truth, allowed)

    convolves = any(isinstance(module, nn.Conv2d) for module in _inner(model))
    times = {}
    for layout in MEMORY_FORMATS if convolves else MEMORY_FORMATS[:1]:
        model.to(memory_format=layout)  # type: ignore[call-overload]
        check(model, layout, f"in {layout}")
        run = call(model, layout, shape, modes[0], setting)
        times[layout] = min(seconds(run, setting.device) for _ in range(2))
    best = min(times, key=times.__getitem__)
    model.to(memory_format=best)  # type: ignore[call-overload]
    if setting.compiles is None:
        return PreparedModel(name, best, model, "none were asked for")
    try:
        compiled = _compile(model, setting.compiles)
        for mode in modes:
            call(compiled, best, shape, mode, setting)()
    except Exception as error:  # whatever the compiler lacks, the eager numbers remain
        return PreparedModel(
            name, best, model, f"{type(error).__name__}: {str(error).strip()[:200]}"
        )
    check(compiled, best, "compiled")
    return PreparedModel(name, best, model, compiled)


def create_noisy(name: str, device: torch.device | str = "cpu", **settings: Any) -> Backbone:
    """Return what `create_seeded` does, with noise on all weights that fits their number."""
    model = create_seeded(name, device, **settings)
    count = sum(p.numel() for p in model.parameters())
    return perturb(model, NOISE * min(1.0, MANY / count) ** 0.5)


def create_seeded(name: str, device: torch.device | str = "cpu", **settings: Any) -> Backbone:
    """Return a new network, the same every time on a device, leaving global generators alone."""
    device = torch.device(device)
    forked = [device] if device.type != "cpu" and torch.cuda.is_available() else []
    with torch.random.fork_rng(forked), device:
        torch.manual_seed(0)
        return create_model(name, **settings).to(device)


def random_batch(shape: BatchShape, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return latents, times and labels for a batch, height and width in pixels."""
    number, height, width = shape
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(number, 4, height // FACTOR, width // FACTOR, generator=generator)
    t = torch.rand(number, generator=generator)
    y = torch.randint(1000, (number,), generator=generator)
    return x.to(device), t.to(device), y.to(device)


def call(
    model: nn.Module, layout: torch.memory_format, shape: BatchShape, mode: str, setting: Setting
) -> Call:
    """Return one forward pass, or one with all gradients, to be called again and again.

    As sampling does, a forward pass in bfloat16 has its weights cast before it, if not compiled.
    """
    if mode == MODEL_MODES[0] and setting.dtype == torch.bfloat16 and isinstance(model, Backbone):
        plain = not any(part._compiled_call_impl for part in model.modules())
        model = cast_weights(model) if plain else model
    x, t, y = random_batch(shape, setting.device)
    x = x.contiguous(memory_format=layout)

    def forward() -> None:
        with torch.no_grad(), setting.arithmetic():
            model(x, t, y)

    def training() -> None:
        with setting.arithmetic():
            loss = model(x, t, y).float().square().mean()
        loss.backward()
        model.zero_grad(set_to_none=True)

    return forward if mode == MODEL_MODES[0] else training


def set_up(
    find: Callable[[str], PreparedModel], setting: Setting, name: str, shape: BatchShape, mode: str
) -> Mapping[str, Call]:
    """Return calls of the network eager and compiled, its floor and limit, and DiT of its size.

    Those of limits are one product each, which `rate_rows` turns into times.

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
    calls[LIMIT] = product(setting.device, setting.dtype)
    if (rival := rival_of(name)) is not None:
        theirs = find(rival)
        calls[rival] = call(theirs.model, theirs.layout, shape, mode, setting)
        if isinstance(theirs.compiled, nn.Module):
            compiled = call(theirs.compiled, theirs.layout, shape, mode, setting)
            calls[f"{rival} {COMPILED}"] = compiled
        if setting.dtype == torch.float32 and fastest_engine()[0] != "blas":
            plain = _plain(theirs.model)
            calls[f"{rival} {PLAIN_LAYERS}"] = call(plain, theirs.layout, shape, mode, setting)
        if setting.float32_rival and mode == MODEL_MODES[0]:
            full = Setting(setting.device)
            alone = f"{rival} {FLOAT32}"
            calls[alone] = call(theirs.model, theirs.layout, shape, mode, full)
            calls[f"{alone} {LIMIT}"] = product(setting.device, torch.float32)
    return calls


def rate_rows(name: str, rows: Sequence[BenchRow], device: torch.device) -> list[Rated]:
    """Return rows with operations and utilisation, limits as times of the network's operations."""
    rival, (batch, height, width) = rival_of(name), map(int, rows[0].shape.split("x"))
    passes = 1 if rows[0].mode == MODEL_MODES[0] else 3

    def workload(line: str) -> Workload:
        whose = rival if rival is not None and line.startswith(rival) else name
        macs = 1e9 * _gmacs(create_model, whose, (height, width)) * batch * passes
        return Workload(2 * macs, f"{rival} {FLOAT32} {LIMIT}" if FLOAT32 in line else LIMIT)

    return rate(rows, {row.rival: workload(row.rival) for row in rows}, device)


@cache
def _gmacs(create: Callable[[str], Backbone], name: str, size: Size) -> float:
    return measure_cost(partial(create, name), size, factor=FACTOR).gmacs


def _compile(model: nn.Module, how: Compilation) -> nn.Module:
    """Return a compiled network that shares the weights of one that stays as it is."""
    if how == "whole":
        return cast(nn.Module, torch.compile(model, dynamic=False))
    twin = _twin(model)
    compile_blocks(twin)
    return twin


def _plain(model: nn.Module) -> nn.Module:
    """Return a twin whose dense layers are what `nn.Linear` computes."""
    twin = _twin(model)
    use_engine(twin, "blas")
    return twin


def _twin(model: nn.Module) -> Any:
    """Return a copy that shares all weights."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, shared)


def _answers(
    model: nn.Module,
    shape: BatchShape,
    mode: str,
    setting: Setting,
    layout: torch.memory_format = MEMORY_FORMATS[0],
    piece: int | None = None,
) -> list[Tensor]:
    """Return the output, or the gradients of its mean square, in float32; `piece` by piece."""
    pieces = [
        (x.contiguous(memory_format=layout), t, y)
        for x, t, y in zip(
            *(t.split(piece or len(t)) for t in random_batch(shape, setting.device)), strict=True
        )
    ]
    if mode == MODEL_MODES[0]:
        with torch.no_grad(), setting.arithmetic():
            return [torch.cat([model(*part).float() for part in pieces])]
    for part in pieces:
        with setting.arithmetic():
            loss = model(*part).float().square().mean() * (len(part[0]) / shape[0])
        loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    return gradients


def _inner(model: nn.Module) -> list[nn.Module]:
    """Return the modules of a network, but for the cutting into patches."""
    return [module for name, module in model.named_modules() if not name.startswith("embed")]
