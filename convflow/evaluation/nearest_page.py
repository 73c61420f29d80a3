"""A page, an image and numbers that show samples beside the training images nearest to them."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from convflow.data.grid import tile
from convflow.evaluation.nearest import CERTAIN, Distance, Nearest, Verdict
from convflow.storage import write_text, writing_file

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em;
  color: #222; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.verdict { padding: .8em 1em; border-left: 6px solid; background: #f6f6f6; }
.copies { border-color: #c62828; } .near { border-color: #ef8f00; } .none { border-color: #2e7d32; }
table { border-collapse: collapse; } td, th { padding: .3em .8em; text-align: left;
  vertical-align: top; border-bottom: 1px solid #ddd; font-size: .9em; }
img { width: 96px; image-rendering: pixelated; border: 1px solid #ccc; }
.copy img:first-child { border: 3px solid #c62828; } td.gap { border-left: 3px solid #888; }
small { color: #555; overflow-wrap: anywhere; display: block; max-width: 12em; }
svg text { font: 12px system-ui, sans-serif; fill: #444; }
svg { max-width: 100%; height: auto; } figure { margin: 0; }
figcaption, caption { color: #555; font-size: .9em; text-align: left; }
"""

WIDTH, HEIGHT, BARS = 640, 120, 40
"""Pixels of a diagram, and bars in it."""
LEFT, TICKS = 40, 4
"""Pixels left of a diagram, for numbers, and parts of its axis of distances."""
TEXT, CELL_GAP = 14, 4
"""Pixels that a line of text takes in the image, and those between its images."""


@dataclass(frozen=True)
class Finding:
    """What one distance found.

    Attributes:
        distance: how it was measured.
        samples, references: their nearest training images.
        copies: which samples are near copies.
        verdict: what follows.
    """

    distance: Distance
    samples: Nearest
    references: Nearest
    copies: list[bool]
    verdict: Verdict


