"""The diagrams of the docs: `python scripts/site/diagrams.py` writes docs/images/*.svg anew.

Widths, depths and expansions come from the networks themselves, and the tiles of `dfm_stages` from
`Decomposition`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from convflow.models.dico import DiCo
from convflow.models.fcdm import EXPANSION, FCDM, KERNEL
from convflow.nn.resample import Hourglass
from convflow.processes.decomposition import Decomposition
from scripts.site.svg import Drawing

IMAGES = Path(__file__).resolve().parents[2] / "docs/images"


def flowdcn_block() -> Drawing:
    """Return the block of FlowDCN, from above to below, its condition beside it."""
    d = Drawing(
        680, 600, "FlowDCN's block: deformable convolution, then SwiGLU, each in a residual"
    )
    x, skip, wide = 260, 96, 210
    d.words(x, 20, "features  (B, H, W, D)")
    d.words(565, 20, "time and label  (B, D)")
    d.box(565, 66, 150, 36, "SiLU, linear D → 6D", "told")
    d.arrow((565, 30), (565, 48))
    d.line((565, 84), (565, 508))
    halves = (
        (62, "RMS norm", "deformable convolution\n9 points in each of G groups", "mix"),
        (336, "RMS norm", "SwiGLU\nat every position alone", "dense"),
    )
    for top, norm, work, kind in halves:
        rows = [
            (top, norm, "plain", 32),
            (top + 52, "scale and shift", "told", 32),
            (top + 112, work, kind, 48),
            (top + 172, "gate", "told", 32),
        ]
        for y, words, colour, height in rows:
            d.box(x, y, wide, height, words, colour)
        d.arrow((x, top - 32), (x, top - 16))
        d.arrow((x, top + 16), (x, top + 36))
        d.arrow((x, top + 68), (x, top + 88))
        d.arrow((x, top + 136), (x, top + 156))
        d.arrow((x, top + 188), (x, top + 211))
        d.plus(x, top + 220)
        d.line((x, top - 24), (skip, top - 24), (skip, top + 220))
        d.arrow((skip, top + 220), (x - 9, top + 220))
        for y, told in ((top + 52, "shift, scale"), (top + 172, "gate, zero at first")):
            d.arrow((565, y), (x + wide / 2, y))
            d.words(466, y - 11, told, 12, "quiet")
        d.line((x, top + 229), (x, top + 244))
    d.words(skip - 10, 172, "as it was", 12, "quiet", "end")
    d.arrow((x, 565), (x, 584))
    d.words(x + 14, 585, "features  (B, H, W, D)", anchor="start")
    return d


def dico_u() -> Drawing:
    """Return DiCo's U and its block."""
    d = Drawing(760, 560, "DiCo: a U of three levels, and the block that each stage repeats")
    config = DiCo.Config()
    _draw_u(d, config.depths, "2D", "norm, scale, shift, 3x3")
    d.words(20, 372, "One block of DiCo", 14, anchor="start")
    ratio = f"{config.mlp_ratio:g}D"
    kernel = f"{config.kernel_size}x{config.kernel_size}"
    first = [
        ("layer\nnorm", "plain"), ("scale,\nshift", "told"), ("linear", "dense"),
        (f"depthwise\n{kernel}", "mix"), ("GELU", "plain"), ("channel\nattention", "mix"),
        ("linear", "dense"), ("gate", "told"),
    ]  # fmt: skip
    second = [
        ("layer\nnorm", "plain"), ("scale,\nshift", "told"),
        (f"linear\nD → {ratio}", "dense"), ("GELU", "plain"), (f"linear\n{ratio} → D", "dense"),
        ("gate", "told"),
    ]  # fmt: skip
    _draw_residual(d, 420, first)
    _draw_residual(d, 500, second)
    said = (
        "Channel attention multiplies each channel by a number, from the means over the whole map."
    )
    d.words(380, 546, said, 12, "quiet")
    return d


def fcdm_block() -> Drawing:
    """Return FCDM's U and its block."""
    d = Drawing(760, 490, "FCDM: a U of three levels, and the block that each stage repeats")
    _draw_u(d, FCDM.Config().depths, "D", "3x3, norm, scale, shift, 3x3")
    d.words(20, 372, "One block of FCDM", 14, anchor="start")
    row = [
        (f"depthwise\n{KERNEL}x{KERNEL}", "mix"), ("layer\nnorm", "plain"),
        ("scale,\nshift", "told"), (f"linear\nD → {EXPANSION}D", "dense"),
        ("GELU", "plain"), ("response\nnorm", "mix"), (f"linear\n{EXPANSION}D → D", "dense"),
        ("gate", "told"),
    ]  # fmt: skip
    _draw_residual(d, 420, row)
    said = "Response norm weighs the channels by their size over the whole map, beside each other."
    d.words(380, 474, said, 12, "quiet")
    return d


