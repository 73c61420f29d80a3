"""What the fields of settings may hold: ranges as annotations, and their line of help."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

LARGEST_COUNT = 2**53
"""Up to here JSON, float64 and int64 agree about whole numbers."""

Count = Annotated[int, Meta(ge=1, le=LARGEST_COUNT)]
Natural = Annotated[int, Meta(ge=0, le=LARGEST_COUNT)]
Seed = Annotated[int, Meta(ge=0)]
Number = Annotated[int, Meta(ge=1)]
Factor = Annotated[int, Meta(ge=2, le=LARGEST_COUNT)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Share = Annotated[float, Meta(gt=0, le=1)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
NARROWEST, WIDEST = 0.001, 0.288
"""Relative widths of averages; that of equal shares is the square root of 1/12, 0.2887."""
RelativeWidth = Annotated[float, Meta(ge=NARROWEST, le=WIDEST)]
"""Of a power-function average: its standard deviation over the images."""
NotNegative = Annotated[float, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
Side = Annotated[int, Meta(ge=1, le=LARGEST_COUNT, title="side")]
Sides = tuple[Side, ...]
Pixels = Annotated[Sides, Meta(min_length=2, max_length=3)]
"""Height and width in pixels, of videos frames, height and width."""

Width = Annotated[int, Meta(ge=1, le=2**24)]
"""A number of channels, heads or pixels of a network. More than that tells a damaged file."""
TimeScale = Annotated[float, Meta(gt=0, le=1e6)]
"""A factor of the times that a network is told."""
Classes = Annotated[int, Meta(ge=0, le=2**24)]
Depth = Annotated[int, Meta(ge=1, le=256)]
Depths = Annotated[tuple[Depth, ...], Meta(max_length=256)]


def doc(text: str) -> Meta:
    """Return a line of help, for use within an annotation."""
    return Meta(description=text)
