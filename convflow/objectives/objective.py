"""The contract of an objective: from a batch and its draws to the loss of each image, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from convflow.types import Cond


class Wants(NamedTuple):
    """What a step must supply to an objective beside clean data and labels.

    Attributes:
        features: blocks of the network, counted from 0, whose features it reads.
        average: whether it calls the network with averaged weights.
        pixels: whether it looks at the images as they are.
        first: whether it looks at the network's first call, which the loss of the process makes.
        batch: whether it compares the images of a batch with each other.
    """

    features: tuple[int, ...] = ()
    average: bool = False
    pixels: bool = False
    first: bool = False
    batch: bool = False


@dataclass
class FirstCall:
    """The network's first call in a step, made by the loss of the process.

    Attributes:
        draws: noise and times of that loss, of the same images.
        output: what the network returned; None before the call.
    """

    draws: Any
    output: Any = None


def _alone(rows: Tensor) -> Tensor:
    return rows


class Inputs(NamedTuple):
    """The images of one process, or some of them, as objectives see them.

    Attributes:
        data: clean images in model space.
        labels: `num_classes` means "no label".
        features: by block, after the first call of the network in this step; (B, h, w, D), or
            (B, F, h, w, D) of videos.
        average: the network with averaged weights, called as the network is; None if not wanted.
        pixels: the clean images with levels 0..255; None if not wanted.
        average_features: as `Backbone.features_after`, of the next call of `average`.
        first: the network's first call; None if not wanted.
        whole: from rows of these images to those of the batch of all processes, through which
            gradients flow back; every process must come there as often.
        places: where in that batch these images are.
        images_seen: by the training, before this step.
        encoded: what the encoder of an alignment sees in the images, from a store; None to ask it.
        told: how images were augmented, which the networks here are told; None if they were not.
    """

    data: Float[Tensor, "B C *F H W"]
    labels: Cond
    features: Mapping[int, Float[Tensor, "B *F h w D"]] = {}
    average: Callable[..., Any] | None = None
    pixels: UInt8[Tensor, "B K *Fp Hp Wp"] | None = None
    average_features: (
        Callable[[Iterable[int]], AbstractContextManager[dict[int, Tensor]]] | None
    ) = None
    first: FirstCall | None = None
    whole: Callable[[Tensor], Tensor] = _alone
    places: slice = slice(None)
    images_seen: int = 0
    encoded: Float[Tensor, "B h w F"] | None = None
    told: Float[Tensor, "B A"] | None = None


class Objective(nn.Module):
    """One part of the loss of a training; a module, for it may have parameters of its own.

    Its parameters are trained, averaged and saved with those of the network. A subclass is built as
    `Kind(network, process, **settings)` before the first step; it must not keep the network as an
    attribute, since the network is a part of every call. The class may have any further settings,
    which the user gives as `--objectives.NAME.SETTING`: other arguments of its constructor, or the
    fields of a dataclass that it takes as `settings`. A setting whose annotation is `Annotated`, as
    in `convflow.settings.fields`, is checked by it, and `--help` shows its line.

    Attributes:
        wants: what the step must supply; may depend on the settings.
        usual_weight: its factor in the loss where the user gives none.
    """

    wants: Wants = Wants()
    usual_weight: ClassVar[float] = 1.0

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Any:
        """Return what is random in one step, for a whole batch of `shape` (B, C, H, W).

        Tensors of B rows in any nest of tuples and dictionaries, or None. They are made on the
        generator's device for the batch of all processes, so they do not depend on their number.
        """
        return None

    def terms(
        self, network: Callable[..., Any], batch: Inputs, draws: Any
    ) -> dict[str, Float[Tensor, " B"]]:
        """Return losses of each image by name; their sum is what the objective makes smaller.

        Args:
            network: `network(x, t, labels)`, to be trained.
            batch: the images.
            draws: the rows of `draw` that belong to them.
        """
        raise NotImplementedError
