"""A drawing of boxes, arrows and words as SVG, in colours that suit a light and a dark page.

Colours are CSS variables. Without a page around it a drawing follows the reader's system; on the
site, `docs/stylesheets/extra.css` sets the variables for the palette of the page.
"""

from __future__ import annotations

from html import escape

LIGHT = {
    "ink": "#1e293b", "quiet": "#64748b", "line": "#64748b", "plain": "#f1f5f9", "mix": "#cfe3fb",
    "dense": "#d3f0dc", "told": "#fdeac4", "paper": "#ffffff", "strong": "#d9480f",
}  # fmt: skip
DARK = {
    "ink": "#e2e8f0", "quiet": "#9aa8bc", "line": "#8494aa", "plain": "#2b3446", "mix": "#1f4a7a",
    "dense": "#1f5a3a", "told": "#6b4e16", "paper": "#1b2230", "strong": "#ff9a5c",
}  # fmt: skip
"""Words, notes and lines; boxes in general, that mix positions, that mix channels, and that tell
time and label; the ground of a picture; what is pointed at."""

RADIUS, HEAD = 6, 7
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"

Point = tuple[float, float]


def variables(colours: dict[str, str]) -> str:
    """Return colours as declarations of CSS variables."""
    return "".join(f"--{name}:{value};" for name, value in colours.items())


STYLE = (
    f".diagram{{{variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{.diagram{{{variables(DARK)}}}}}"
    f".diagram text{{fill:var(--ink);font-family:{FONT};}}"
)


class Drawing:
    """A picture that grows by shapes; y points down, the unit is the pixel.

    Args:
        width: of the picture.
        height: of the picture.
        title: what it shows, for readers that cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.shapes: list[str] = []

    def box(self, x: float, y: float, w: float, h: float, words: str, kind: str = "plain") -> None:
        """Add a box around the centre (x, y), with lines of words in it."""
        place = f'x="{_n(x - w / 2)}" y="{_n(y - h / 2)}" width="{_n(w)}" height="{_n(h)}"'
        self.shapes.append(
            f'<rect {place} rx="{RADIUS}" fill="var(--{kind})" stroke="var(--line)"/>'
        )
        self.words(x, y, words)

    def words(
        self,
        x: float,
        y: float,
        words: str,
        size: float = 13,
        kind: str = "ink",
        anchor: str = "middle",
    ) -> None:
        """Add lines of words whose middle is at the height y."""
        lines = words.split("\n")
        top = y - (len(lines) - 1) * size * 0.62 + size * 0.35
        for number, line in enumerate(lines):
            style = f"font-size:{_n(size)}px;fill:var(--{kind})"
            self.shapes.append(
                f'<text x="{_n(x)}" y="{_n(top + number * size * 1.24)}" style="{style}" '
                f'text-anchor="{anchor}">{escape(line)}</text>'
            )

    def line(self, *points: Point, kind: str = "line", width: float = 1.4, dash: str = "") -> None:
        """Add a line through points."""
        path = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        self.shapes.append(
            f'<polyline points="{path}" fill="none" stroke="var(--{kind})" '
            f'stroke-width="{_n(width)}"{dashes}/>'
        )

    def arrow(self, *points: Point, kind: str = "line", width: float = 1.4, dash: str = "") -> None:
        """Add a line through points with a head at the last one."""
        (x0, y0), (x, y) = points[-2:]
        length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5
        along = ((x - x0) / length, (y - y0) / length)
        neck = (x - HEAD * along[0], y - HEAD * along[1])
        aside = (-along[1] * HEAD / 2, along[0] * HEAD / 2)
        self.line(*points[:-1], neck, kind=kind, width=width, dash=dash)
        corners = [(x, y)]
        corners += [(neck[0] + sign * aside[0], neck[1] + sign * aside[1]) for sign in (1, -1)]
        path = " ".join(f"{_n(px)},{_n(py)}" for px, py in corners)
        self.shapes.append(f'<polygon points="{path}" fill="var(--{kind})"/>')

    def dot(self, x: float, y: float, radius: float, kind: str = "strong") -> None:
        """Add a filled circle."""
        self.shapes.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(radius)}" fill="var(--{kind})"/>'
        )

    def plus(self, x: float, y: float) -> None:
        """Add the sign of a sum: a circle with a plus in it."""
        self.shapes.append(
            f'<circle cx="{_n(x)}" cy="{_n(y)}" r="9" fill="var(--paper)" stroke="var(--line)"/>'
        )
        self.line((x - 5, y), (x + 5, y), kind="ink")
        self.line((x, y - 5), (x, y + 5), kind="ink")

    def cell(self, x: float, y: float, side: float, kind: str = "plain") -> None:
        """Add a square cell of a grid, (x, y) its upper left corner."""
        self.shapes.append(
            f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(side)}" height="{_n(side)}" '
            f'fill="var(--{kind})" stroke="var(--line)" stroke-width="0.5"/>'
        )

    def tile(self, x: float, y: float, side: float, shades: list[list[float]]) -> None:
        """Add a picture of grey cells, (x, y) its upper left corner; 0 is black and 1 white.

        It has sixteen greys, and all cells of one grey are one path.
        """
        paths: dict[int, str] = {}
        for row, values in enumerate(shades):
            for column, value in enumerate(values):
                grey = 17 * round(15 * min(max(value, 0), 1))
                paths[grey] = paths.get(grey, "") + f"M{column} {row}h1v1h-1z"
        place = f"translate({_n(x)} {_n(y)}) scale({_n(side / len(shades))})"
        self.shapes += [
            f'<g transform="{place}" shape-rendering="crispEdges">',
            *(f'<path fill="#{3 * f"{grey:02x}"}" d="{path}"/>' for grey, path in paths.items()),
            "</g>",
        ]

    def svg(self) -> str:
        """Return the picture as the text of an SVG file."""
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
                f'class="diagram" role="img" width="{self.width}" height="{self.height}">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style>",
                *self.shapes,
                "</svg>\n",
            ]
        )


def _n(number: float) -> str:
    """Return a number with at most two digits behind the point."""
    return f"{round(number, 2):g}"
