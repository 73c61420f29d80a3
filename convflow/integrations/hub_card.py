"""The page of a model on the Hugging Face Hub: its README.md, with the keys that the Hub reads.

Keys: hub-docs, modelcard.md. Scores go into `model-index`, pictures into `widget`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from convflow import __version__
from convflow.codecs import image_channels
from convflow.evaluation.card import Card, metric_type
from convflow.pipeline import Pipeline
from convflow.settings.read import to_dict
from convflow.types import size_text

TASK = "unconditional-image-generation"
"""The Hub's name of what these models do; it has none for classes."""
MANY_CLASSES = 12
"""More classes than this are counted, not named."""
SHOWN_SETTINGS = {
    "batch_size": "batch size", "optim.kind": "optimizer", "optim.lr": "learning rate",
    "precision": "precision", "label_dropout": "label dropout", "seed": "seed",
}  # fmt: skip
"""Settings of a training that the page names, and what it calls them."""
VERDICTS = {
    "copies": "It found samples that are near copies of training images.",
    "near": "It found samples nearer to training images than other images are.",
    "none": "It found no copies.",
}


TAKES_TEXT = "The model takes texts like the captions of its training images."


@dataclass(frozen=True)
class HubPage:
    """What a page tells beside the model.

    Attributes:
        repository: owner and name on the Hub.
        licence: of the weights, as the Hub spells it; "unknown" where nobody said.
        datasets: Hub ids of the training data.
        training: settings of the run with dotted keys; empty where they are not at hand.
        images_seen: by the run; None where that is not known.
        curve: whether `training/loss.png` is there.
        cards: results of `convflow evaluate`.
        nearest: the numbers of `convflow nearest`; None where nobody looked.
        samples: label and file of each picture, the first of a grid.
        library: convflow, or diffusers for a folder that it opens.
        own_code: whether parts of the model are code in the repository.
        revision: the branch that the page is on; None for the main one.
    """

    repository: str
    licence: str = "unknown"
    datasets: tuple[str, ...] = ()
    training: dict[str, Any] | None = None
    images_seen: int | None = None
    curve: bool = False
    cards: tuple[Card, ...] = ()
    nearest: dict[str, Any] | None = None
    samples: tuple[tuple[str, str], ...] = ()
    library: str = "convflow"
    own_code: bool = False
    revision: str | None = None

    @property
    def name(self) -> str:
        """The name of the model, without its owner."""
        return self.repository.rpartition("/")[2]

    def text(self, pipe: Pipeline) -> str:
        """Return the whole file."""
        video = pipe.model.video
        parts = [f"# {self.name}", _about(pipe, self.name), *self._pictures(video)]
        parts += self._use(video)
        parts += ["## Sampling", _sampling(pipe), "## Training", *self._training()]
        parts += ["## Scores", *(map(_scores, self.cards) if self.cards else [NO_CARDS])]
        parts += ["## Limits", _limits(pipe), "## Copies of training images", self._copies()]
        body = "\n\n".join(parts)
        return f"---\n{self.keys(pipe).to_yaml()}\n---\n\n{body}\n"

    def keys(self, pipe: Pipeline) -> ModelCardData:
        """Return the keys in front of the page."""
        classes = "class-conditional" if pipe.model.num_classes else "unconditional"
        kind = "video" if pipe.model.video else "image"
        classes = f"text-to-{kind}" if pipe.text.used else classes
        tags = ["convflow", f"{kind}-generation", classes, pipe.model.family, pipe.process.kind]
        results = [result for card in self.cards for result in _results(card)]
        more: dict[str, Any] = {}
        if self.samples:
            (_, grid), *single = self.samples
            more["thumbnail"] = (
                f"https://huggingface.co/{self.repository}/resolve/{self.revision or 'main'}/{grid}"
            )
            widget = [{"text": label or "sample", "output": {"url": url}} for label, url in single]
            more["widget"] = widget
        return ModelCardData(
            license=self.licence,
            library_name=self.library,
            pipeline_tag=None if pipe.model.video else TASK,  # the Hub has no such task of videos
            tags=[*tags, *(["diffusers"] if self.library == "diffusers" else [])],
            datasets=list(self.datasets) or None,
            metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
            model_name=self.name,
            eval_results=results or None,
            **more,
        )

    def _pictures(self, video: bool) -> list[str]:
        if not self.samples:
            return []
        return [
            f"![Samples of {self.name}]({self.samples[0][1]})",
            f"*The model made these {'videos' if video else 'images'} with its usual settings and "
            "the seed 0. They were not selected.*",
        ]

    def _use(self, video: bool) -> list[str]:
        branch = f', revision="{self.revision}"' if self.revision else ""
        trust = ", trust_remote_code=True" if self.own_code else ""
        model = self.repository + (f"@{self.revision}" if self.revision else "")
        out = "samples.gif" if video else "samples.png"
        command = f"convflow sample {model} --num 16 --out {out}\n"
        first = "pixels[0]  # (C, F, H, W) uint8" if video else "images[0].save('sample.png')"
        ours = [
            # commands run no code of a repository
            f"```sh\npip install convflow\n{'' if self.own_code else command}```",
            f"```python\nimport convflow\n\n"
            f'pipe = convflow.Pipeline.from_pretrained("{self.repository}"{branch}{trust})\n'
            f"pipe(num=4, seed=0).{first}\n```",
        ]
        theirs = [
            "```python\nfrom diffusers import DiffusionPipeline\n\n"
            f'pipe = DiffusionPipeline.from_pretrained("{self.repository}"{branch}, '
            'trust_remote_code=True)\npipe(generator=0).images[0].save("sample.png")\n```',
            "The files of Python in this repository need torch and diffusers, and no convflow.",
        ]
        note = ["Parts of this model are code in this repository. Read it before you trust it."]
        use = theirs if self.library == "diffusers" else ours
        return ["## Use", *use, *(note if self.own_code else [])]

    def _training(self) -> list[str]:
        if not self.training:
            return ["The settings of the training were not at hand when this page was written."]
        known = {said: self.training.get(key) for key, said in SHOWN_SETTINGS.items()}
        seen = None if self.images_seen is None else f"{self.images_seen:,}"
        rows = _table({"images seen": seen, **known})
        link = "All settings are in [training/config.json](training/config.json)."
        return [rows, link, *(["![The loss over images seen](training/loss.png)"] * self.curve)]

    def _copies(self) -> str:
        if self.nearest is None:
            return (
                "Nobody has looked whether samples of this model are copies of training images. "
                "`convflow nearest` compares samples with the training images."
            )
        found = self.nearest
        count = len(found.get("nearest", ()))
        return (
            f"`convflow nearest` compared {count} samples with "
            f"{found.get('training_images', 0):,} training images. "
            f"{VERDICTS.get(str(found.get('verdict')), 'Its verdict is not known.')} "
            "Rare copies, and copies that are moved or rotated, can be missed."
        )


