"""Drawing: what is kept of a long series, where ticks fall, and that odd data still gives a chart."""

import re
from xml.etree import ElementTree

import pytest

from rlhf_recipes.report import svg
from rlhf_recipes.report.pages import TEMPLATES
from rlhf_recipes.report.svg import Line

CHART = TEMPLATES.get_template("chart.svg").module


def test_downsampling_keeps_mean_least_and_most():
    thin = svg.downsample("a", range(8), [0, 2, 4, 6, 1, 1, 3, 7], points=2)
    assert (thin.xs, thin.ys, thin.low, thin.high) == ([1.5, 5.5], [3.0, 3.0], [0.0, 1.0], [6.0, 7.0])
    assert svg.downsample("a", [1, 2], [3, 4]).low == ()


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (-3, 7, [-2, 0, 2, 4, 6]), (0.031, 0.049, [0.035, 0.04, 0.045])],
)
def test_ticks_are_round_and_inside(low, high, expected):
    assert svg.ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    "ys", [[5.0, 5.0, 5.0], [0.0, 0.0, 0.0], [1e-9, 2e-9, 3e-9], [-1e6, 0, 1e6], [1e30, 2e30, 3e30]]
)
def test_any_finite_series_is_drawn_inside_the_frame(ys):
    drawn = str(CHART.inner(svg.line_chart([Line("a", [1, 2, 3], ys)], "step")))
    path = re.search(r'data-label="a" d="M([^"]+)"', drawn)[1]
    points = [tuple(map(float, pair.split())) for pair in path.split("L")]
    assert all(svg.LEFT <= x <= svg.WIDTH and 0 <= y <= svg.HEIGHT for x, y in points)


def test_a_line_that_hardly_moves_is_not_blown_up():
    drawing = svg.line_chart([Line("beta", [1, 2], [0.02, 0.019994])], "step")
    assert drawing.limits[3] - drawing.limits[2] == pytest.approx(0.0004)


def test_labels_are_escaped_and_a_file_of_its_own_is_xml():
    drawing = svg.line_chart([Line("<a&b>", [1, 2], [1, 2]), Line("c", [1, 2], [2, 1])], "<step>")
    assert "<a&b>" not in CHART.inner(drawing)
    root = ElementTree.fromstring(CHART.standalone(drawing, ("<a&b>", "c")))
    assert any(text.text == "<a&b>" for text in root.iter("{http://www.w3.org/2000/svg}text"))


def test_every_line_up_to_twentyfour_has_a_look_of_its_own():
    drawing = svg.line_chart([Line(f"run {i}", [0, 1], [i, i + 1]) for i in range(24)], "step")
    lines = re.findall(r'class="line (c\d d\d)" data-label', str(CHART.inner(drawing)))
    assert len(set(lines)) == 24
    marks = re.findall(r'class="mark (c\d) d\d" transform="[^"]+" d="([^"]+)"', str(CHART.inner(drawing)))
    assert len({(colour, shape) for colour, shape in marks[:16]}) == len({colour for colour, _ in marks[:16]}) == 8
    alone = str(CHART.standalone(drawing, [line.label for line in drawing.lines]))
    places = re.findall(r'<g transform="translate\((\d+) (-?\d+)\)">', alone)
    assert len(set(places)) == 24 and len({x for x, _ in places}) == 4


def test_histogram_heights_are_shares_of_each_group():
    drawing = svg.histogram([[0.0, 1.0], [0.0] * 30 + [1.0] * 10], "score", bins=2)
    assert drawing.limits[3] == pytest.approx(0.75 * 1.08)
