"""Every model, process, solver and codec there is, small enough to test: the contracts' lists."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import safe_open
from torch import Tensor

from convflow.bench.models import perturb
from convflow.codecs import PixelCodec
from convflow.conditions.text import Text
from convflow.models.backbone import Backbone
from convflow.models.families import BACKBONES
from convflow.models.zoo import create_model
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.multiscale import MultiscaleFlow
from convflow.processes.prediction import Kind
from convflow.processes.process import Process
from convflow.processes.schedule import SCHEDULES
from convflow.samplers.ode import SCHEMES

NUM_CLASSES = 5
TINY = {"in_channels": 3, "num_classes": NUM_CLASSES, "width": 16, "depth": 2, "num_groups": 2}
TINY_DICO = {"in_channels": 3, "num_classes": NUM_CLASSES, "width": 8, "depths": [1, 2, 1, 1, 1]}
TINY_DIT = {"in_channels": 3, "num_classes": NUM_CLASSES, "width": 16, "depth": 2, "num_heads": 2}
TOLD_FEATURES = {
    "num_classes": 0, "text_width": 12, "pooled_width": 10, "text_length": 4, "cross_attention": 1
}  # fmt: skip
TOLD_WORDS = {
    "num_classes": 0, "text_width": 12, "text_length": 4, "text_rows": 20, "text_depth": 1,
    "cross_attention": 1,
}  # fmt: skip
"""Settings of networks that are told texts: by a frozen encoder, or by words."""

MODELS: dict[str, tuple[str, dict[str, object]]] = {
    "flowdcn": ("flowdcn", TINY),
    "flowdcn-layernorm": ("flowdcn", TINY | {"norm": "layer"}),
    "flowdcn-gelu": ("flowdcn", TINY | {"mlp": "gelu"}),
    "flowdcn-truncate": ("flowdcn", TINY | {"border": "truncate"}),
    "flowdcn-discard-half": ("flowdcn", TINY | {"discard_half": True}),
    "flowdcn-patch-1": ("flowdcn", TINY | {"patch_size": 1, "in_channels": 1}),
    "flowdcn-patch-3": ("flowdcn", TINY | {"patch_size": 3, "num_groups": 4, "reach": 2.5}),
    "flowdcn-learned-variance": ("flowdcn", TINY | {"learned_variance": True}),
    "flowdcn-no-classes": ("flowdcn", TINY | {"num_classes": 0}),
    "flowdcn-dico": ("flowdcn", TINY | {"mix": "dico", "kernel_size": 5}),
    "dico": ("dico", TINY_DICO),
    "dico-learned-variance": ("dico", TINY_DICO | {"learned_variance": True, "num_classes": 0}),
    "dico-se": ("dico", TINY_DICO | {"attention": "se", "kernel_size": 5}),
    "dico-no-attention": ("dico", TINY_DICO | {"attention": "none", "kernel_size": 7}),
    "dico-relu": ("dico", TINY_DICO | {"activation": "relu", "mlp_ratio": 2.5}),
    "dico-isotropic": ("dico", TINY_DICO | {"layout": "isotropic", "depths": [2]}),
    "dico-isotropic-skip": ("dico", TINY_DICO | {"layout": "isotropic-skip", "depths": [5]}),
    "dico-pad": ("dico", TINY_DICO | {"pad": True, "in_channels": 1}),
    "fcdm": ("fcdm", TINY_DICO),
    "fcdm-learned-variance": ("fcdm", TINY_DICO | {"learned_variance": True}),
    "fcdm-pad": ("fcdm", TINY_DICO | {"pad": True}),
    "dit": ("dit", TINY_DIT),
    "dit-learned-variance": ("dit", TINY_DIT | {"learned_variance": True}),
    "dit-patch-4": ("dit", TINY_DIT | {"patch_size": 4, "mlp_ratio": 2.5}),
    "sit": ("sit", TINY_DIT),
    "sit-rotary": ("sit", TINY_DIT | {"positions": "rotary"}),
    "sit-qk-norm": ("sit", TINY_DIT | {"qk_norm": True}),
    "sit-discard-half": ("sit", TINY_DIT | {"discard_half": True}),
}
OF_TEXT: dict[str, tuple[str, dict[str, object]]] = {
    "sit-words": ("sit", TINY_DIT | TOLD_WORDS),
    "dico-features": ("dico", TINY_DICO | TOLD_FEATURES),
}
"""Networks that are told texts in place of labels."""
VIDEOS: dict[str, tuple[str, dict[str, object]]] = {
    "flowdcn-video": ("flowdcn", TINY | {"temporal": "conv"}),
    "flowdcn-dico-video": ("flowdcn", TINY | {"mix": "dico", "temporal": "conv"}),
    "dico-video": ("dico", TINY_DICO | {"temporal": "conv"}),
    "fcdm-pad-video": ("fcdm", TINY_DICO | {"pad": True, "temporal": "conv"}),
    "sit-factorised": ("sit", TINY_DIT | {"temporal": "factorised"}),
    "sit-rotary-factorised": ("sit", TINY_DIT | {"positions": "rotary", "temporal": "factorised"}),
    "sit-full": ("sit", TINY_DIT | {"positions": "rotary", "temporal": "full"}),
    "dit-video": ("dit", TINY_DIT | {"temporal": "factorised", "learned_variance": True}),
}
"""Networks of videos, which the tests of networks on pictures leave out."""
FRAMES = 3

PROCESSES: dict[str, Process] = {
    "flow": FlowMatching(),
    "flow-logit-normal": FlowMatching(times="logit-normal", location=-0.5, scale=1.5),
    "flow-shifted": FlowMatching(shift=3.0),
    **{
        f"flow-{schedule}-{prediction}": FlowMatching(schedule=schedule, prediction=prediction)
        for schedule in SCHEDULES
        for prediction in get_args(Kind)
    },
    "ddpm": DDPM(),
    "ddpm-small": DDPM("small"),
    "ddpm-large": DDPM("large"),
}
MULTISCALE: dict[str, MultiscaleFlow] = {
    "dfm": MultiscaleFlow(),
    "dfm-haar": MultiscaleFlow((2, 2), "haar"),
    "dfm-dct": MultiscaleFlow((2,), "dct", probabilities=(0.5, 0.5), weights=(1.0, 2.0)),
    "dfm-standardized": MultiscaleFlow((2,), deviations=(0.5, 0.1)),
}
"""Processes with a time for each scale, whose networks are no Denoisers."""

VIDEO_SCALES: dict[str, MultiscaleFlow] = {
    "dfm-space": MultiscaleFlow(),
    "dfm-time": MultiscaleFlow(axes=("time",)),
    "dfm-both": MultiscaleFlow((2,), "haar", axes=("both",), deviations=(0.5, 0.1)),
    "dfm-time-space": MultiscaleFlow((2, 2), axes=("time", "space")),
    "dfm-dct-both": MultiscaleFlow((4,), "dct", axes=("both",)),
}
"""Likewise of videos, in space, in time and in both."""

CODECS = {"pixel": PixelCodec()}

GOLDENS = Path(__file__).parent / "goldens"

assert {family for family, _ in MODELS.values()} == set(BACKBONES), "a family without a case"
SOLVER_NAMES = list(SCHEMES)


def build(case: str, *, perturbed: bool = True) -> Backbone:
    """The model of a case; `perturbed` makes every zero-initialised parameter speak."""
    family, settings = (MODELS | OF_TEXT | VIDEOS)[case]
    model = create_model(family, **settings).eval()
    return perturb(model) if perturbed else model


def build_pyramid(
    factors: Sequence[int] = (2,), channels: int = 3, axes: Sequence[str] = (), video: bool = False
) -> Any:
    """A tiny network of scales, of pictures or of videos, every parameter of which speaks."""
    backbone = {
        "family": "flowdcn", "in_channels": channels, "num_classes": 5, "width": 16, "depth": 1,
        "num_groups": 2, "temporal": "conv" if video else "none",
    }  # fmt: skip
    torch.manual_seed(7)
    more = {"backbone": backbone, "factors": list(factors), "axes": list(axes)}
    return perturb(create_model("pyramid", **more).eval())


def inputs(model: Backbone, batch: int = 3, size: tuple[int, int] = (4, 6)) -> tuple[Tensor, ...]:
    """Images or videos of `size` patches, times and labels for a model, "no label" among them."""
    generator = torch.Generator().manual_seed(batch)
    height, width = (side * model.multiple for side in size)
    frames = (FRAMES,) * model.video
    x = torch.randn(batch, model.in_channels, *frames, height, width, generator=generator)
    y = asked(model, batch, generator)
    return x, torch.rand(batch, generator=generator), y


def asked(model: Backbone, batch: int, generator: torch.Generator) -> Any:
    """Labels for a model, "no label" among them, or texts of several lengths."""
    if not model.takes_text:
        return (torch.arange(batch) + model.num_classes) % (model.num_classes + 1)
    blank = model.blank_conditions(batch)
    length = getattr(blank, "tokens", blank).shape[1]
    mask = torch.arange(length) <= torch.arange(batch)[:, None] % length
    if isinstance(blank, Tensor):
        return torch.randint(2, 20, blank.shape, generator=generator) * mask
    tokens, pooled = (torch.randn(b.shape, generator=generator) for b in (blank[0], blank[2]))
    return Text(tokens, mask, pooled)


def exact(field: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """A Denoiser of a field that looks at (x, t) alone; counts its calls in `.calls`."""

    def model(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        model.calls += 1  # type: ignore[attr-defined]
        return field(x, t.view(-1, 1, 1, 1))

    model.calls = 0  # type: ignore[attr-defined]
    return model


def read_golden(name: str) -> tuple[dict[str, Tensor], dict[str, Any], list[Tensor], Tensor]:
    """The weights, settings, inputs (x, t, y) and output of a released network."""
    with safe_open(GOLDENS / f"{name}.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        config = json.loads(file.metadata()["config"])
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    out = next(
        tensors[name] for name in ("out.velocity", "out.out", "out.eps_sigma") if name in tensors
    )
    return weights, config, [tensors[f"in.{n}"] for n in "xty"], out
