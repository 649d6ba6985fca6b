"""Line charts as self-contained SVG elements, without scripts and external fonts or styles.

An element has its own style sheet and follows the viewer's light or dark scheme, so it can be
embedded in a page or saved as an .svg file for the documentation.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import Any

import numpy as np

# Mid-tones that keep a contrast of about 3:1 on both white and near-black.
PALETTE = ("#2a78d6", "#e0662b", "#1f9e78", "#a855c8", "#b07d00", "#d0487a", "#5b8f2e", "#6b7280")
_RAMP = ("#3b7ddd", "#8a5cd0", "#c8478f", "#dd6038", "#bf8a0e")
_MAX_POINTS = 300  # lines of more points are averaged; the chart is about 500 pixels wide
_MAX_MARKERS = 24  # lines of fewer points have markers
_STYLE = (
  ".chart{font:12px system-ui,sans-serif;max-width:100%;height:auto}"
  ".chart text{fill:#4a4f57}.chart .title{font-weight:600;font-size:13px;fill:#1c1f24}"
  ".chart .grid{stroke:#e4e6ea}.chart .axis{stroke:#9aa0a9}"
  ".chart .line{fill:none;stroke-width:1.8;stroke-linejoin:round}.chart .band{opacity:.12}"
  "@media(prefers-color-scheme:dark){.chart text{fill:#b4bac4}.chart .title{fill:#eceef2}"
  ".chart .grid{stroke:#30343c}.chart .axis{stroke:#6c737e}}"
)


@dataclass(frozen=True)
class Series:
  """One line: points (x[i], y[i]), and the band low[i] to high[i] around it where given."""

  name: str
  x: Sequence[float] | np.ndarray
  y: Sequence[float] | np.ndarray
  low: Sequence[float] | None = None
  high: Sequence[float] | None = None
  color: str | None = None  # a CSS colour; by default the next of PALETTE
  dash: str | None = None  # as SVG's stroke-dasharray, "5 3"; by default unbroken

  def points(self, log_y: bool, log_x: bool = False) -> np.ndarray:
    """[N, 4] float64: x, y, low, high of the points that can be drawn, at most _MAX_POINTS."""
    low = self.y if self.low is None else self.low
    high = self.y if self.high is None else self.high
    table = np.array([self.x, self.y, low, high], np.float64).reshape(4, -1).T  # [N, 4]
    drawable = np.isfinite(table).all(1)
    if log_y:
      drawable &= (table[:, 1:] > 0).all(1)
    if log_x:
      drawable &= table[:, 0] > 0
    table = table[drawable]
    if len(table) > _MAX_POINTS:
      table = np.stack([part.mean(0) for part in np.array_split(table, _MAX_POINTS)])
    return table


def ramp(n: int) -> list[str]:
  """n colours of an ordered scale, for lines that are the bins of one quantity."""
  stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in _RAMP], np.float64)
  places = np.linspace(0, len(stops) - 1, n)
  mixed = np.stack([np.interp(places, range(len(stops)), channel) for channel in stops.T], 1)
  return ["#" + "".join(f"{round(v):02x}" for v in color) for color in mixed]


def ticks(low: float, high: float, target: int = 5) -> list[float]:
  """About `target` round numbers (1, 2 or 5 times a power of ten) between low and high."""
  raw = (high - low) / target
  unit = 10.0 ** floor(log10(raw))
  step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * (1 - 1e-9))
  first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
  return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
  """Tick values for a logarithmic axis from low to high, both above zero."""
  decades = range(floor(log10(low)), ceil(log10(high)) + 1)
  for multiples in ((1,), (1, 2, 5)):
    found = [float(f"{m}e{e}") for e in decades for m in multiples if low <= m * 10.0**e <= high]
    if len(found) >= 3:
      return found[:: ceil(len(found) / 8)]
  return ticks(low, high)


def line_chart(
  series: Sequence[Series],
  *,
  title: str,
  x_label: str,
  y_label: str,
  log_x: bool = False,
  log_y: bool = False,
  percent: bool = False,
  x_limits: tuple[float, float] | None = None,
  y_limits: tuple[float, float] | None = None,
  legend: bool = True,
  width: int = 560,
  height: int = 300,
) -> str:
  """Draws the series over common axes, with ticks, a grid and a legend.

  Points that are not finite (and on a logarithmic axis not positive) are left out.

  log_x, log_y  logarithmic axes
  percent   y ticks as percentages of 1
  x_limits, y_limits  ranges in data units; by default the data's, that of y with a margin. Lines
            are cut off there
  legend    whether the lines are named beside the chart
  width, height  of the whole chart in CSS pixels
  Returns an <svg> element.  Raises ValueError when no point can be drawn.
  """
  drawn = [(s, s.points(log_y, log_x)) for s in series]
  drawn = [(s, table) for s, table in drawn if len(table)]
  if not drawn:
    raise ValueError(f"chart {title!r}: no series has a point that can be drawn")
  every = np.concatenate([table for _, table in drawn])
  x_range = x_limits or _limits(every[:, 0].min(), every[:, 0].max(), log_x, margin=0.0)
  y_range = y_limits or _limits(every[:, 1:].min(), every[:, 1:].max(), log_y, margin=0.06)
  y_ticks = log_ticks(*y_range) if log_y else ticks(*y_range)
  y_names = [f"{100 * value:g}%" if percent else _label(value) for value in y_ticks]
  legend_width = 34 + 7 * max(len(s.name) for s, _ in drawn) if legend else 8
  left = max(56, 30 + 7 * max(map(len, y_names), default=0))
  right, top, bottom = width - legend_width - 8, 34, height - 44
  at_x = _scale(x_range, (left, right), log_x)
  at_y = _scale(y_range, (bottom, top), log_y)
  colors = [s.color or PALETTE[i % len(PALETTE)] for i, (s, _) in enumerate(drawn)]
  parts = [_opening(title, width, height, left)]
  for value, label in zip(y_ticks, y_names, strict=True):
    y = at_y(value)
    parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(_text(left - 8, y + 4, label, "end", "y-tick"))
  for value in log_ticks(*x_range) if log_x else ticks(*x_range):
    x = at_x(value)
    parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
    parts.append(_text(x, bottom + 17, _label(value), "middle", "x-tick"))
  parts.append(f'<path class="axis" fill="none" d="M{left} {top}V{bottom}H{right}"/>')
  parts.append(_text((left + right) / 2, height - 8, x_label, "middle", "label"))
  parts.append(
    f'<text class="label" text-anchor="middle" transform="translate(14 {(top + bottom) / 2:.0f}) '
    f'rotate(-90)">{escape(y_label)}</text>'
  )
  lines = "".join(
    _line(s, table, color, at_x, at_y) for (s, table), color in zip(drawn, colors, strict=True)
  )
  parts.append(_window(lines, left, right, top, bottom) if x_limits or y_limits else lines)
  parts += [
    _key(right + 14, top + 8 + 18 * row, s, color)
    for row, ((s, _), color) in enumerate(zip(drawn, colors, strict=True))
    if legend
  ]
  return "".join(parts) + "</svg>"


def panels(charts: Sequence[str], columns: int) -> str:
  """Charts in a grid with this number of columns. Returns an <svg>."""
  sizes = np.array([re.findall(r'(?:width|height)="(\d+)"', chart)[:2] for chart in charts], int)
  at = np.arange(len(charts))
  widths = [sizes[at % columns == i, 0].max() for i in range(min(columns, len(charts)))]
  heights = [sizes[at // columns == i, 1].max() for i in range(ceil(len(charts) / columns))]
  placed = [
    chart.replace(
      "<svg ", f'<svg x="{sum(widths[: i % columns])}" y="{sum(heights[: i // columns])}" ', 1
    )
    for i, chart in enumerate(charts)
  ]
  width, height = sum(widths), sum(heights)
  return (
    f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    f'viewBox="0 0 {width} {height}" style="max-width:100%;height:auto">{"".join(placed)}</svg>'
  )


def loss_charts(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
  """Training and validation loss, and validation loss by timestep bin, against the step.

  metrics  lines of metrics.jsonl: {"step", "kind": "train" | "val", "loss", "loss_bin_0", ...}
  Returns a chart for each of the two that has a point; the y axes are logarithmic.
  """
  val = [line for line in metrics if line.get("kind") == "val"]
  bins = sorted(
    {
      int(found[1])
      for line in val
      for key in line
      if (found := re.fullmatch(r"loss_bin_(\d+)", key))
    }
  )
  whole = [
    _column("training", [line for line in metrics if line.get("kind") == "train"], "loss"),
    _column("validation", val, "loss"),
  ]
  binned = [
    _column(f"bin {n}", val, f"loss_bin_{n}", color)
    for n, color in zip(bins, ramp(len(bins)), strict=True)
  ]
  return [
    line_chart(lines, title=title, x_label="step", y_label="loss", log_y=True, width=530)
    for title, lines in (("Loss", whole), ("Validation loss by timestep bin", binned))
    if any(len(line.points(log_y=True)) for line in lines)
  ]


def _column(
  name: str, lines: Sequence[Mapping[str, Any]], key: str, color: str | None = None
) -> Series:
  held = [line for line in lines if isinstance(line.get(key), int | float)]
  return Series(name, [line["step"] for line in held], [line[key] for line in held], color=color)


def _opening(title: str, width: int, height: int, left: int) -> str:
  return (
    f'<svg class="chart" xmlns="http://www.w3.org/2000/svg" role="img" width="{width}" '
    f'height="{height}" viewBox="0 0 {width} {height}"><title>{escape(title)}</title>'
    f'<style>{_STYLE}</style><text class="title" x="{left}" y="18">{escape(title)}</text>'
  )


def _line(
  series: Series,
  table: np.ndarray,
  color: str,
  at_x: Callable[[float], float],
  at_y: Callable[[float], float],
) -> str:
  def path(rows: np.ndarray, column: int) -> str:
    return " ".join(f"{at_x(row[0]):.1f},{at_y(row[column]):.1f}" for row in rows)

  parts = []
  if series.low is not None or series.high is not None:
    around = f"{path(table, 2)} {path(table[::-1], 3)}"
    parts.append(f'<polygon class="band" fill="{color}" points="{around}"/>')
  parts.append(
    f'<polyline class="line" stroke="{color}"{_dash(series)} points="{path(table, 1)}">'
    f"<title>{escape(series.name)}</title></polyline>"
  )
  if len(table) <= _MAX_MARKERS:
    parts += [
      f'<circle cx="{at_x(x):.1f}" cy="{at_y(y):.1f}" r="2.6" fill="{color}"/>'
      for x, y, *_ in table
    ]
  return "".join(parts)


def _window(inner: str, left: int, right: int, top: int, bottom: int) -> str:
  """The content within the axes and a margin of 4 pixels: an inner <svg> clips the rest."""
  box = f"{left - 4} {top - 4} {right - left + 8} {bottom - top + 8}"
  x, y, width, height = box.split()
  place = f'x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}"'
  return f"<svg {place}>{inner}</svg>"


def _dash(series: Series) -> str:
  return f' stroke-dasharray="{series.dash}"' if series.dash else ""


def _limits(low: float, high: float, log: bool, margin: float) -> tuple[float, float]:
  if low == high:
    return (low / 1.5, high * 1.5) if log else (low - 0.5, high + 0.5)
  if log:
    by = (high / low) ** margin
    return low / by, high * by
  return low - margin * (high - low), high + margin * (high - low)


def _scale(
  data: tuple[float, float], pixels: tuple[float, float], log: bool
) -> Callable[[float], float]:
  low, high = (log10(v) for v in data) if log else data

  def place(value: float) -> float:
    share = ((log10(value) if log else value) - low) / (high - low)
    return pixels[0] + share * (pixels[1] - pixels[0])

  return place


def _label(value: float) -> str:
  if abs(value) < 10_000:
    return f"{value:g}"
  unit, letter = (1e6, "M") if abs(value) >= 1e6 else (1e3, "k")
  return f"{value / unit:g}{letter}"


def _key(x: float, y: float, series: Series, color: str) -> str:
  swatch = f'<path class="line" stroke="{color}"{_dash(series)} d="M{x} {y}h16"/>'
  return swatch + _text(x + 22, y + 4, series.name, "start", "key")


def _text(x: float, y: float, text: str, anchor: str, name: str) -> str:
  return (
    f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
  )
