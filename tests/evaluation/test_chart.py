"""The chart read back: marks against the tick labels beside them."""

import math
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from t2i_jax.evaluation.chart import (
  PALETTE,
  Series,
  line_chart,
  log_ticks,
  panels,
  ramp,
  ticks,
)

SVG = "{http://www.w3.org/2000/svg}"


def parse(**options):
  options = {"title": "Loss", "x_label": "step", "y_label": "loss", **options}
  return ET.fromstring(line_chart(options.pop("series"), **options))


def axis(root, name, coordinate):
  """(pixel, value) of each tick label of an axis."""
  found = [t for t in root.iter(f"{SVG}text") if t.get("class") == name]
  return [(float(t.get(coordinate)), float(t.text.replace("%", ""))) for t in found]


def line_points(root):
  return [
    np.array([[float(v) for v in p.split(",")] for p in line.get("points").split()])
    for line in root.iter(f"{SVG}polyline")
  ]


def read_back(pixels, marks, log=False):
  """Data values of pixel positions, from the tick labels alone."""
  at, value = np.array(sorted(marks)).T
  slope, offset = np.polyfit(at, np.log(value) if log else value, 1)
  found = slope * np.asarray(pixels) + offset
  return np.exp(found) if log else found


@pytest.mark.parametrize("log_y", [False, True])
def test_line_agrees_with_tick_labels(log_y):
  x = np.linspace(0, 2000, 40)
  y = 0.9 * np.exp(-x / 700) + 0.02
  root = parse(series=[Series("train", x, y)], log_y=log_y)
  (points,) = line_points(root)
  assert read_back(points[:, 0], axis(root, "x-tick", "x")) == pytest.approx(x, abs=3)
  # Labels sit 4 px below their line so that they are centred on it.
  marks = [(at - 4, value) for at, value in axis(root, "y-tick", "y")]
  assert read_back(points[:, 1], marks, log_y) == pytest.approx(y, rel=0.02, abs=0.002)


def test_logarithmic_x_axis_agrees_with_its_labels():
  x = np.geomspace(4, 256, 7)
  root = parse(series=[Series("a", [0.0, *x], [1.0, *x])], log_x=True)
  (points,) = line_points(root)
  assert len(points) == 7  # zero has no place
  assert read_back(points[:, 0], axis(root, "x-tick", "x"), True) == pytest.approx(x, rel=0.01)


def test_lines_are_cut_off_at_limits():
  root = parse(series=[Series("a", [0, 5, 10], [0, 50, 1])], x_limits=(2, 8), y_limits=(0, 2))
  (window,) = root.findall(f"{SVG}svg")
  x, y, width, height = (float(window.get(k)) for k in ("x", "y", "width", "height"))
  assert window.get("viewBox") == f"{x:g} {y:g} {width:g} {height:g}"
  marks = axis(root, "x-tick", "x")
  assert read_back([x + 4, x + width - 4], marks) == pytest.approx([2, 8], abs=0.02)
  marks = [(at - 4, value) for at, value in axis(root, "y-tick", "y")]
  assert read_back([y + height - 4, y + 4], marks) == pytest.approx([0, 2], abs=0.02)


def test_a_chart_without_legend_gives_its_room_to_the_lines():
  line = Series("a long name of a line", [0, 1], [1, 2], dash="5 3")
  wide, narrow = (parse(series=[line], legend=legend) for legend in (False, True))
  assert line_points(wide)[0][:, 0].max() > line_points(narrow)[0][:, 0].max() + 100
  assert not [t for t in wide.iter(f"{SVG}text") if t.get("class") == "key"]
  dashed = [e.tag for e in narrow.iter() if e.get("stroke-dasharray") == "5 3"]
  assert sorted(dashed) == [f"{SVG}path", f"{SVG}polyline"]


def test_panels_do_not_overlap():
  sizes = ((400, 300), (560, 300), (420, 200))
  charts = [
    line_chart(
      [Series("a", [0, 1], [1, 2])], title="", x_label="", y_label="", width=width, height=height
    )
    for width, height in sizes
  ]
  root = ET.fromstring(panels(charts, 2))
  places = [(int(c.get("x")), int(c.get("y"))) for c in root if c.get("class") == "chart"]
  assert places == [(0, 0), (420, 0), (0, 300)]
  assert (root.get("width"), root.get("height")) == ("980", "500")


