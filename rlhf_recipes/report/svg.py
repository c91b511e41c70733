"""Lays charts out: from numbers to positions. chart.svg draws them, with colours and dashes by CSS class (chart.css).

Every series differs from the others in colour, in dash and in the shape of its markers: none relies on colour alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 420, 250  # user units; narrow, so that the text stays legible on a phone
LEFT, RIGHT, TOP, BOTTOM = 64, WIDTH - 12, 10, HEIGHT - 38  # of the frame
POINTS = 300  # a longer line is averaged down to so many, with a band from the least to the most


class Line(NamedTuple):
    """One series. `low` and `high` bound its band; `marked` draws a marker, and error bars, at every point."""

    label: str  # empty: the outline of a histogram, filled, in which the reader is not to read values off
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marked: bool = False


class Drawing(NamedTuple):
    """A chart, laid out. `limits` are the data's at the frame: x0, x1, y0, y1."""

    lines: Sequence[Line]
    limits: tuple[float, float, float, float]
    x_label: str
    y_label: str
    references: Sequence[tuple[float, str]] = ()  # horizontal lines: value and label
    diagonal: bool = False  # draw y = x

    def x(self, value: float) -> float:
        """Where a value lies from the left."""
        return LEFT + (value - self.limits[0]) / (self.limits[1] - self.limits[0]) * (RIGHT - LEFT)

    def y(self, value: float) -> float:
        """Where a value lies from the top."""
        return BOTTOM - (value - self.limits[2]) / (self.limits[3] - self.limits[2]) * (BOTTOM - TOP)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
        """Where points lie, "x y" each; none where there are no ys."""
        return [f"{self.x(x):.1f} {self.y(y):.1f}" for x, y in zip(xs, ys, strict=True)] if len(ys) else []

    @property
    def x_ticks(self) -> list[float]:
        """Of "step" there are no halves."""
        return [tick for tick in ticks(*self.limits[:2]) if self.x_label != "step" or tick == int(tick)]

    @property
    def y_ticks(self) -> list[float]:
        return ticks(*self.limits[2:])


def downsample(label: str, xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> Line:
    """A line of means over equal runs of neighbours, with the least and the most of each run as its band."""
    if len(xs) <= points:
        return Line(label, list(xs), list(ys))
    cuts = np.linspace(0, len(xs), points + 1).astype(int)
    starts, sizes = cuts[:-1], np.diff(cuts)
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    means = [(np.add.reduceat(values, starts) / sizes).tolist() for values in (x, y)]
    return Line(label, *means, np.minimum.reduceat(y, starts).tolist(), np.maximum.reduceat(y, starts).tolist())


def line_chart(
    lines: Sequence[Line], x_label: str, y_label: str = "", *, references=(), limits=None, diagonal=False
) -> Drawing:
    """Lines over a common axis. The arguments are those of `Drawing`; limits None fit the lines and the references."""
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for band in (line.ys, line.low, line.high) for y in band] + [y for y, _ in references]
    limits = limits or (*_fitted(xs, margin=0), *_fitted(ys, margin=0.06))
    return Drawing(lines, limits, x_label, y_label, references, diagonal)


def histogram(groups: Sequence[Sequence[float]], x_label: str, bins: int = 30) -> Drawing:
    """Histograms over common bins; heights are shares of each group, 0 to 1."""
    low, high = _fitted([value for values in groups for value in values], margin=0)
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(np.asarray(values, float), edges)[0] / max(len(values), 1) for values in groups]
    lines = [Line("", np.repeat(edges, 2), [0, *np.repeat(share, 2), 0]) for share in shares]
    return Drawing(lines, (low, high, 0.0, float(max(share.max() for share in shares)) * 1.08), x_label, "share")


def _fitted(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
    least = 0.02 * max(abs(low), abs(high)) or 1.0  # a line that hardly moves is not blown up
    if high - low < least:
        return (low + high - least) / 2, (low + high + least) / 2
    return low - (high - low) * margin, high + (high - low) * margin


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers that cover the range: steps of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 10)
    [0, 2, 4, 6, 8, 10]
    """
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if raw <= power * m * 1.0001)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]
