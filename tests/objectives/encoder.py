"""A frozen encoder, and an objective's inputs made by hand: what tests of objectives share."""

import torch
from torch import nn

from convflow.evaluation.user_code import import_place
from convflow.models.zoo import create_model
from convflow.objectives.objective import FirstCall, Inputs
from convflow.objectives.table import OWN
from convflow.processes.process import create_process

NAME = f"{__name__}:create"
WIDTH = 6
BACKBONES = {
    "flowdcn": {"width": 16, "depth": 4, "num_groups": 2},
    "dico": {"width": 8, "depths": [1, 1, 2, 1, 1]},
    "fcdm": {"width": 8, "depths": [1, 1, 2, 1, 1]},
    "dit": {"width": 16, "depth": 4, "num_heads": 2},
    "sit": {"width": 16, "depth": 4, "num_heads": 2},
}
PROCESSES = {
    "flow": {},
    "ddpm": {"variance": "small"},
    "dfm": {},
    "meanflow": {"guidance": 2.0, "mixture": 0.5},
}
ENCODED = ("repa", "irepa", "u-repa")
OF_FLOWS = ("contrastive", "direction", "velocity")
OF_ONE_TIME = ("sra", *OF_FLOWS)
KINDS = [*ENCODED, "sra", "dispersive", *OF_FLOWS]
U_SHAPED = ("dico", "fcdm")


class Encoder(nn.Module):
    """Random features of squares of 4x4 pixels, of grey and colour images alike."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(WIDTH, 1, 4, 4, generator=torch.Generator().manual_seed(5))
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        """Return (B, 6, H / 4, W / 4)."""
        grey = images.float().mean(1, keepdim=True) / 127.5 - 1
        return nn.functional.conv2d(grey, self.weight, stride=4)


def create() -> Encoder:
    """Return the encoder."""
    return Encoder()


def pooled():
    """Return a network whose features have no place."""
    return lambda images: images.float().mean((2, 3))


import_place(NAME)  # as the command line does


def settings_of(kind):
    """The settings of an objective beside the process's own, or of one in its place."""
    if kind == "velocity":
        return {OWN: {"kind": kind}}
    small = {"hidden": 8} if kind in ("repa", "u-repa", "sra") else {}
    return {"it": {"kind": kind} | small | ({"encoder": NAME} if kind in ENCODED else {})}


def refused(kind, family, process):
    """Whether a family or a process does not take an objective."""
    unfit = OF_ONE_TIME if process == "meanflow" else () if process == "flow" else OF_FLOWS
    return kind in unfit or (kind == "u-repa" and family not in U_SHAPED)


def network_of(family, process="flow", channels=3, **settings):
    """A network of a family with a process that trains it, every parameter of which speaks."""
    made = create_process(process, **PROCESSES[process])
    torch.manual_seed(2)
    given = made.adapt(
        {"name": family, "in_channels": channels, "num_classes": 3} | BACKBONES[family] | settings
    )
    network = create_model(given.pop("name"), **given)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network, made


def pictures(count=4, channels=3, side=16):
    """Images (B, C, side, side) in 0..255."""
    generator = torch.Generator().manual_seed(count)
    return torch.randint(256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


def inputs_of(pixels, process, seed=1, **more):
    """What an objective is given of images, after a first call of which there is no output yet."""
    data = pixels.float() / 127.5 - 1
    draws = process.draw(tuple(data.shape), torch.Generator().manual_seed(seed))
    labels = torch.arange(len(data)) % 3
    return Inputs(data, labels, **{"pixels": pixels, "first": FirstCall(draws)} | more)
