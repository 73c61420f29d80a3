"""The class from which the networks in a folder for diffusers are derived.

`single_file` puts it in the place of `Backbone`. It needs diffusers.
"""

from __future__ import annotations

from typing import Any

from diffusers import ConfigMixin, ModelMixin
from torch import nn


class DiffusersBackbone(ModelMixin, ConfigMixin):
    """A network that diffusers reads and writes; its settings are the arguments of `__init__`."""

    in_channels: int
    num_classes: int
    multiple: int
    """Height and width must be multiples of this many pixels of model space."""
    frame_multiple: int = 1
    """Of pictures, which are one frame each."""
    video: bool = False
    """It takes pictures (B, C, H, W)."""
    learned_variance: bool = False
    """Twice the channels come out: the prediction, then the variance's place in its bounds."""
    second_time: bool = False
    """Two times are told, (B, 2), between which it predicts what is so on average."""
    told_guidance: bool = False
    """A scale of guidance is told beside them, (B, 3)."""

    def __init__(self) -> None:
        super().__init__()

    def __getattr__(self, name: str) -> Any:
        """Return a part of the network, where diffusers would find a setting of that name first."""
        return nn.Module.__getattr__(self, name)  # type: ignore[arg-type]