def _draw_u(d: Drawing, depths: tuple[int, ...], last: str, head: str) -> None:
    """Draw a U of three levels between the heights 0 and 340, with its stem and its head."""
    near, mid, far = (f"{width if width > 1 else ''}D" for width in Hourglass.widths_of(1))
    tops = (76, 176, 276)
    stages = (
        (200, tops[0], 110, near), (270, tops[1], 110, mid), (380, tops[2], 190, far),
        (490, tops[1], 110, mid), (560, tops[0], 110, last),
    )  # fmt: skip
    for (x, y, wide, channels), depth in zip(stages, depths, strict=True):
        d.box(x, y, wide, 44, f"{depth} blocks\n{channels} channels", "mix")
    for number, (y, size) in enumerate(zip(tops, ("H x W", "H/2 x W/2", "H/4 x W/4"), strict=True)):
        d.words(14, y, f"level {number}\n{size}", 12, "quiet", "start")
    for left, upper, lower in ((235, tops[0], tops[1]), (305, tops[1], tops[2])):
        right = 760 - left
        d.arrow((left, upper + 22), (left, lower - 22))
        d.arrow((right, lower - 22), (right, upper + 22))
        d.words(left - 10, upper + 50, "3x3, halve", 12, "quiet", "end")
        d.words(right + 10, upper + 50, "3x3, double", 12, "quiet", "start")
    d.arrow((255, tops[0]), (505, tops[0]))
    d.arrow((325, tops[1]), (435, tops[1]))
    for y, words in ((tops[0], "join: side by side, then linear"), (tops[1], "join")):
        d.words(380, y - 12, words, 12, "quiet")
    d.words(128, 22, "image", anchor="end")
    d.arrow((133, 22), (145, 22))
    d.box(200, 22, 110, 28, "3x3", "dense")
    d.arrow((200, 36), (200, tops[0] - 22))
    d.arrow((560, tops[0] - 22), (560, 36))
    d.box(560, 22, 190, 28, head, "dense")
    d.arrow((655, 22), (667, 22))
    d.words(672, 22, "prediction", anchor="start")
    told = "Each level has embeddings of time and label of its own"
    told += ", and the last stage is told those of level 1." if last == mid else "."
    d.words(380, 326, told, 12, "quiet")


def _draw_residual(d: Drawing, y: float, boxes: list[tuple[str, str]]) -> None:
    """Draw boxes in a row around the height y, with a line above them that skips them."""
    gap, x, end = 10, 28.0, 708.0
    wide = (end - x - gap * (len(boxes) - 1)) / len(boxes)
    d.line((4, y), (x - gap, y))
    for words, kind in boxes:
        d.arrow((x - gap, y), (x, y))
        d.box(x + wide / 2, y, wide, 40, words, kind)
        x += wide + gap
    d.arrow((end, y), (end + 15, y))
    d.plus(end + 24, y)
    d.line((12, y), (12, y - 32), (end + 24, y - 32))
    d.arrow((end + 24, y - 32), (end + 24, y - 9))
    d.arrow((end + 33, y), (end + 50, y))


def dfm_stages() -> Drawing:
    """Return sampling with two scales: the states of both, and what they sum up to."""
    d = Drawing(760, 448, "Decomposable flow matching: the coarse scale first, then both together")
    rows = ((122, "coarse scale\n8x8 cells"), (250, "fine scale\n16x16 cells"), (382, "their sum"))
    for y, words in rows:
        d.words(14, y - 8, words, 12, "quiet", "start")
    parts = Decomposition("laplacian")
    scales = [part[0, 0] for part in parts.split(_face())]
    noises = [_noise(side) for side in (8, 16)]
    places = (150, 285, 420, 555, 690)
    for left, right, words in (
        (0, 2, "stage 1: the coarse scale moves alone"), (2, 4, "stage 2: both move")
    ):  # fmt: skip
        d.arrow((places[left] + 4, 34), (places[right] - 4, 34))
        d.words((places[left] + places[right]) / 2, 20, words)
    for x, times in zip(
        places, ((0.0,), (0.45,), (0.9, 0.0), (0.95, 0.5), (1.0, 1.0)), strict=True
    ):
        states = [
            t * scale + (1 - t) * noise
            for t, scale, noise in zip(times, scales, noises, strict=False)
        ]
        total = parts.join([state[None, None] for state in states])[0, 0]
        for (y, _), state in zip(rows, [*states, *[None] * (2 - len(states)), total], strict=True):
            if state is not None:
                d.tile(x - 46, y - 54, 92, ((state + 1) / 2).tolist())
        for (y, _), t in zip(rows, times, strict=False):
            d.words(x, y + 49, f"t = {t:g}", 12, "quiet")
    d.words(690, 382 + 49, "the image", 12, "quiet")
    return d


