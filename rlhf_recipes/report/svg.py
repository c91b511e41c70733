"""Draws charts as SVG text. Colours are CSS classes, so that one drawing serves light, dark and print.

Every series differs from the others in colour, in dash and in the shape of its markers: none relies on colour alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

WIDTH, HEIGHT = 420, 250  # user units; narrow, so that the text stays legible on a phone
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 10, 38
POINTS = 300  # a line keeps so many; each is a mean, with a band from least to most

# After the palette of Okabe and Ito (2008): apart for any colour vision; darker on white, lighter on black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#8a4f7d", "#56b4e9", "#b07d00", "#333333", "#cc79a7")
DARK_PALETTE = ("#56b4e9", "#ff8c42", "#2fc796", "#d9a0cc", "#9fd3f2", "#f0c142", "#cccccc", "#f2a7c3")
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 2", "1 4", "6 2 1 2")
MARKERS = ("circle", "square", "up", "diamond", "down", "cross", "circle", "square")
STYLES = 3 * len(DASHES)  # from the ninth on a colour comes again, with another dash and another marker
LEGEND_COLUMNS = 4  # of a drawing that is a file of its own


@dataclass(frozen=True)
class Line:
    """One series of a line chart. `low` and `high` bound its band; `marked` draws a marker at every point."""

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    marked: bool = False


@dataclass(frozen=True)
class Drawing:
    """An SVG and what its frame means: data limits `(x0, x1, y0, y1)`, read by the page's script for the readout."""

    svg: str
    limits: tuple[float, float, float, float]

    def standalone(self, legend: Sequence[str] = ()) -> str:
        """The drawing as a file of its own, in the light palette, with its legend above."""
        room = 22 * math.ceil(len(legend) / LEGEND_COLUMNS) if len(legend) > 1 else 0
        style = f"text{{font:12px system-ui,sans-serif;fill:#333}}{styles(PALETTE)}"
        width = (WIDTH - LEFT) / max(min(len(legend), LEGEND_COLUMNS), 1)
        cells = [divmod(i, LEGEND_COLUMNS) for i in range(len(legend))]
        places = [f"translate({LEFT + column * width:.0f} {22 * row - room})" for row, column in cells]
        keys = [
            f'<g transform="{place}">{_key(i)}<text x="40" y="11">{escape(label)}</text></g>'
            for i, (place, label) in enumerate(zip(places, legend, strict=True))
        ]
        inner = self.svg.partition(">")[2].removesuffix("</svg>")
        box = f'viewBox="0 {-room} {WIDTH} {HEIGHT + room}" width="{WIDTH * 1.3:.0f}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {box}>'
            f'<style>{style}</style><rect y="{-room}" width="{WIDTH}" height="{HEIGHT + room}" fill="#fff"/>'
            f"{''.join(keys) if room else ''}{inner}</svg>"
        )


def styles(palette: Sequence[str]) -> str:
    """CSS of the charts' classes: `s<i>` strokes, `f<i>` fills, and the parts they share."""
    shared = ".grid{stroke:#8884}.axis,.ref{stroke:#888}.ref{stroke-dasharray:4 3}.line{fill:none;stroke-width:2}"
    shared += ".band{opacity:.16}"
    return shared + "".join(
        f".s{i}{{stroke:{palette[i % len(palette)]};stroke-dasharray:{DASHES[_shape(i)] or 'none'}}}"
        f".f{i}{{fill:{palette[i % len(palette)]}}}"
        for i in range(STYLES)
    )


def _shape(style: int) -> int:
    """Which dash and marker: they move on by one each time the colours begin again."""
    return (style + style // len(DASHES)) % len(DASHES)


def downsample(xs: Sequence[float], ys: Sequence[float], points: int = POINTS) -> Line:
    """Means over equal runs of neighbours, with the least and the most of each run as the band."""
    if len(xs) <= points:
        return Line("", list(xs), list(ys))
    cuts = np.linspace(0, len(xs), points + 1).astype(int)
    x, y = np.asarray(xs, float), np.asarray(ys, float)
    sizes = np.diff(cuts)
    return Line(
        "",
        (np.add.reduceat(x, cuts[:-1]) / sizes).tolist(),
        (np.add.reduceat(y, cuts[:-1]) / sizes).tolist(),
        np.minimum.reduceat(y, cuts[:-1]).tolist(),
        np.maximum.reduceat(y, cuts[:-1]).tolist(),
    )


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


def number(value: float) -> str:
    """A tick's label.

    >>> number(0.0002), number(1.5), number(12000)
    ('2e-4', '1.5', '12k')
    """
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.0e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}") if text.startswith("-") else text


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    references: Sequence[tuple[float, str]] = (),
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    integer_x: bool = False,
) -> Drawing:
    """Lines over a common axis.

    Args:
        lines: at most STYLES differ in style; a further one begins again.
        x_label: under the axis.
        y_label: unit, above the axis.
        references: horizontal lines `(y, label)`.
        y_range: fixed limits; None fits the lines and the references.
        x_range: fixed limits; None fits.
        diagonal: draw y = x.
        integer_x: steps, of which there are no halves.
    """
    xs = [x for line in lines for x in line.xs]
    ys = [y for line in lines for band in (line.ys, line.low, line.high) if band is not None for y in band]
    x0, x1 = x_range or _limits(xs, pad=0)
    y0, y1 = y_range or _limits([*ys, *(y for y, _ in references)], pad=0.06)
    frame = _Frame(x0, x1, y0, y1)
    parts = frame.axes(x_label, y_label, integer_x)
    if diagonal:
        low, high = max(x0, y0), min(x1, y1)
        parts.append(f'<path class="ref" d="M{frame.at(low, low)}L{frame.at(high, high)}"/>')
    for y, _ in references:
        parts.append(f'<path class="ref" d="M{frame.at(x0, y)}L{frame.at(x1, y)}"/>')
    for i, line in enumerate(lines):
        style = i % STYLES
        if line.low is not None and line.high is not None and len(line.xs) > 1 and not line.marked:
            upper = [frame.at(x, y) for x, y in zip(line.xs, line.high, strict=True)]
            lower = [frame.at(x, y) for x, y in zip(line.xs, line.low, strict=True)]
            parts.append(f'<path class="band f{style}" d="M{"L".join(upper)}L{"L".join(reversed(lower))}Z"/>')
        if line.low is not None and line.marked:  # error bars
            for x, low, high in zip(line.xs, line.low, line.high, strict=True):
                bar = f"M{frame.at(x, low)}L{frame.at(x, high)}"
                parts.append(f'<path class="line s{style}" style="stroke-dasharray:none" d="{bar}"/>')
        path = "L".join(frame.at(x, y) for x, y in zip(line.xs, line.ys, strict=True))
        parts.append(f'<path class="line s{style}" data-label="{escape(line.label)}" d="M{path}"/>')
        if line.marked or len(line.xs) < 25:
            parts += [marker(frame.x(x), frame.y(y), style) for x, y in zip(line.xs, line.ys, strict=True)]
    for y, label in references:
        parts.append(f'<text class="label" x="{LEFT + 4}" y="{frame.y(y) - 5:.1f}">{escape(label)}</text>')
    return frame.drawing(parts)


