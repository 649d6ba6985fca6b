"""Sheets of images: a grid of images of one size, and tiles with captions below or beside them."""

from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE, GAP = 160, 10  # pixels
FONT_SIZE, LINE = 13, 17
# PIL's own font has no letters beyond ASCII. DejaVu Sans, of Latin, Greek and Cyrillic letters.
FONT = Path(__file__).with_name("DejaVuSans.ttf")
MAX_LINES = 30
INK, GREY, PAPER = "#202020", "#707070", "white"


def grid(
  rows: Sequence[Sequence[np.ndarray]], scale: int = 1, edge: int = 1, block: int = 0, band: int = 0
) -> Image.Image:
  """Rows of images as one image, enlarged by the integer `scale`.

  rows   of uint8 [H, W, 3], all of one size; a shorter row is filled with white
  edge   white pixels around each image
  block  number of columns between wider gaps, 0 = none;   band  the same for rows
  """
  height, width = np.shape(rows[0][0])[:2]
  wider = lambda i, group: 4 * (i // group) if group else 0
  left = lambda i: edge + i * (width + 2 * edge) + wider(i, block)
  top = lambda i: edge + i * (height + 2 * edge) + wider(i, band)
  size = (left(max(map(len, rows)) - 1) + width + edge, top(len(rows) - 1) + height + edge)
  sheet = Image.new("RGB", size, PAPER)
  for i, row in enumerate(rows):
    for k, image in enumerate(row):
      sheet.paste(Image.fromarray(np.asarray(image)), (left(k), top(i)))
  return sheet.resize((size[0] * scale, size[1] * scale), Image.Resampling.NEAREST)


class Band(NamedTuple):
  """Images with captions, below a heading.

  beside  captions right of the images, one image per row of `columns` tiles
  """

  heading: str
  tiles: Sequence[tuple[Image.Image, str]]
  columns: int
  beside: bool = False


def captioned(bands: Sequence[Band], footer: str = "") -> Image.Image:
  """Bands of images in tiles of TILE pixels with wrapped captions, and a footer."""
  font = load_font()
  columns = lambda b: max(1, b.columns if b.beside else min(b.columns, len(b.tiles)))
  width = GAP + max(map(columns, bands)) * (TILE + GAP)
  below = [line for part in footer.splitlines() for line in wrap(part, font, width - 2 * GAP)]
  laid = []  # image, where its tile is, lines of its caption, where they are
  headings, y = [], GAP
  for band in bands:
    headings.append((band.heading, y))
    y += LINE + GAP
    many = 1 if band.beside else columns(band)
    aside = columns(band) * (TILE + GAP) - TILE - 2 * GAP
    for start in range(0, len(band.tiles), many):
      row = band.tiles[start : start + many]
      texts = [wrap(caption, font, aside if band.beside else TILE) for _, caption in row]
      high = LINE * max(map(len, texts))
      for k, ((image, _), lines) in enumerate(zip(row, texts, strict=True)):
        x = GAP + k * (TILE + GAP)
        at = (x + TILE + GAP, y) if band.beside else (x, y + TILE + 4)
        laid.append((fitted(image), (x, y), lines, at))
      y += max(TILE, high) + GAP if band.beside else TILE + high + 2 * GAP
  sheet = Image.new("RGB", (width, y + LINE * len(below) + GAP), PAPER)
  draw = ImageDraw.Draw(sheet)
  for heading, top in headings:
    write(draw, [heading], GAP, top, font, INK)
  for image, (x, top), lines, at in laid:
    sheet.paste(image, (x + (TILE - image.width) // 2, top + (TILE - image.height) // 2))
    draw.rectangle((x - 1, top - 1, x + TILE, top + TILE), outline="#d0d0d0")
    write(draw, lines, *at, font, INK)
  write(draw, below, GAP, y, font, GREY)
  return sheet


@cache
def load_font() -> ImageFont.FreeTypeFont:
  """The font of captions."""
  return ImageFont.truetype(str(FONT), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)


def fitted(image: Image.Image) -> Image.Image:
  """The image scaled to fit a tile; small images are enlarged by an integer."""
  factor = TILE // max(image.size)
  if factor >= 1:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
  image = image.copy()
  image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
  return image


def wrap(text: str, font, width: int) -> list[str]:
  """Lines of text no wider than `width` pixels, at most MAX_LINES, the last then "..."."""
  # What has more characters than the line has pixels is not measured: a caption may be a megabyte.
  fits = lambda part: len(part) <= width and font.getlength(part) <= width
  shown = text[: MAX_LINES * width + 1]
  lines: list[str] = []
  line = ""
  for word in shown.split():
    longer = f"{line} {word}" if line else word
    if fits(longer):
      line = longer
      continue
    if line:
      lines.append(line)
    while len(lines) <= MAX_LINES and not fits(word):
      counts = range(2, min(len(word), width) + 1)  # of characters; a line has at least one
      count = 1 + bisect_right(counts, width, key=lambda n: font.getlength(word[:n]))
      lines.append(word[:count])
      word = word[count:]
    line = word
    if len(lines) > MAX_LINES:
      break
  lines.append(line)
  if len(lines) <= MAX_LINES and len(shown) == len(text):
    return lines
  return [*lines[: MAX_LINES - 1], "..."]


def write(draw: ImageDraw.ImageDraw, lines: list[str], x: int, y: int, font, ink: str) -> None:
  """Draws lines of text downwards from (x, y)."""
  for i, line in enumerate(lines):
    draw.text((x, y + i * LINE), line, font=font, fill=ink)