def _face() -> torch.Tensor:
    """Return a face of 16x16 cells, (1, 1, 16, 16), from -1 to 1."""
    y, x = torch.meshgrid(torch.arange(16) - 7.5, torch.arange(16) - 7.5, indexing="ij")
    face = torch.where(x**2 + y**2 < 49, 0.8, -0.8)
    eyes = ((x.abs() - 2.5).abs() < 1) & ((y + 2.5).abs() < 1.5)
    mouth = ((x**2 + y**2 - 18).abs() < 5) & (y > 2)
    return torch.where(eyes | mouth, -0.8, face)[None, None]


def _noise(side: int) -> torch.Tensor:
    """Return normal noise of Python's generator, which is the same everywhere."""
    generator = random.Random(side)
    return torch.tensor([[generator.gauss(0, 1) for _ in range(side)] for _ in range(side)])


BENT = (
    (-2.6, -1.3, 5.0), (-0.4, -2.8, 3.5), (1.5, -3.1, 6.5), (-1.4, 0.5, 4.0), (0.3, 0.2, 7.0),
    (3.1, -0.6, 3.5), (-2.9, 2.4, 6.0), (0.6, 1.4, 4.5), (2.4, 2.9, 5.5),
)  # fmt: skip
"""Where nine taps lie after training, in cells, and the radius that stands for their weight; they
are made up."""


def operator() -> Drawing:
    """Return the taps of the deformable operator: at first, bent by training, and one from near."""
    d = Drawing(760, 316, "The deformable operator gathers nine points for every position")
    side, cells = 24, 9
    for left, words in ((12, "a new layer, three groups"), (266, "after training, one group")):
        d.words(left + 108, 18, words, 14)
        for row in range(cells):
            for column in range(cells):
                here = row == column == cells // 2
                d.cell(left + side * column, 36 + side * row, side, "told" if here else "plain")
    grid = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    middle = (12 + side * cells / 2, 36 + side * cells / 2)
    for spacing, kind in ((3, "quiet"), (2, "ink"), (1, "strong")):
        for x, y in grid:
            d.dot(middle[0] + side * spacing * x, middle[1] + side * spacing * y, 4, kind)
    middle = (266 + side * cells / 2, 36 + side * cells / 2)
    for (x, y), (bent_x, bent_y, radius) in zip(grid, BENT, strict=True):
        start = (middle[0] + side * 2 * x, middle[1] + side * 2 * y)
        end = (middle[0] + side * bent_x, middle[1] + side * bent_y)
        d.line(start, end, kind="ink", dash="3 2")
        d.dot(*start, 2, "quiet")
        d.dot(*end, radius)
    d.words(120, 276, "group g of G begins as a grid\nof 3x3, spacing reach x g / G", 12, "quiet")
    d.words(374, 276, "taps have moved; a larger dot\nstands for a larger weight", 12, "quiet")
    _draw_tap(d, 546, 54)
    return d


def _draw_tap(d: Drawing, left: float, top: float) -> None:
    """Draw a tap between the centres of four cells, and the weight of each."""
    side, across, down = 90, 0.3, 0.6
    d.words(left + side, 18, "one tap reads four cells", 14)
    centres = [(x, y) for y in (0, 1) for x in (0, 1)]
    point = (left + side * (0.5 + across), top + side * (0.5 + down))
    for x, y in centres:
        d.cell(left + side * x, top + side * y, side)
    for x, y in centres:
        centre = (left + side * (x + 0.5), top + side * (y + 0.5))
        share = (across if x else 1 - across) * (down if y else 1 - down)
        d.line(centre, point, dash="3 2")
        d.dot(*centre, 3, "ink")
        d.words(centre[0], centre[1] + (20 if y else -18), f"{share:.2f}")
    d.dot(*point, 6)
    d.words(
        left + side, 276, "bilinear weights; what lies\noutside the map counts zero", 12, "quiet"
    )


DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "flowdcn_block": flowdcn_block,
    "dico_u": dico_u,
    "fcdm_block": fcdm_block,
    "dfm_stages": dfm_stages,
    "operator": operator,
}
"""What draws each file of docs/images, by its name without .svg."""


def main() -> None:
    """Write all diagrams."""
    for name, draw in DIAGRAMS.items():
        (IMAGES / f"{name}.svg").write_text(draw().svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