def histogram(groups: Sequence[tuple[str, Sequence[float]]], *, x_label: str, bins: int = 30) -> Drawing:
    """Outlined, faintly filled histograms over common bins; heights are shares of each group, 0 to 1."""
    every = np.concatenate([np.asarray(values, float) for _, values in groups])
    low, high = _limits(every.tolist(), pad=0)
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(values, edges)[0] / max(len(values), 1) for _, values in groups]
    frame = _Frame(low, high, 0.0, float(max(s.max() for s in shares)) * 1.08)
    parts = frame.axes(x_label, "share", False)
    for i, share in enumerate(shares):
        steps = [frame.at(edges[0], 0)]
        for left, right, height in zip(edges[:-1], edges[1:], share, strict=True):
            steps += [frame.at(left, height), frame.at(right, height)]
        steps.append(frame.at(edges[-1], 0))
        parts.append(f'<path class="band f{i % STYLES}" d="M{"L".join(steps)}Z"/>')
        parts.append(f'<path class="line s{i % STYLES}" d="M{"L".join(steps)}"/>')
    return frame.drawing(parts)


def swatch(style: int) -> str:
    """A short piece of a series' line with its marker, for the legend."""
    return f'<svg class="swatch" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">{_key(style)}</svg>'


def _key(style: int) -> str:
    style %= STYLES
    return f'<path class="line s{style}" d="M1 7L33 7"/>{marker(17, 7, style)}'


def marker(x: float, y: float, style: int) -> str:
    """A filled marker; its shape tells the series apart where colour does not."""
    r = 3.2
    shapes = {
        "square": f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}Z",
        "up": f"M{x:.1f} {y - r * 1.2:.1f}l{r * 1.2:.1f} {2 * r}h{-2.4 * r:.1f}Z",
        "down": f"M{x:.1f} {y + r * 1.2:.1f}l{r * 1.2:.1f} {-2 * r}h{-2.4 * r:.1f}Z",
        "diamond": f"M{x:.1f} {y - 4.5:.1f}l4.5 4.5l-4.5 4.5l-4.5 -4.5Z",
        "cross": f"M{x - r:.1f} {y - 1:.1f}h{2 * r}v2h{-2 * r}ZM{x - 1:.1f} {y - r:.1f}h2v{2 * r}h-2Z",
    }
    shape = MARKERS[_shape(style)]
    if shape == "circle":
        return f'<circle class="f{style}" cx="{x:.1f}" cy="{y:.1f}" r="{r}"/>'
    return f'<path class="f{style}" d="{shapes[shape]}"/>'


def _limits(values: Sequence[float], pad: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
    least = 0.02 * max(abs(low), abs(high)) or 1.0  # do not blow up what hardly moves, nor write its ticks in full
    if high - low < least:
        middle = (low + high) / 2
        return middle - least / 2, middle + least / 2
    margin = (high - low) * pad
    return low - margin, high + margin


@dataclass(frozen=True)
class _Frame:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x0) / (self.x1 - self.x0) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y0) / (self.y1 - self.y0) * (HEIGHT - TOP - BOTTOM)

    def at(self, x: float, y: float) -> str:
        return f"{self.x(x):.1f} {self.y(y):.1f}"

    def axes(self, x_label: str, y_label: str, integer_x: bool) -> list[str]:
        parts = []
        for tick in ticks(self.y0, self.y1):
            y = self.y(tick)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
            parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{number(tick)}</text>')
        for tick in ticks(self.x0, self.x1):
            if integer_x and tick != int(tick):
                continue
            anchor = "end" if self.x(tick) > WIDTH - RIGHT - 12 else "middle"
            parts.append(
                f'<text x="{self.x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="{anchor}">{number(tick)}</text>'
            )
        parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            centre = (TOP + HEIGHT - BOTTOM) / 2
            turned = f'transform="rotate(-90 10 {centre:.0f})"'
            parts.append(f'<text x="10" y="{centre:.0f}" {turned} text-anchor="middle">{escape(y_label)}</text>')
        return parts

    def drawing(self, parts: list[str]) -> Drawing:
        svg = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        return Drawing(svg, (self.x0, self.x1, self.y0, self.y1))
