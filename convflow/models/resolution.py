"""What networks are told about images of another size than those of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from convflow.models.backbone import Backbone
from convflow.models.flowdcn import FlowDCN
from convflow.nn.positions import SCALINGS, PositionScaling
from convflow.nn.reach import ReachSchedule
from convflow.types import InputError, Size, unknown_name

SIZE_OPTIONS = {"reach": "it belongs to flowdcn", "position_scaling": "it belongs to dit and sit"}
"""Arguments of networks that speak of the size, and whose they are."""

POSITION_SCALINGS = tuple(dict.fromkeys(kind for kinds in SCALINGS.values() for kind in kinds))


def read_arguments(model: Backbone, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of a network as a user names them: "auto" becomes a published schedule.

    Args:
        model: which is to take them.
        given: reach: a number, (x, y), a tensor, a `ReachSchedule`, "auto" or "none";
            position_scaling: a name in `POSITION_SCALINGS`, "none", or a `PositionScaling`; any
            other argument of the network.

    Raises:
        InputError: an argument that the network does not take, or an unknown word.
    """
    read = {name: value for name, value in given.items() if value is not None}
    read = {name: v for name, v in read.items() if name not in SIZE_OPTIONS or not _is_none(v)}
    for name, value in read.items():
        if name in SIZE_OPTIONS and name not in model.options:
            family = model.inner.family
            raise InputError(
                f"{family} has no {name}, got {value}; leave it out, {SIZE_OPTIONS[name]}"
            )
    if isinstance(read.get("reach"), str):
        if read["reach"] != "auto":
            raise InputError(f"expected a reach in cells or auto, got {read['reach']!r}; change it")
        read["reach"] = ReachSchedule()
    kind = read.get("position_scaling")
    if isinstance(kind, str) and kind not in POSITION_SCALINGS:
        raise InputError(unknown_name("position scaling", kind, ("none", *POSITION_SCALINGS)))
    return read


@dataclass(frozen=True)
class Resolution:
    """How large images or videos are beside those of training; sizes in pixels of model space.

    Training at several sizes and sampling at any tell a network the same: for a batch of one size
    `network` puts what belongs to it around the network that a process or a sampler calls.

    Examples:
        >>> from convflow import create_model
        >>> model = create_model("flowdcn", width=16, depth=2, num_groups=2)
        >>> schedule = ReachSchedule(blocks=(0, 1), form="constant")
        >>> wide = Resolution((8, 16), (8, 8))
        >>> wide.arguments(model, {"reach": schedule}, torch.tensor([0.5, 0.9]))["reach"].tolist()
        [[[12.0, 6.0], [12.0, 6.0]], [[6.0, 6.0], [6.0, 6.0]]]
    """

    size: Size
    trained: Size

    @property
    def ratio(self) -> tuple[float, float]:
        """How many times wider and taller images are, and so are their grids of tokens."""
        return self.size[-1] / self.trained[-1], self.size[-2] / self.trained[-2]

    def arguments(self, model: Backbone, given: Mapping[str, Any], t: Tensor) -> dict[str, Any]:
        """Return arguments of a network for one call, words and schedules as numbers.

        Args:
            model: a backbone or a pyramid around one; what it does not take is left out.
            given: as `read_arguments` returns them.
            t: flow time of each sample, (B,).

        Raises:
            InputError: a schedule that does not fit the network.
        """
        inner, model_kwargs = model.inner, {n: v for n, v in given.items() if n in model.options}
        if isinstance(schedule := model_kwargs.get("reach"), ReachSchedule):
            network = cast(FlowDCN, inner)
            model_kwargs["reach"] = schedule.at(t, self.ratio, network.reach, len(network.blocks))
        if isinstance(kind := model_kwargs.get("position_scaling"), str):
            rows, columns = (side // inner.multiple for side in self.trained[-2:])
            frames = self.trained[0] if inner.video else None
            model_kwargs["position_scaling"] = PositionScaling(kind, rows, columns, frames)
        return model_kwargs

    def describe(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `read_arguments` has returned, ready for JSON, with what it rests on."""
        model_kwargs = {n: v.tolist() if isinstance(v, Tensor) else v for n, v in given.items()}
        if isinstance(schedule := model_kwargs.get("reach"), ReachSchedule):
            parts = {**dataclasses.asdict(schedule), "ratio": self.ratio}
            model_kwargs["reach"] = {
                n: [*v] if isinstance(v, tuple) else v for n, v in parts.items()
            }
        scaling = model_kwargs.get("position_scaling")
        if isinstance(scaling, PositionScaling):
            named = scaling._asdict().items()
            model_kwargs["position_scaling"] = {n: v for n, v in named if v is not None}
        elif scaling is not None:
            model_kwargs["position_scaling"] = {"kind": scaling, "trained": list(self.trained)}
        return model_kwargs

    def network(
        self,
        model: Backbone,
        given: Mapping[str, Any],
        flow_time: Callable[[Tensor], Tensor],
        call: Callable[..., Any] | None = None,
    ) -> Callable[..., Any]:
        """Return a network with what it is told at this size, for a process or a sampler.

        Args:
            model: as in `arguments`.
            given: as in `arguments`.
            flow_time: of the process, from the times that the network is told.
            call: what is called in its place, such as a compiled or a distributed form of it.
        """
        run = model if call is None else call

        def network(x: Any, t: Tensor, y: Any, *more: Any) -> Any:
            return run(x, t, y, *more, **self.arguments(model, given, flow_time(t)))

        return network

    def check(self, model: Backbone, given: Mapping[str, Any]) -> None:
        """Raise InputError when the network would, for these arguments."""
        model.check_options(**self.arguments(model, given, torch.zeros(1)))


def _is_none(value: Any) -> bool:
    return isinstance(value, str) and value == "none"
