"""Published transformers of diffusers, such as FLUX.1 and Stable Diffusion 3, to begin from.

A folder of one has `config.json` and its weights; that of a pipeline has it in `transformer`, and
beside it the autoencoder in `vae` and the time shift in `scheduler`. Repositories of the Hub are
laid out alike. The weights are read by diffusers itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from convflow import hub
from convflow.bundle.config import PipelineConfig, SamplingConfig
from convflow.codecs import Codec, LatentCodec
from convflow.models.diffusers_layouts import ARCHITECTURES, import_diffusers
from convflow.models.diffusers_network import DiffusersNetwork
from convflow.processes.flow import FlowMatching
from convflow.samplers.solvers import create_solver
from convflow.storage import read_json
from convflow.text_pipelines import PIPELINE_INDEX
from convflow.texts import NoText, PretrainedText, TextEncoder
from convflow.types import InputError

SIDE = 1024
"""Height and width in pixels of FLUX.1, and of others that say none."""
SETTINGS_OF = ("transformer/config.json", "config.json", "scheduler/scheduler_config.json",
            "vae/config.json", PIPELINE_INDEX)  # fmt: skip
WEIGHTS_OF = ("transformer/*", "diffusion_pytorch_model*")
FLUX_SHIFT = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5,
              "max_shift": 1.15}  # fmt: skip
"""Tokens of the smallest and largest images, and the logarithms of their time shifts."""


class FoundTransformer(NamedTuple):
    """A transformer of diffusers that nobody has read yet.

    Attributes:
        name: what the user calls it.
        root: of the pipeline, or of the transformer alone.
        folder: with `config.json` of the transformer.
        config: what that says.
    """

    name: str
    root: Path
    folder: Path
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        """The class in diffusers."""
        return str(self.config["_class_name"])


def find_transformer(what: str | Path) -> FoundTransformer | None:
    """Return a transformer of a class that is known here; None where a name means something else.

    Of a repository of the Hub the settings alone are downloaded.
    """
    name, root = str(what), Path(what)
    if not root.exists() and hub.is_id(name):
        try:
            root = hub.download(name, SETTINGS_OF, "a transformer of diffusers")
        except InputError:  # who reads it says why
            return None
    for folder in (root, root / "transformer"):
        if (folder / "config.json").is_file():
            try:
                config = read_json(folder / "config.json")
            except InputError:  # likewise
                return None
            return FoundTransformer(name, root, folder, config) if _is_known(config) else None
    return None


def _is_known(config: Mapping[str, Any]) -> bool:
    return "family" not in config and config.get("_class_name") in ARCHITECTURES


def describe_transformer(found: FoundTransformer) -> PipelineConfig:
    """Return the process, codec, text encoders, size and sampler of a published transformer.

    Times are logit-normal, as SD3 was trained (Esser et al. 2024, section 3.1). The sampler is
    Euler's with the time shift of its scheduler.
    """
    flux = found.architecture == "FluxTransformer2DModel"
    sample_size = found.config.get("sample_size")
    side = 8 * sample_size if isinstance(sample_size, int) and sample_size > 0 else SIDE
    place = found.root / "scheduler" / "scheduler_config.json"
    scheduler = read_json(place) if place.is_file() else {}
    solver = create_solver("euler", steps=28, shift=_shift(scheduler, side))
    return PipelineConfig(
        size=(side, side),
        sampling=SamplingConfig(solver, guidance=1.0 if flux else 7.0),
        codec=_codec(found),
        process=FlowMatching(times="logit-normal"),
        text=_text(found),
    )


def _shift(scheduler: Mapping[str, Any], side: int) -> float:
    """Return the time shift of a FlowMatchEulerDiscreteScheduler for square images."""
    if not scheduler.get("use_dynamic_shifting"):
        return float(scheduler.get("shift", 1.0))
    least, most, low, high = (float(scheduler.get(n, v)) for n, v in FLUX_SHIFT.items())
    tokens = (side // 16) ** 2
    return math.exp(low + (high - low) * (tokens - least) / (most - least))


def _codec(found: FoundTransformer) -> Codec:
    if (found.root / "vae" / "config.json").is_file():
        local = Path(found.name).exists()
        return LatentCodec(str(found.root / "vae") if local else f"{found.name}/vae")
    if found.architecture == "SD3Transformer2DModel":
        return LatentCodec("stabilityai/stable-diffusion-3-medium-diffusers/vae")
    return LatentCodec("black-forest-labs/FLUX.1-dev/vae")


def _text(found: FoundTransformer) -> TextEncoder:
    """Return the text encoders beside a transformer, nothing for a transformer alone."""
    return PretrainedText(found.name) if (found.root / PIPELINE_INDEX).is_file() else NoText()


def settings_of_transformer(found: FoundTransformer) -> dict[str, Any]:
    """Return the settings of the network, without its weights.

    Raises:
        InputError: weights that are quantised.
    """
    if method := found.config.get("quantization_config"):
        kind = method.get("quant_method", "some") if isinstance(method, Mapping) else "some"
        raise InputError(
            f"expected a {found.architecture} in bfloat16 or float32, which can be trained, got "
            f"{found.name} in the quantisation {kind}; give the one it was made of"
        )
    options = {name: v for name, v in found.config.items() if not name.startswith("_")}
    return {"family": "diffusers", "architecture": found.architecture, "options": options}


def read_transformer(found: FoundTransformer) -> DiffusersNetwork:
    """Return the network of a published transformer with its weights in float32.

    Raises:
        InputError: quantised weights, absent or damaged files, weights that do not fit, or
            diffusers is missing.
    """
    settings_of_transformer(found)
    folder = found.folder
    if not Path(found.name).exists():
        root = hub.download(found.name, [*SETTINGS_OF, *WEIGHTS_OF], "a transformer of diffusers")
        folder = root / folder.relative_to(found.root)
    try:
        model, report = getattr(import_diffusers(), found.architecture).from_pretrained(
            folder,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # of diffusers or of a file
        raise _refused(found, " ".join(str(error).split())[:200]) from error
    missing = [*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]]
    if missing:  # diffusers would go on with random numbers in their place
        raise _refused(found, f"{missing[0]} is missing or of another shape")
    return DiffusersNetwork.from_diffusers(model)


def _refused(found: FoundTransformer, reason: str) -> InputError:
    return InputError(
        f"expected all weights of a {found.architecture} in {found.name}, got others ({reason}); "
        "copy the whole folder"
    )
