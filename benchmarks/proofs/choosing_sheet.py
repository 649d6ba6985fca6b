"""The sheet of guidance methods: samples as dots over what is meant, drawn with Pillow."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.proofs.closed_form import Mixture, log_density

CENTRE, RANGE = np.array([0.0, 0.8]), 3.4  # of every panel; the range to each side
SIDE, GAP, TOP = 340, 22, 66  # pixels: a panel, between panels, above one
LEFT, HEAD, FOOT = 46, 62, 44  # around all
FINE = 3  # drawn so many times larger, then scaled down
COLORS = ((42, 120, 214), (224, 102, 43), (31, 158, 120))  # of the classes, as in charts
INK, DIM, FRAME = (28, 31, 36), (98, 105, 115), (200, 204, 210)
SHOWN, RADIUS = 1500, 1.5  # dots a panel, in its pixels


class Panel(NamedTuple):
  """points [N, 2] and the class of each, which gives its colour; meant: log density or None."""

  title: str
  caption: str
  points: np.ndarray
  classes: np.ndarray
  meant: Callable[..., object] | None = None


def _grid(side: int) -> np.ndarray:
  """Centres of the pixels of a panel, from the top left, [side * side, 2]."""
  at = ((np.arange(side) + 0.5) / side * 2 - 1) * RANGE
  x, y = np.meshgrid(at, -at)
  return np.stack([x.ravel(), y.ravel()], 1) + CENTRE


def _place(points: np.ndarray, side: int) -> np.ndarray:
  """Pixels from the top left of points [N, 2] of the plane."""
  return ((points - CENTRE) * [1, -1] / RANGE + 1) / 2 * side


def _levels(log_p: np.ndarray, shares: Sequence[float]) -> list[float]:
  """The log densities above which these shares of the mass lie."""
  falling = np.sort(log_p.ravel())[::-1]
  mass = np.cumsum(np.exp(falling - falling[0]))
  return [float(falling[np.searchsorted(mass, share * mass[-1])]) for share in shares]


def _log_p(log_density_of: Callable[..., object]) -> np.ndarray:
  """At the pixels of a panel, then smoothly between them, [SIDE * FINE, SIDE * FINE]."""
  coarse = np.asarray(log_density_of(jnp.asarray(_grid(SIDE), jnp.float32)), np.float32)
  image = Image.fromarray(coarse.reshape(SIDE, SIDE))
  return np.asarray(image.resize((SIDE * FINE, SIDE * FINE), Image.Resampling.BICUBIC), np.float64)


def backdrop(data: Mixture) -> np.ndarray:
  """The classes as tints: their densest 30, 60 and 90 percent.   # float64 [fine, fine, 3]"""
  pixels = np.full((SIDE * FINE, SIDE * FINE, 3), 255.0)
  for label, color in enumerate(COLORS):
    log_p = _log_p(lambda x, k=label: log_density(data, x, label=jnp.full(len(x), k)))
    for level in _levels(log_p, (0.3, 0.6, 0.9)):
      pixels = np.where((log_p > level)[..., None], pixels * 0.93 + np.array(color) * 0.07, pixels)
  return pixels


def outline(log_p: np.ndarray, level: float, width: float) -> np.ndarray:
  """Pixels within half of `width` of where log_p crosses the level: bool, shaped like log_p."""
  down, right = np.gradient(log_p)
  return np.abs(log_p - level) < width / 2 * np.hypot(down, right)


def _panel(panel: Panel, ground: np.ndarray) -> Image.Image:
  side = len(ground)
  pixels = ground
  if panel.meant is not None:
    log_p = _log_p(panel.meant)
    for level in _levels(log_p, (0.5, 0.9)):
      line = 0.75 * outline(log_p, level, FINE * 1.6)[..., None]
      pixels = pixels * (1 - line) + np.array(INK) * line
  image = Image.fromarray(pixels.astype(np.uint8))
  dots = Image.new("RGBA", image.size, (255, 255, 255, 0))
  draw = ImageDraw.Draw(dots)
  r = RADIUS * FINE
  for (x, y), label in zip(_place(panel.points[:SHOWN], side), panel.classes, strict=False):
    dark = (int(0.8 * c) for c in COLORS[label])
    draw.ellipse((x - r, y - r, x + r, y + r), fill=(*dark, 190))
  image.paste(dots, mask=dots)
  return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def sheet(panels: Sequence[Panel], data: Mixture, heading: str, columns: int = 4) -> Image.Image:
  """All panels over the same tinted classes, with equal axes."""
  rows = -(-len(panels) // columns)
  size = (LEFT + columns * (SIDE + GAP), HEAD + rows * (TOP + SIDE) + FOOT)
  image = Image.new("RGB", size, "white")
  draw = ImageDraw.Draw(image)
  font = {n: ImageFont.load_default(size=n) for n in (16, 18, 24)}
  draw.text((LEFT, 20), heading, fill=DIM, font=font[18])
  ground = backdrop(data)
  for i, panel in enumerate(panels):
    x = LEFT + (i % columns) * (SIDE + GAP)
    y = HEAD + (i // columns) * (TOP + SIDE) + TOP
    image.paste(_panel(panel, ground), (x, y))
    draw.rectangle((x - 1, y - 1, x + SIDE, y + SIDE), outline=FRAME)
    draw.text((x, y - 56), panel.title, fill=INK, font=font[24])
    draw.text((x, y - 26), panel.caption, fill=DIM, font=font[16])
    for value in (-2, 0, 2, 4):
      across, down = _place(np.array([value, value]), SIDE)
      if i % columns == 0:
        draw.text((x - 12, y + down), f"{value}", fill=DIM, font=font[16], anchor="rm")
        draw.line((x - 7, y + down, x - 1, y + down), fill=FRAME)
      if i // columns == rows - 1 and across < SIDE:
        draw.text((x + across, y + SIDE + 12), f"{value}", fill=DIM, font=font[16], anchor="mt")
        draw.line((x + across, y + SIDE, x + across, y + SIDE + 6), fill=FRAME)
  return image
