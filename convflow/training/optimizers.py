"""Optimizers by name: AdamW (Loshchilov & Hutter 2019), Muon (Jordan et al. 2024), a user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn

from convflow.models.backbone import Backbone
from convflow.models.depth import blocks_above
from convflow.settings.fields import Count, Momentum, Natural, NotNegative, Positive, Share, doc
from convflow.settings.kinds import Part, Table
from convflow.settings.patterns import chosen_names, fits_any
from convflow.types import InputError

KEPT_BY_ADAMW = ("step", "exp_avg", "exp_avg_sq")
KEPT_BY_MUON = ("momentum_buffer",)
"""What torch's optimizers keep of a parameter: `step` is one number, all else has its shape."""


class Optimizer(Part):
    """The settings of an optimizer, which make one of torch's; subclasses are of `OptimConfig`."""

    lr: float
    warmup_images: int
    schedule: str
    decay_images: int
    clip: float | None

    def create(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of all parameters of `model` that are trained.

        Args:
            model: network and objectives as one module.
        """
        raise NotImplementedError

    def numbers_kept(self, model: nn.Module) -> int:
        """Return how many numbers the optimizer keeps beside the parameters: usually two each."""
        return 2 * sum(p.numel() for p in trained_parameters(model).values())


@dataclass(frozen=True)
class OptimConfig(Optimizer):
    """What every optimizer has beside its own settings: its learning rate and the clipping.

    A subclass is an optimizer: it makes one of torch's in `create`.

    Raises:
        InputError: settings that do not belong together.
    """

    lr: Annotated[Positive, doc("peak learning rate")] = 1e-4
    warmup_images: Annotated[
        Natural, doc("images over which the learning rate rises at the start")
    ] = 0
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "wsd"],
        doc(
            "learning rate after warm-up: constant; linear or cosine = falls to zero over the run; "
            "wsd (warm-up, stable, decay) = constant, then linear to zero over decay-images"
        ),
    ] = "constant"
    decay_images: Annotated[
        Natural, doc("images at the end over which the learning rate falls; for wsd alone")
    ] = 0
    lr_scale: Annotated[
        str,
        doc(
            "factors on the learning rate by names of parameters, the first that fits counts: "
            "embed*=0.5,project*=2; empty = none"
        ),
    ] = ""
    layer_decay: Annotated[
        Share,
        doc(
            "factor on the learning rate for each block further from the head, the layers in "
            "front of the blocks last; 1 = none"
        ),
    ] = 1.0
    clip: Annotated[Positive | None, doc("largest gradient norm, or none")] = 1.0

    def __post_init__(self) -> None:
        if (self.schedule == "wsd") != bool(self.decay_images):
            cure = "give the images of the fall" if self.schedule == "wsd" else "leave it out"
            raise InputError(
                f"--optim.decay-images: expected it with --optim.schedule wsd and only there, got "
                f"{self.decay_images} with {self.schedule}; {cure}"
            )
        self.scales()

    def scales(self) -> dict[str, float]:
        """Return the factors on the learning rate by patterns of names, or raise InputError."""
        found: dict[str, float] = {}
        for word in filter(None, self.lr_scale.split(",")):
            pattern, _, text = word.rpartition("=")
            try:
                factor = float(text)
            except ValueError:
                factor = math.nan
            if not pattern or not 0 <= factor < math.inf:
                raise InputError(
                    "--optim.lr-scale: expected patterns of names with factors of at least 0 such "
                    f"as embed*=0.5,project*=2, got {word[:80]!r}; change it"
                )
            found.setdefault(pattern, factor)
        return found

    def groups(
        self,
        model: nn.Module,
        weight_decay: float = 0.0,
        only: Callable[[nn.Parameter], bool] = lambda parameter: True,
        keeps: tuple[str, ...] | None = None,
    ) -> list[dict[str, Any]]:
        """Return parameters in groups as torch's optimizers take them.

        Weights that multiply features decay. Biases, norms and priors, all of one dimension, and
        the tables of embeddings do not.

        Args:
            model: what is trained.
            weight_decay: of the weights that decay.
            only: says which of the parameters are wanted.
            keeps: what the optimizer keeps of a parameter, as `KEPT_BY_ADAMW`; None = unknown.

        Raises:
            InputError: a pattern of `lr_scale` that fits no parameter, or a network without blocks
                for `layer_decay`.
        """
        tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        named, scales = trained_parameters(model), self.scales()
        chosen_names(scales, named, "--optim.lr-scale", "a parameter")
        below = blocks_above(getattr(model, "network", model)) if self.layer_decay < 1 else {}
        for name, parameter in named.items():
            if not only(parameter):
                continue
            spared = parameter.ndim < 2 or id(parameter) in tables
            scale = next((f for p, f in scales.items() if fits_any(name, [p])), 1.0)
            scale *= self.layer_decay ** below.get(id(parameter), 0)
            key = 0.0 if spared else weight_decay, scale
            groups.setdefault(key, []).append(parameter)
        return [
            {"params": group, "weight_decay": decay, "lr_scale": scale}
            | ({"keeps": keeps} if keeps else {})
            for (decay, scale), group in groups.items()
        ]


@dataclass(frozen=True)
class AdamW(OptimConfig):
    """Torch's AdamW, fused."""

    kind = "adamw"

    betas: Annotated[tuple[Momentum, Momentum], doc("AdamW's momenta")] = (0.9, 0.999)
    weight_decay: Annotated[NotNegative, doc("weight decay; spares norms, biases, embeddings")] = (
        0.0
    )

    def create(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return AdamW over all parameters of `model` that are trained."""
        return self._adamw(self.groups(model, self.weight_decay, keeps=KEPT_BY_ADAMW))

    def _adamw(self, groups: list[dict[str, Any]]) -> torch.optim.AdamW:
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, fused=True)


@dataclass(frozen=True)
class Muon(AdamW):
    """Torch's Muon for the matrices inside the blocks of the network, AdamW for all else.

    Its steps are scaled to the size of AdamW's (Liu et al. 2025), so that both take one learning
    rate. Convolutions, 1x1 ones among them, take AdamW: torch's Muon takes two dimensions alone.
    The 1x1 convolutions of this package's networks are matrices.
    """

    kind = "muon"

    momentum: Annotated[Momentum, doc("Muon's momentum (Nesterov's)")] = 0.95
    newton_schulz: Annotated[Count, doc("Muon's Newton-Schulz iterations, at most 99")] = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.newton_schulz > 99:
            raise InputError(
                "--optim.newton-schulz: expected a whole number of at most 99, got "
                f"{self.newton_schulz}; 5 is usual"
            )

    def create(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return Muon over the matrices inside blocks and AdamW over all else, as one optimizer.

        Raises:
            InputError: the network has no blocks that a Modulation marks.
        """
        inside = _matrices(model)
        if not inside:
            frozen = isinstance(network := getattr(model, "network", model), Backbone)
            if frozen and network.trunk_blocks:
                raise InputError(
                    "--optim.kind: expected matrices to train inside blocks for muon, got all of "
                    "them frozen; choose adamw"
                )
            raise InputError(
                "--optim.kind: expected a network whose blocks have a Modulation for muon, got one "
                "without; choose adamw"
            )
        matrices = self.groups(
            model, self.weight_decay, lambda p: id(p) in inside, keeps=KEPT_BY_MUON
        )
        others = self.groups(
            model, self.weight_decay, lambda p: id(p) not in inside, keeps=KEPT_BY_ADAMW
        )
        muon = torch.optim.Muon(
            matrices,
            lr=self.lr,
            momentum=self.momentum,
            ns_steps=self.newton_schulz,
            adjust_lr_fn="match_rms_adamw",
        )
        return Joined([muon, self._adamw(others)])

    def numbers_kept(self, model: nn.Module) -> int:
        """Return how many numbers the optimizer keeps: of a matrix one for each of its own."""
        inside = _matrices(model)
        matrices = [p.numel() for p in model.parameters() if id(p) in inside]
        return super().numbers_kept(model) - sum(matrices)


class Joined(torch.optim.Optimizer):
    """Several optimizers of different parameters as one, with one state and one list of groups."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self._share()

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step with each; there is no closure."""
        for optimizer in self.optimizers:
            optimizer.step()

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take another state in, as `load_state_dict` gives it, and hand it to each."""
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        groups = iter(self.param_groups)
        for optimizer in self.optimizers:
            optimizer.state = self.state
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]


OPTIMIZERS: Table[type[Optimizer]] = Table(
    "optimizer", Optimizer, {cls.kind: cls for cls in (AdamW, Muon)}
)
Optimizer.kinds = OPTIMIZERS


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained by name; in `Losses` the network's own names stay."""
    named = model.named_parameters()
    return {name.removeprefix("network."): p for name, p in named if p.requires_grad}


def _matrices(model: nn.Module) -> set[int]:
    """Return the ids of the matrices inside blocks that multiply features."""
    network = getattr(model, "network", model)
    blocks = network.trunk_blocks if isinstance(network, Backbone) else []
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    inside = (p for block in blocks for p in block.parameters())
    return {id(p) for p in inside if p.ndim == 2 and p.requires_grad} - tables