def test_legend_names_every_line_in_its_colour():
  root = parse(series=[Series("train", [0, 1], [1, 2]), Series("a < b", [0, 1], [2, 3])])
  keys = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "key"]
  assert keys == ["train", "a < b"]
  lines = [line.get("stroke") for line in root.iter(f"{SVG}polyline")]
  assert lines == list(PALETTE[:2])
  assert all(sum(e.get("stroke") == c for e in root.iter(f"{SVG}path")) == 1 for c in lines)


def test_points_that_cannot_be_drawn_are_left_out():
  y = [1.0, math.nan, math.inf, 0.0, -1.0, 0.5]
  (points,) = line_points(parse(series=[Series("a", range(6), y)], log_y=True))
  assert len(points) == 2
  (points,) = line_points(parse(series=[Series("a", range(6), y)]))
  assert len(points) == 4


def test_nothing_to_draw_is_an_error():
  with pytest.raises(ValueError, match="'Loss'"):
    parse(series=[Series("a", [], []), Series("b", [1], [math.nan])])


def test_a_single_point_is_drawn():
  root = parse(series=[Series("a", [100], [0.3])], log_y=True)
  assert len(list(root.iter(f"{SVG}circle"))) == 1


def test_long_lines_are_averaged_down():
  x = np.arange(50_000)
  (points,) = line_points(parse(series=[Series("a", x, np.sin(x) + 2)]))
  assert len(points) <= 300
  assert (np.diff(points[:, 0]) > 0).all()
  assert np.ptp(points[:, 1]) < 230


def test_band_encloses_its_line_and_percent_axis_reads_in_hundredths():
  line = Series("a", [1, 2, 3], [0.2, 0.5, 0.6], [0.1, 0.4, 0.5], [0.3, 0.6, 0.7])
  root = parse(series=[line], percent=True, y_limits=(0.0, 1.0))
  (band,) = root.iter(f"{SVG}polygon")
  edge = np.array([[float(v) for v in p.split(",")] for p in band.get("points").split()])
  marks = [(at - 4, value) for at, value in axis(root, "y-tick", "y")]
  assert read_back(edge[:, 1], marks) == pytest.approx([10, 40, 50, 70, 60, 30], abs=0.5)
  assert [value for _, value in sorted(marks, reverse=True)] == [0, 20, 40, 60, 80, 100]


@pytest.mark.parametrize(
  "low, high, expected",
  [
    (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (3, 1703, [500, 1000, 1500]),
    (-1, 1, [-1, -0.5, 0, 0.5, 1]),
  ],
)
def test_ticks_are_round(low, high, expected):
  assert ticks(low, high) == expected


@pytest.mark.parametrize(
  "low, high, expected",
  [
    (0.02, 0.9, [0.02, 0.05, 0.1, 0.2, 0.5]),
    (1e-3, 10, [0.001, 0.01, 0.1, 1, 10]),
    (0.21, 0.29, [0.22, 0.24, 0.26, 0.28]),
  ],
)
def test_log_ticks_are_round(low, high, expected):
  assert log_ticks(low, high) == pytest.approx(expected)


def test_log_ticks_stay_few_over_many_decades():
  assert 3 <= len(log_ticks(1e-30, 1e30)) <= 8


def _luminance(color):
  channel = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
  linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channel]
  return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("color", [*PALETTE, *ramp(9)])
def test_colours_stand_out_on_both_schemes(color):
  # WCAG 2.1 asks for a contrast of 3 for graphics.
  for ground in ("#ffffff", "#1d2026"):
    bright, dark = sorted((_luminance(color), _luminance(ground)), reverse=True)
    assert (bright + 0.05) / (dark + 0.05) >= 3.0


def test_ramp_is_ordered_and_distinct():
  assert len(set(ramp(8))) == 8
  assert ramp(0) == []