@dataclass(frozen=True)
class NearestPage:
    """Everything a page shows.

    Attributes:
        model: what the samples come from.
        data: where the training images are.
        num_training: their number.
        references: what the references are, in words.
        comparisons: by distance; the rows of the page are those of the last.
        samples: their images (N, C, H, W).
        labels: their labels.
        neighbours: images of the nearest training images (N, K, C, H, W), the last distance's.
        names: of them.
    """

    model: str
    data: str
    num_training: int
    references: str
    comparisons: Sequence[Finding]
    samples: UInt8[Tensor, "N C H W"]
    labels: Sequence[str]
    neighbours: UInt8[Tensor, "N K C H W"]
    names: Sequence[Sequence[str]]

    @property
    def order(self) -> list[int]:
        """Samples by their distance, the nearest to a training image first."""
        return self.comparisons[-1].samples.distances[:, 0].argsort(stable=True).tolist()

    def sentences(self) -> list[str]:
        """Return what was found, in words: a sentence for each distance, and what it rests on."""
        said = [
            _sentence(c.verdict, c.distance, len(self.samples), self.references)
            for c in self.comparisons
        ]
        if all(c.verdict.word == "none" for c in self.comparisons):
            said.append(
                f"Of {len(self.samples)} samples, copies that are fewer than about "
                f"{min(1.0, 3 / len(self.samples)):.0%} of all may be missed."
            )
        return said

    @property
    def word(self) -> str:
        """The verdict of all distances: the gravest."""
        words = {c.verdict.word for c in self.comparisons}
        return next(word for word in ("copies", "near", "none") if word in words)

    def write(self, page: Path) -> list[Path]:
        """Write the page, an image of the same name and the numbers; return their paths."""
        page.parent.mkdir(parents=True, exist_ok=True)
        image, numbers = page.with_suffix(".png"), page.with_suffix(".json")
        write_text(page, self.html())
        with writing_file(image) as draft:
            self.grid().save(draft, format="png")
        write_text(numbers, json.dumps(self.numbers(), indent=2))
        return [page, image, numbers]

    def grid(self) -> Image.Image:
        """Return an image of a row for each sample: the sample, then the nearest, with captions."""
        zoom = max(1, 64 // max(self.samples.shape[2:]))
        high, wide = (zoom * side + CELL_GAP for side in self.samples.shape[2:])
        count, shown = self.neighbours.shape[1] + 1, self.comparisons[-1].samples
        size = (count * wide + CELL_GAP, TEXT + len(self.samples) * (high + TEXT))
        page = Image.new("RGB", size, "white")
        draw, font = ImageDraw.Draw(page), ImageFont.load_default()

        def write(column: int, top: int, text: str) -> None:
            while text and draw.textlength(text, font) > wide - CELL_GAP:
                text = text[:-1]
            draw.text((column * wide + CELL_GAP, top), text, "#444", font)

        for column, title in enumerate(["sample", *map(str, range(1, count))]):
            write(column, 1, title if column != 1 else "nearest")
        for row, i in enumerate(self.order):
            top = TEXT + row * (high + TEXT)
            apart = [f"{float(d):.3g}" for d in shown.distances[i, : count - 1]]
            images = [self.samples[i], *self.neighbours[i]]
            captions = [str(self.labels[i]), *apart]
            for column, (image, text) in enumerate(zip(images, captions, strict=True)):
                place = (column * wide + CELL_GAP, top)
                page.paste(tile(image[None], zoom=zoom, gap=0), place)
                write(column, top + high - CELL_GAP + 1, text)
        return page

    def numbers(self) -> dict[str, Any]:
        """Return what was found, ready for JSON."""
        return {
            "model": self.model,
            "data": self.data,
            "training_images": self.num_training,
            "references": self.references,
            "verdict": self.word,
            "distances": {
                c.distance.name: {
                    "unit": c.distance.unit,
                    **c.verdict._asdict(),
                    "samples": c.samples.distances[:, 0].tolist(),
                    "references": c.references.distances[:, 0].tolist(),
                    "near_copies": c.copies,
                }
                for c in self.comparisons
            },
            "nearest": [list(names) for names in self.names],
        }

    def html(self) -> str:
        """Return the page, which needs no other file."""
        said = "".join(f"<p>{html.escape(line)}</p>" for line in self.sentences())
        shown = self.comparisons[-1]
        rows = "".join(self._row(i, shown) for i in self.order)
        about = (
            f"{len(self.samples)} samples of {self.model} beside the nearest of "
            f"{self.num_training:,} training images ({self.data})."
        )
        diagrams = "".join(
            f"<h2>Distances by {html.escape(c.distance.name)}</h2>{_diagram(c)}"
            for c in self.comparisons
        )
        return (
            "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width'>"
            f"<title>Nearest training images</title><style>{STYLE}</style></head><body>"
            f"<h1>Does the model copy its training images?</h1><p>{html.escape(about)}</p>"
            f"<div class='verdict {self.word}'>{said}</div>{self._table()}{diagrams}"
            "<h2>Samples and the training images nearest to them</h2>"
            f"<p>The nearest pairs come first, by {html.escape(shown.distance.name)} "
            f"({html.escape(shown.distance.unit)}). Near copies have a red frame. Training images "
            "are brought to the size of the samples and cut from the middle; each is also compared "
            "mirrored. A copy of another part of an image, or a rotated one, is not found.</p>"
            "<table><caption>Below a sample stands its label; below a training image its distance "
            f"to the sample and its name.</caption>{self._heads()}"
            f"{rows}</table></body></html>\n"
        )

    def _heads(self) -> str:
        """Return the row of titles: the sample, then training images by rank."""
        others = range(2, self.neighbours.shape[1] + 1)
        titles = ["sample", "nearest training image", *(f"number {k}" for k in others)]
        return f"<tr>{''.join(f'<th>{title}</th>' for title in titles)}</tr>"

    def _row(self, i: int, shown: Finding) -> str:
        mark = " class='copy'" if shown.copies[i] else ""
        cells = [
            f"<td{mark}>{_picture(self.samples[i], 'sample')}"
            f"<small>{_text(self.labels[i])}</small></td>"
        ]
        for k, name in enumerate(self.names[i]):
            apart = float(shown.samples.distances[i, k])
            turned = " (mirrored)" if bool(shown.samples.mirrored[i, k]) else ""
            caption = f"{apart:.3g}{turned}<br>{_text(name)}"
            gap = " class='gap'" if k == 0 else ""
            picture = _picture(self.neighbours[i, k], "training image")
            cells.append(f"<td{gap}>{picture}<small>{caption}</small></td>")
        return f"<tr>{''.join(cells)}</tr>"

    def _table(self) -> str:
        rows = ""
        for c in self.comparisons:
            v = c.verdict
            rows += (
                f"<tr><td>{_text(c.distance.name)}</td>"
                f"<td>{v.num_copies} ({v.copies:.0%})</td><td>{v.copies_expected:.1%}</td>"
                f"<td>{v.closer:.2f} &plusmn; {v.error:.2f}</td>"
                f"<td>{v.median:.3g}</td><td>{v.median_expected:.3g}</td></tr>"
            )
        return (
            "<h2>Numbers</h2><table><tr><th>distance by</th><th>near copies</th>"
            "<th>near copies among references</th><th>nearer than a reference (0.5 = like unseen "
            "images)</th><th>median distance of samples</th><th>of references</th></tr>"
            f"{rows}</table><p>References: {html.escape(self.references)}.</p>"
        )


def _sentence(verdict: Verdict, distance: Distance, num: int, references: str) -> str:
    """Return what one distance found."""
    v = verdict
    if v.word == "copies":
        return (
            f"By {distance.name}, the model copies: {v.num_copies} of {num} samples are near "
            f"copies of a training image, beside {v.copies_expected:.1%} of the references "
            f"({references})."
        )
    if v.word == "near":
        return (
            f"By {distance.name}, the model begins to memorise: samples lie nearer to the training "
            f"images than references do ({references}), in {v.closer:.0%} of the pairs where 50% "
            f"would be expected. Its {v.num_copies} near copies are too few to call it copying."
        )
    if 0.5 - v.closer > CERTAIN * v.error:
        return (
            f"By {distance.name}, no sign of copies: samples lie farther from the training images "
            f"than references do ({references}), as those of a model that is not good yet."
        )
    if CERTAIN * v.error >= 0.5:
        return f"By {distance.name}, {num} samples are too few to tell; draw more with --num."
    return (
        f"By {distance.name}, no sign of copies: samples are as far from the training images as "
        f"references are ({references})."
    )


def _diagram(comparison: Finding) -> str:
    """Return bars of how many samples, and below how many references, have which distance."""
    both = [n.distances[:, 0].double() for n in (comparison.samples, comparison.references)]
    high = max(float(part.max()) for part in both) or 1.0
    drawn, middle, right = "", HEIGHT // 2, LEFT + WIDTH
    for part, colour, up in zip(both, ("#c62828", "#1565c0"), (True, False), strict=True):
        counts = torch.histc(part, BARS, 0, high)
        for k, share in enumerate((counts / counts.max()).tolist()):
            tall = share * (middle - 16)
            y = middle - tall if up else middle
            drawn += (
                f"<rect x='{LEFT + k * WIDTH / BARS:.1f}' y='{y:.1f}' "
                f"width='{WIDTH / BARS - 1:.1f}' height='{tall:.1f}' fill='{colour}'/>"
            )
        y = 20 if up else HEIGHT - 12
        drawn += f"<text x='{LEFT - 6}' y='{y}' text-anchor='end'>{int(counts.max())}</text>"
    drawn += f"<text x='{LEFT - 6}' y='{middle + 4}' text-anchor='end'>0</text>"
    drawn += f"<path d='M{LEFT} 8V{HEIGHT - 8}M{LEFT} {middle}H{right}' stroke='#888'/>"
    for k in range(TICKS + 1):
        x, anchor = LEFT + k * WIDTH // TICKS, ("start", "middle", "end")[(k > 0) + (k == TICKS)]
        drawn += f"<path d='M{x} {middle - 3}v6' stroke='#888'/>"
        drawn += (
            f"<text x='{x}' y='{HEIGHT + 10}' text-anchor='{anchor}'>{high * k / TICKS:.3g}</text>"
        )
    name, unit = html.escape(comparison.distance.name), html.escape(comparison.distance.unit)
    return (
        f"<figure><svg viewBox='0 0 {right + 8} {HEIGHT + 32}' width='{right + 8}' role='img' "
        f"aria-label='numbers of images by distance'>{drawn}"
        f"<text x='{LEFT + 8}' y='12' style='fill:#c62828'>samples</text>"
        f"<text x='{LEFT + 8}' y='{HEIGHT - 4}' style='fill:#1565c0'>references</text>"
        f"<text x='{LEFT + WIDTH // 2}' y='{HEIGHT + 26}' text-anchor='middle'>distance to the "
        f"nearest training image ({unit})</text></svg>"
        f"<figcaption>Number of images by their distance to the nearest training image, by {name}: "
        "samples above the axis, references below it.</figcaption></figure>"
    )


def _picture(image: UInt8[Tensor, "C H W"], what: str) -> str:
    data = io.BytesIO()
    tile(image[None], gap=0).save(data, format="png")
    content = base64.b64encode(data.getvalue()).decode()
    return f"<img alt='{what}' src='data:image/png;base64,{content}'>"


def _text(text: object) -> str:
    return html.escape(str(text))