NO_CARDS = "No result card was given. `convflow evaluate` writes one."


def _about(pipe: Pipeline, name: str) -> str:
    model, what = pipe.model, "videos" if pipe.model.video else "images"
    grey = "grey " if image_channels(pipe.codec, model.in_channels) == 1 else ""
    classes = f" of {model.num_classes} classes" if model.num_classes else ""
    count = sum(p.numel() for p in model.parameters())
    named = ""
    if 0 < len(pipe.class_names) <= MANY_CLASSES:
        named = f" The classes are {', '.join(pipe.class_names)}."
    return (
        f"{name} generates {grey}{what}{classes}. The network is a {type(model).__name__} with "
        f"{count:,} parameters. It was trained with the process {pipe.process.kind} on {what} of "
        f"{_size(pipe)}.{named} convflow {__version__} wrote this page."
    )


def _size(pipe: Pipeline) -> str:
    """Return the size of training with what its numbers are."""
    axes = "(frames x height x width)" if pipe.model.video else "pixels"
    return f"{size_text(pipe.size)} {axes}"


def _sampling(pipe: Pipeline) -> str:
    solver = to_dict(pipe.sampling.solver)
    rows = {"solver": pipe.sampling.solver.kind, "steps": pipe.sampling.solver.num_steps}
    shift = solver.get("shift")
    return _table({**rows, "shift": shift, "guidance": pipe.sampling.guidance})


def _scores(card: Card) -> str:
    count, reference = card.pictures.get("count"), card.reference.get("name", "the reference")
    title = f"{count:,} samples" if isinstance(count, int) else "Samples"
    rows = [f"| {n} | {value:.4g} | {card.direction(n)} |" for n, value in card.scores.items()]
    detector = card.detector.get("name", "")
    head = f"{title} were compared with {reference}, by the features of {detector}."
    return "\n".join([head, "", "| score | value | |", "|---|---|---|", *rows])


def _results(card: Card) -> list[EvalResult]:
    reference = str(card.reference.get("name", "reference"))
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=reference,
            dataset_name=reference,
            metric_type=metric_type(title),
            metric_name=title,
            metric_value=value,
        )
        for title, value in card.scores.items()
    ]


def _limits(pipe: Pipeline) -> str:
    what = "Videos" if pipe.model.video else "Images"
    lines = [
        f"The model was trained at {size_text(pipe.size)}. It takes other sizes whose sides are "
        f"multiples of {pipe.multiple}; their quality was not measured for this page.",
        "The model knows the classes above and no text."
        if pipe.model.num_classes
        else TAKES_TEXT
        if pipe.text.used
        else "The model takes no classes and no text.",
        f"{what} of the model can repeat what its training {what.lower()} show, their errors and "
        "their one-sidedness included.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: dict[str, Any]) -> str:
    shown: Sequence[str] = [f"| {k} | {v} |" for k, v in rows.items() if v is not None]
    return "\n".join(["| setting | value |", "|---|---|", *shown])
