"""A folder that diffusers opens without this library, and that this library opens too.

`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)` runs the files of Python in it:
the network, the scheduler and the pipeline, each made of this library's own modules by
`single_file`. Layout: model_index.json, pipeline.py, transformer/, scheduler/, vae/ where the
autoencoder is a local one, and pipeline.json for `convflow.Pipeline`.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

from convflow import __version__
from convflow.codecs import LatentCodec, PixelCodec
from convflow.integrations.hub_card import HubPage
from convflow.integrations.movable import copy_autoencoder, write_json, write_movable
from convflow.integrations.single_file import LEFT_OUT, OF_PYRAMIDS, SingleFile
from convflow.models.backbone import Backbone
from convflow.models.diffusers_network import DiffusersNetwork
from convflow.models.export import check_labels, check_pictures
from convflow.models.families import BACKBONES
from convflow.models.pyramid import Pyramid
from convflow.models.stored import SHARD_BYTES, write_stored
from convflow.models.text import TextSettings
from convflow.pipeline import Pipeline
from convflow.processes.ddpm import DDPM
from convflow.processes.flow import FlowMatching
from convflow.processes.meanflow import MeanFlow
from convflow.processes.multiscale import MultiscaleFlow
from convflow.samplers.average import Average
from convflow.samplers.ode import SCHEMES
from convflow.settings.read import hints_of
from convflow.storage import write_text, writing_folder
from convflow.types import InputError

log = logging.getLogger("convflow")

HERE = "convflow.integrations"
DIFFUSERS_VERSION = "0.35.0"
"""The earliest that such a folder is written for."""
PROCESSES_THERE = (FlowMatching, MeanFlow, DDPM, MultiscaleFlow)
PIPELINES = {
    False: (f"{HERE}.diffusers_pipeline", "FlowPipeline"),
    True: (f"{HERE}.diffusers_scales", "ScalesPipeline"),
}
"""The pipeline of models on one image, and of those on several scales."""
LICENCE = f"""

Written by convflow {__version__} (Apache-2.0) from its own modules; the lines that begin with
`# ----` name them."""


def write_pipeline(pipe: Pipeline, out: Path, *, name: str) -> list[str]:
    """Do what `export_diffusers` does, and return what there is, see `ExportTarget`."""
    export_diffusers(pipe, out)
    return [f"{out}  <- {name} for diffusers"]


def export_diffusers(pipe: Pipeline, out: Path, most: int = SHARD_BYTES) -> None:
    """Write a new folder for diffusers.

    Args:
        pipe: the model.
        out: the folder, whole or not at all.
        most: bytes of weights in one file.

    Raises:
        InputError: a model that no such folder can hold, a folder that is there, or a full disk.
    """
    if isinstance(pipe.model, DiffusersNetwork):
        _write_own(pipe, pipe.model, out, most)
        return
    check_exportable(pipe)
    with writing_folder(out) as draft:
        _write_network(pipe, draft / "transformer", most)
        autoencoder = copy_autoencoder(pipe, draft, "vae")
        write_json(draft / "scheduler" / "scheduler_config.json", _scheduler_settings(pipe))
        scheduler = SingleFile([(f"{HERE}.diffusers_scheduler", "FlowScheduler")])
        about = "Solvers of fixed cost from noise to data, as a scheduler of diffusers."
        write_text(draft / "scheduler" / "flow_scheduler.py", scheduler.text(about + LICENCE))
        root = PIPELINES[pipe.process.multiscale]
        about = "From labels to images, as a pipeline of diffusers."
        write_text(draft / "pipeline.py", SingleFile([root]).text(about + LICENCE))
        index = {
            "_class_name": ["pipeline", root[1]],
            "_diffusers_version": DIFFUSERS_VERSION,
            "transformer": [module_name(pipe.model), type(pipe.model).__name__],
            "scheduler": ["flow_scheduler", "FlowScheduler"],
            "vae": _vae(pipe, draft),
            "settings": _settings(pipe, autoencoder),
            "id2label": {str(i): name for i, name in enumerate(pipe.class_names)},
        }
        write_json(draft / "model_index.json", index)
        write_movable(pipe, draft, autoencoder)
        page = HubPage(f"owner/{out.resolve().name}", library="diffusers")
        write_text(draft / "README.md", page.text(pipe))


def _write_own(pipe: Pipeline, model: DiffusersNetwork, out: Path, most: int) -> None:
    """Write a transformer of diffusers as diffusers stores it, so that its class opens it."""
    with writing_folder(out) as draft:
        model.to_diffusers().save_pretrained(draft, max_shard_size=most)
        shift = getattr(pipe.sampling.solver, "shift", 1.0)
        scheduler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift}
        write_json(draft / "scheduler" / "scheduler_config.json", scheduler)


def check_exportable(pipe: Pipeline) -> None:
    """Raise InputError where no folder for diffusers can hold a model."""
    network, process = pipe.model, pipe.process
    check_labels(network, "a folder for diffusers")
    check_pictures(network, "a folder for diffusers")
    inner = network.inner if type(network) is Pyramid else network
    if BACKBONES.get(inner.family) is not type(inner):
        raise InputError(
            f"expected one of {', '.join(BACKBONES)} for diffusers, got {inner.family}; export it "
            "with --to safetensors"
        )
    named = isinstance(getattr(process, "schedule", ""), str)
    if type(process) not in PROCESSES_THERE or not named:
        kinds = ", ".join(cls.kind for cls in PROCESSES_THERE)
        raise InputError(
            f"expected a process of {kinds} for diffusers, got {process.kind}; export the model "
            "with --to safetensors"
        )
    if not isinstance(pipe.codec, PixelCodec | LatentCodec):
        raise InputError(
            f"expected the codec pixel or latent for diffusers, got {pipe.codec.kind}; export the "
            "model with --to safetensors"
        )


def module_name(model: Backbone) -> str:
    """Return what the file of a network is called; "dit" alone is a module of diffusers."""
    names = dict.fromkeys((model.family, model.inner.family))  # of a pyramid two
    return "_".join(["transformer", *names])


def network_file(family: str, inner: str | None = None) -> str:
    """Return the source of a network as one file, derived from diffusers' classes.

    Args:
        family: of the network.
        inner: family of the network inside a pyramid; None for others.
    """
    backbone = (f"{HERE}.diffusers_backbone", "DiffusersBackbone")
    cls, left_out = BACKBONES[inner or family], LEFT_OUT
    roots = [(cls.__module__, cls.__name__)]
    if inner is not None:
        roots.append((Pyramid.__module__, Pyramid.__name__))
        left_out = LEFT_OUT - OF_PYRAMIDS
    file = SingleFile(roots, {"Backbone": backbone}, left_out)
    file.imports.add("from diffusers.configuration_utils import register_to_config")
    name = cls.__name__ if inner is None else f"{Pyramid.__name__} of {cls.__name__}"
    text = file.text(f"{name} in plain torch, as a model of diffusers.{LICENCE}")
    return text if inner is None else f"{text}\n\nINNER = {cls.__name__}\n"


def _write_network(pipe: Pipeline, folder: Path, most: int) -> None:
    model = pipe.model
    folder.mkdir()
    settings = _told(model.settings)
    if "backbone" in settings:  # of a pyramid
        settings["backbone"] = {"family": model.inner.family, **_told(settings["backbone"])}
    names = {"_class_name": type(model).__name__, "_diffusers_version": DIFFUSERS_VERSION}
    write_json(folder / "config.json", names | settings)
    inner = model.inner.family if model.num_scales > 1 else None
    write_text(folder / f"{module_name(model)}.py", network_file(model.family, inner))
    write_stored(folder, model.state_dict(), "diffusion_pytorch_model", most)


def _told(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that networks of texts or videos alone have."""
    left_out = {"family", "axes", *hints_of(TextSettings)}
    return {name: value for name, value in settings.items() if name not in left_out}


