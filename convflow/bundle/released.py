"""Published checkpoints by name: where they are, and how their papers sample from them.

Addresses on the Hub and patterns of file names were written down without reaching it, so a pattern
stands where the exact name is not known. The papers' scores are in `convflow.recipes.imagenet`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from convflow.bundle.config import SamplingConfig
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.process import Process
from convflow.samplers.solvers import create_solver

DDPM_250 = SamplingConfig(
    create_solver("ddpm", steps=250), 1.0, channels_guided=3, label_policy="random"
)
"""DiT's and DiCo's."""

SIT_SDE = SamplingConfig(
    create_solver("euler-maruyama", steps=250, last_step=0.04),
    1.0,
    channels_guided=3,
    label_policy="random",
)
"""SiT's, with the diffusion and the last step of its code's defaults."""

FLOWDCN_SDE = SamplingConfig(
    create_solver("euler-maruyama", steps=250, last_step=0.04, diffusion="flowdcn", last="euler"),
    1.0,
)
"""FlowDCN's: balanced labels, guidance on all channels."""

PROTOCOLS: dict[str, tuple[Process, SamplingConfig]] = {
    "dit": (DDPM(), replace(DDPM_250, guidance=1.5)),
    "dico": (DDPM(), replace(DDPM_250, guidance=1.4)),
    "sit": (FlowMatching(), replace(SIT_SDE, guidance=1.5)),
    "flowdcn": (FlowMatching(), replace(FLOWDCN_SDE, guidance=1.375)),
}
"""The process of each family, and how its paper samples from the largest network at 256 pixels."""

DIFFUSERS = ("transformer/*.safetensors", "transformer/*.bin")


class Release(NamedTuple):
    """A published checkpoint of a network for ImageNet's 1000 classes in latents."""

    size: str
    """A name in `convflow.models.zoo.SIZES`."""
    pixels: int
    """Height and width of its images."""
    licence: str
    """Of the weights."""
    hub: str = ""
    """Repository on the Hugging Face Hub; empty where it is not known."""
    files: tuple[str, ...] = ()
    """Patterns of file names there; the first that is found counts."""

    @property
    def family(self) -> str:
        """The family of networks."""
        return self.size.partition("-")[0]

    @property
    def commercial(self) -> bool:
        """Whether nothing is known that forbids commercial use."""
        return "-NC" not in self.licence

    @property
    def recipe(self) -> str:
        """The recipe of its training, which knows the paper's scores."""
        name = self.size.removesuffix("/2").replace("-", "_")
        return f"imagenet.{name}" + ("" if self.pixels == 256 else f"_{self.pixels}")


NONCOMMERCIAL, APACHE, NONE_STATED = "CC-BY-NC-4.0", "Apache-2.0", "none stated"
_DICO = "shallowdream204/DiCo"

RELEASES = {
    f"{release.size}-{release.pixels}": release
    for release in (
        Release("dit-xl/2", 256, NONCOMMERCIAL, "facebook/DiT-XL-2-256", DIFFUSERS),
        Release("dit-xl/2", 512, NONCOMMERCIAL, "facebook/DiT-XL-2-512", DIFFUSERS),
        Release("sit-xl/2", 256, "MIT", "nyu-visionx/SiT-collections", ("*SiT-XL-2-256*",)),
        Release("dico-s", 256, APACHE, _DICO, ("*DiCo-S*",)),
        Release("dico-b", 256, APACHE, _DICO, ("*DiCo-B*",)),
        Release("dico-l", 256, APACHE, _DICO, ("*DiCo-L*",)),
        Release("dico-xl", 256, APACHE, _DICO, ("*DiCo-XL*256*",)),
        Release("dico-xl", 512, APACHE, _DICO, ("*DiCo-XL*512*",)),
        Release("dico-h", 256, APACHE, _DICO, ("*DiCo-H*",)),
        Release("flowdcn-b/2", 256, NONE_STATED),
        Release("flowdcn-xl/2", 256, NONE_STATED),
    )
}
"""By size and pixels, such as "dit-xl/2-256"."""


def find_release(name: str) -> str | None:
    """Return the name in `RELEASES` that a name stands for: itself, a size for 256, a Hub id."""
    for known in (name, f"{name}-256"):
        if known in RELEASES:
            return known
    of_repository = [known for known, row in RELEASES.items() if row.hub == name]
    return of_repository[0] if len(of_repository) == 1 else None
