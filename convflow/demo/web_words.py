"""What the web page says: of the model, of its result card, and of the making of pictures."""

from __future__ import annotations

import re

from convflow.demo.studio import Moment, Studio
from convflow.evaluation.card import Card
from convflow.generate import Samples

MAKING = {
    "flow": "The model is a flow. It starts from noise and predicts at each step in which "
    "direction the picture lies. The solver goes a short way there, and asks again.",
    "ddpm": "The model is a chain of denoising steps. It starts from noise. At each step it "
    "predicts the noise in what it sees, and a part of that noise is taken away.",
    "dfm": "The model makes pictures from coarse to fine. A small picture comes first and settles "
    "what is shown. Each finer scale joins later and adds details.",
    "meanflow": "The model predicts average velocities. It can go from noise to a picture in one "
    "step or in few.",
}
"""How pictures come about, by the kind of process."""

PAINTING = """Upload a picture, or take the first one that was drawn. Paint over what shall be
drawn anew. The picture is resized and cut to the height and width in the form. At each step, the
model sees the rest of the picture as noisy as what it draws. The rest comes back unchanged.

The model was not trained for this, so a seam may show where both parts meet.
"""

COMPARING = """The nearest of {count:,} training pictures stands beside each picture, mirrored where
that is nearer. The distance is the root mean square of the differences between levels, from 0 to
255. `convflow nearest` tells whether a model copies."""


def about_making(studio: Studio, samples: Samples | None = None, *moments: Moment) -> str:
    """Return what the strips show.

    Args:
        studio: whose model it is.
        samples: that were made; None before.
        moments: the tiles.
    """
    words = MAKING.get(studio.pipe.process.kind, "The model turns noise into pictures.")
    if samples is None:
        return f"{words} Draw pictures to see how they are made."
    steps = ", ".join(str(moment.step) for moment in moments)
    joins = samples.solver.stage_ends(samples.process)[:-1]
    scales = (f" Scale {i} joins after step {end}." for i, end in enumerate(joins, 2))
    told = f"A row is a picture after the steps {steps} of {moments[-1].of}."
    return f"{words}\n\n{told}{''.join(scales)}"


def about_model(studio: Studio) -> str:
    """Return what the model is, as Markdown: its network, process, weights and result card."""
    pipe = studio.pipe
    found, (height, width) = pipe.describe(studio.model), pipe.size
    backbone, solver = found.get("backbone"), pipe.sampling.solver
    rows = {
        "model": f"`{found['name']}`",
        "network": found["family"] + (f" of {backbone}" if backbone else ""),
        "parameters": f"{found['parameters']:,}",
        "process": found["process"]["kind"],
        "classes": f"{pipe.model.num_classes:,}" if pipe.model.num_classes else "none",
        **({"texts": pipe.text.kind} if pipe.text.used else {}),
        "size in training": f"{height} x {width} (height x width)",
        "other sizes": f"multiples of {pipe.multiple}",
        "solver": f"{solver.kind}, {solver.num_steps or 'its own'} steps",
        "weights": f"SHA-256 `{found['sha256'][:16]}`",
    }
    table = _table("property", rows)
    return f"### The model\n\n{table}\n\n### Scores\n\n{_scores(studio.card())}"


def about_nearest(studio: Studio) -> str:
    """Return what the nearest training pictures are."""
    text = COMPARING.format(count=studio.num_compared())
    if studio.looks_at_all():
        return text
    return f"{text} Only the first ones of the set are looked at, fewer of them at larger sizes."


def plain(text: str) -> str:
    """Return Markdown that shows a text as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", text)


def _scores(card: Card | None) -> str:
    """Return a result card as Markdown."""
    if card is None:
        return (
            "The folder of the model holds no result card (`card.json`). `convflow evaluate` "
            "computes scores and writes one."
        )
    lines = ["| score | value | direction |", "|---|---|---|"]
    lines += [f"| {t} | {v:.5g} | {card.direction(t)} |" for t, v in card.scores.items()]
    sampling = card.sampling or {}
    made = [f"{sampling[key]} {key}" for key in ("solver", "steps") if key in sampling]
    guidance = sampling.get("guidance")
    made += [f"guidance {guidance['scale']}"] if isinstance(guidance, dict) else []
    origin = {
        "images": str(card.pictures.get("count", "")),
        "sampling": ", ".join(made),
        "detector": str(card.detector.get("name", "")),
        "compared with": str(card.reference.get("name", "")),
        "convflow": str(card.library.get("version", "")),
    }
    return "\n".join(lines) + "\n\n" + _table("origin", {k: v for k, v in origin.items() if v})


def _table(heading: str, rows: dict[str, str]) -> str:
    lines = (f"| {key} | {value} |" for key, value in rows.items())
    return "\n".join([f"| {heading} | value |", "|---|---|", *lines])