def _vae(pipe: Pipeline, folder: Path) -> list[str | None]:
    """Return library and class of an autoencoder that lies in the folder."""
    inside = isinstance(pipe.codec, LatentCodec) and (folder / "vae").is_dir()
    return ["diffusers", pipe.codec.space.kind] if inside else [None, None]  # type: ignore[attr-defined]


def _scheduler_settings(pipe: Pipeline) -> dict[str, Any]:
    solver, kind = pipe.sampling.solver, pipe.sampling.solver.kind
    if isinstance(solver, Average):
        kind = "euler"  # whose steps go along what the network predicts, here averages
    elif kind not in SCHEMES:
        log.info(f"diffusers samples with heun, for it has no solver {kind} of this library")
        kind = "heun"
    return {
        "_class_name": "FlowScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
        "solver": kind,
        "shift": getattr(solver, "shift", 1.0),
        "last_step": getattr(solver, "last_step", None),
    }


def _settings(pipe: Pipeline, autoencoder: str | None) -> dict[str, Any]:
    """Return what the pipeline is told of training and sampling."""
    sampling, solver, codec = pipe.sampling, pipe.sampling.solver, None
    if sampling.guidance_kind != "cfg":
        log.info(f"diffusers guides with cfg in place of {sampling.guidance_kind}")
    if pipe.resolution.arguments():
        log.info("diffusers tells the network nothing of sizes other than the trained one")
    if isinstance(pipe.codec, LatentCodec):
        scale, shift = pipe.codec.constants
        space = dataclasses.asdict(pipe.codec.space)
        codec = {"autoencoder": autoencoder, "scale": scale, "shift": shift, "space": space}
    return {
        "process": pipe.process.kind,
        "schedule": getattr(pipe.process, "schedule", "linear"),
        "prediction": pipe.process.prediction,
        "size": list(pipe.size),
        "steps": solver.num_steps or 50,
        "averages": isinstance(solver, Average),
        "guidance": solver.told_guidance if isinstance(solver, Average) else sampling.guidance,
        "interval": list(sampling.interval),
        "channels_guided": sampling.channels_guided,
        "codec": codec,
        **_scales(pipe),
    }


def _scales(pipe: Pipeline) -> dict[str, Any]:
    """Return what a pipeline on several scales is told besides."""
    process, solver = pipe.process, pipe.sampling.solver
    if not isinstance(process, MultiscaleFlow):
        return {}
    if getattr(solver, "stop_scale", None):
        log.info("diffusers draws all scales, also where this library stops after a coarser one")
    return {
        "decomposition": process.decomposition,
        "factors": list(process.factors),
        "deviations": list(process.deviations),
        "stage_steps": list(getattr(solver, "stage_steps", ())),
        "thresholds": list(getattr(solver, "thresholds", ())),
    }
