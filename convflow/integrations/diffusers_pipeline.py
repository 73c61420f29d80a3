"""From labels to images as a pipeline of diffusers, without convflow.

`single_file` writes this class, with what it takes from other modules, into a folder for diffusers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from PIL import Image
from torch import Tensor

from convflow.autoencoders import LatentSpace, decode
from convflow.codecs import to_levels
from convflow.processes.contract import Clock, beside
from convflow.processes.ddpm import linear_betas
from convflow.processes.prediction import Predicts
from convflow.processes.schedule import discrete, find_schedule
from convflow.samplers.guidance import ClassifierFreeGuidance
from convflow.seeds import draw_noise


class FlowPipeline(DiffusionPipeline):
    """Generates images of classes with a network of flow matching, MeanFlow or DDPM.

    Args:
        transformer: the network, called as `transformer(x, t, labels)`.
        scheduler: a `FlowScheduler`, or a `FlowMatchEulerDiscreteScheduler`.
        vae: the autoencoder of a model in latents; fetched when it is first needed where None.
        settings: how the network was trained and is sampled: process, schedule, prediction, size,
            steps, averages (whether steps go by average velocities), guidance, interval,
            channels_guided, and codec or None for pixels.
        id2label: names of the classes by number.

    Examples:
        >>> pipe = DiffusionPipeline.from_pretrained("a", trust_remote_code=True)  # doctest: +SKIP
        >>> pipe(["cat", 3], height=64, width=48, generator=0).images[0].show()  # doctest: +SKIP
    """

    model_cpu_offload_seq = "transformer->vae"
    _optional_components = ["vae"]  # noqa: RUF012

    def __init__(
        self,
        transformer: Any,
        scheduler: Any,
        vae: Any = None,
        settings: Any = None,
        id2label: Any = None,
    ) -> None:
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler, vae=vae)
        self.register_to_config(settings=dict(settings or {}), id2label=dict(id2label or {}))

    @torch.no_grad()
    def __call__(
        self,
        class_labels: Any = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | int | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images, one for each label.

        Args:
            class_labels: names or numbers of classes, None among them for no class; by default all
                classes in turn, 16 images.
            height: in pixels, as `width` a multiple of `multiple`; by default as trained.
            width: in pixels.
            num_inference_steps: steps of the solver, at least 1.
            guidance_scale: of classifier-free guidance, or what a network is told that was trained
                so; 1 is none.
            generator: a torch.Generator; or a whole number, the seed of convflow, which gives the
                images of `convflow sample --seed`.
            latents: noise (B, C, H, W) in model space to start from instead.
            output_type: "pil", "np" for (B, H, W, C) in [0, 1], "pt" for (B, C, H, W) in [0, 1], or
                "latent" for model space.
            return_dict: whether an output of diffusers comes back, else a tuple.

        Raises:
            ValueError: an unknown class or output type, a size that does not fit, no number of
                steps, or guidance of average velocities, into which it is trained.
        """
        told, device = self.config.settings, self._execution_device
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"expected output_type pil, np, pt or latent, got {output_type!r}")
        steps = num_inference_steps
        if steps is not None and (not isinstance(steps, Integral) or steps < 1):
            raise ValueError(f"num_inference_steps: expected a whole number >= 1, got {steps}")
        numbers = self.label_ids(class_labels)
        labels = torch.tensor(numbers, device=device)
        draw = partial(self._noise, numbers, height, width, generator)
        noise = draw() if latents is None else latents
        scale = told["guidance"] if guidance_scale is None else guidance_scale
        x = self._run(noise.to(device, self.transformer.dtype), labels, scale, steps, draw)
        self.maybe_free_model_hooks()
        images = x if output_type == "latent" else self._decode(x, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @property
    def multiple(self) -> int:
        """What divides the height and width of every image, in pixels."""
        return self._factor * int(self.transformer.multiple)

    def label_ids(self, class_labels: Any = None) -> list[int]:
        """Return the number of each class that is asked for, by name or number."""
        none = int(self.transformer.num_classes)
        if class_labels is None:
            return [i % max(none, 1) if none else none for i in range(16)]
        one = isinstance(class_labels, str | int)
        names = {name: int(number) for number, name in self.config.id2label.items()}
        found = []
        for label in [class_labels] if one else class_labels:
            number = none if label is None else names.get(str(label), label)
            if isinstance(number, str) and number.isdigit():
                number = int(number)
            if not isinstance(number, int) or not 0 <= number <= none:
                raise ValueError(f"expected a class from 0 to {none - 1} or a name, got {label!r}")
            found.append(number)
        return found

    @property
    def _factor(self) -> int:
        codec = self.config.settings["codec"]
        return int(codec["space"]["factor"]) if codec else 1

    def _noise(
        self,
        numbers: Sequence[int],
        height: int | None,
        width: int | None,
        generator: torch.Generator | int | None,
        step: int = 0,
    ) -> Tensor:
        """Return noise for so many images of a size in pixels; another `step` gives more of it."""
        usual = self.config.settings["size"]
        sides = (height or usual[0], width or usual[1])
        if any(side < 1 or side % self.multiple for side in sides):
            raise ValueError(
                f"expected a height and width that are multiples of {self.multiple}, got "
                f"{sides[0]}x{sides[1]}"
            )
        rows, columns = (side // self._factor for side in sides)
        shape = (int(self.transformer.in_channels), rows, columns)
        if isinstance(generator, int):
            return draw_noise(generator, range(len(numbers)), shape, step)
        where = generator.device if generator is not None else torch.device("cpu")
        return torch.randn((len(numbers), *shape), generator=generator, device=where)

    def _begin(self, steps: int) -> None:
        """Begin a run of the scheduler, also of one of diffusers', whose own grid ends early."""
        if hasattr(self.scheduler, "scheme"):
            self.scheduler.set_timesteps(steps)
        else:
            sigmas = [1 - i / steps for i in range(steps)]
            self.scheduler.set_timesteps(sigmas=sigmas, device=self._execution_device)

    def _run(
        self,
        noise: Tensor,
        labels: Tensor,
        scale: float,
        steps: int | None,
        draw: Callable[[int], Tensor],
    ) -> Tensor:
        """Return images in model space, from noise and maybe more of it."""
        self._begin(steps or self.config.settings["steps"])
        if not self.config.settings["averages"]:
            return self._solve(self._guide(self._denoiser(), scale), noise, labels)
        if scale != 1 and not self.transformer.told_guidance:
            raise ValueError(
                f"expected guidance_scale 1 for averages of velocities, into which guidance is "
                f"trained, got {scale}"
            )
        return self._solve(self._averages(scale), noise, labels)

    def _solve(self, velocity: Any, x: Tensor, labels: Tensor) -> Tensor:
        """Return where the scheduler ends, from states x; averages are told the step's end too."""
        times = [1 - float(timestep) / 1000 for timestep in self.scheduler.timesteps]
        spans = itertools.pairwise([*times, 1.0])
        averages = self.config.settings["averages"]
        for timestep, span in zip(self.progress_bar(self.scheduler.timesteps), spans, strict=True):
            t = torch.tensor(span, device=x.device).expand(len(x), 2)
            moved = velocity(x, t if averages else t[:, 0], labels)
            x = self.scheduler.step(-moved, timestep, x).prev_sample
        return x

    def _guide(self, predict: Any, scale: float, clock: Clock = beside) -> ClassifierFreeGuidance:
        """Return a prediction with guidance, where there are classes."""
        told, none = self.config.settings, self.transformer.num_classes
        return ClassifierFreeGuidance(
            predict,
            lambda y: torch.full_like(y, none),
            scale if none else 1.0,
            tuple(told["interval"]),
            told["channels_guided"],
            clock,
        )

    def _averages(self, guidance: float = 1.0) -> Any:
        """Return what predicts the average velocity between two times (B, 2)."""
        more = [guidance] if self.transformer.told_guidance else []

        def average(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            told = torch.cat([t, t.new_tensor(more).expand(len(t), -1)], 1)
            return self.transformer(x, told, y)[:, : x.shape[1]]  # velocities may stand behind

        return average

    def _denoiser(self) -> Any:
        """Return what predicts the velocity in flow time, whatever the network was trained for."""
        told = self.config.settings
        if told["process"] == "ddpm":
            betas = linear_betas()

            def stepwise(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
                return self.transformer(x, (len(betas) * (1 - t) - 1).clamp(min=0), y)

            path = discrete("ddpm", (1 - betas).cumprod(0))
            return Predicts(stepwise, path, "noise", "velocity")
        if told["process"] == "meanflow":
            average = self._averages()
            return lambda x, t, y: average(x, torch.stack([t, t], 1), y)
        if told["prediction"] == "velocity":
            return self.transformer
        path = find_schedule(told["schedule"])
        return Predicts(self.transformer, path, told["prediction"], "velocity")

    def _decode(self, x: Tensor, output_type: str) -> Any:
        """Return the images of model space."""
        codec = self.config.settings["codec"]
        levels = to_levels(self._open(codec, x) if codec else x).cpu()
        if output_type == "pt":
            return levels.float() / 255
        arrays = levels.permute(0, 2, 3, 1).numpy()
        if output_type == "np":
            return arrays.astype("float32") / 255
        return [Image.fromarray(a[..., 0] if a.shape[-1] == 1 else a) for a in arrays]

    def _open(self, codec: dict[str, Any], x: Tensor) -> Tensor:
        """Return what the autoencoder makes of model space, in about [-1, 1]."""
        if self.vae is None:
            kind = getattr(diffusers, codec["space"]["kind"])
            owner, name, *inside = codec["autoencoder"].split("/")
            vae = kind.from_pretrained(f"{owner}/{name}", subfolder="/".join(inside) or None)
            self.register_modules(vae=vae.to(x.device))
        scale, shift = (
            x.new_tensor(number)[:, None, None] if isinstance(number, list | tuple) else number
            for number in (codec["scale"], codec["shift"])
        )
        space = LatentSpace(**codec["space"])
        most = max(1, 2**20 // math.prod(x.shape[2:]) // space.factor**2)
        parts = (x / scale + shift).to(self.vae.dtype).split(most)
        return torch.cat([decode(self.vae, space, part) for part in parts])
