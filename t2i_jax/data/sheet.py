"""A contact sheet: pictures of a built folder with their captions under them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_jax.data.images import decode, is_latent, read_latent
from t2i_jax.data.source import ShardSource, read_manifest

TILE, GAP = 160, 10  # pixels
FONT_SIZE, LINE = 13, 17
MAX_LINES = 30
INK, GREY, PAPER = "#202020", "#707070", "white"


def contact_sheet(
  folder: str | Path, split: str | None = None, n: int = 24, columns: int = 6
) -> Image.Image:
  """n records spread over a split, each with its first caption; captions are wrapped.

  split  None takes the manifest's first
  Latents are shown as their first three channels, stretched to the full range.
  Raises DataError.
  """
  manifest = read_manifest(folder)
  source = ShardSource(folder, split or next(iter(manifest["splits"])))
  records = source.spread(n)
  tiles = [(picture(record.image), record.captions[0]) for record in records]
  heading = f"{Path(folder).name}, {source.split}: {len(records)} of {len(source):,} records"
  return lay_out(tiles, heading, manifest["attribution"], columns)


def lay_out(
  tiles: Sequence[tuple[Image.Image, str]], heading: str, footer: str, columns: int
) -> Image.Image:
  """Pictures in tiles of TILE pixels, each over its wrapped caption, between two lines of text."""
  font = ImageFont.load_default(FONT_SIZE)
  columns = max(1, min(columns, len(tiles)))
  wrapped = [(fitted(image), wrap(caption, font, TILE)) for image, caption in tiles]
  rows = [wrapped[i : i + columns] for i in range(0, len(wrapped), columns)]
  width = GAP + columns * (TILE + GAP)
  below = [line for part in footer.splitlines() for line in wrap(part, font, width - 2 * GAP)]
  heights = [TILE + LINE * max(len(lines) for _, lines in row) + 2 * GAP for row in rows]
  height = 2 * GAP + LINE * (1 + len(below)) + sum(heights) + GAP
  sheet = Image.new("RGB", (width, height), PAPER)
  draw = ImageDraw.Draw(sheet)
  y = write(draw, [heading], GAP, GAP, font, INK) + GAP
  for row, row_height in zip(rows, heights, strict=True):
    for column, (image, lines) in enumerate(row):
      x = GAP + column * (TILE + GAP)
      sheet.paste(image, (x + (TILE - image.width) // 2, y + (TILE - image.height) // 2))
      draw.rectangle((x - 1, y - 1, x + TILE, y + TILE), outline="#d0d0d0")
      write(draw, lines, x, y + TILE + 4, font, INK)
    y += row_height
  write(draw, below, GAP, y, font, GREY)
  return sheet


def picture(data: bytes) -> Image.Image:
  """A record's picture at its own size."""
  if not is_latent(data):
    return decode(data)
  x = read_latent(data)
  low, high = x.min(), max(x.max(), x.min() + 1e-6)
  x = np.repeat(x, 3, axis=2) if x.shape[2] < 3 else x
  return Image.fromarray(((x[:, :, :3] - low) / (high - low) * 255).astype(np.uint8))


def fitted(image: Image.Image) -> Image.Image:
  """A picture that fits into a tile; small ones are enlarged in whole pixels."""
  factor = TILE // max(image.size)
  if factor >= 1:
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
  image = image.copy()
  image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
  return image


def wrap(text: str, font, width: int) -> list[str]:
  """Lines of text no wider than `width` pixels; what is past MAX_LINES ends in "..."."""
  lines, line = [], ""
  for word in text.split():
    longer = f"{line} {word}" if line else word
    if font.getlength(longer) <= width:
      line = longer
      continue
    if line:
      lines.append(line)
    while font.getlength(word) > width:
      fits = next(i for i in range(len(word) - 1, 0, -1) if font.getlength(word[:i]) <= width)
      lines.append(word[:fits])
      word = word[fits:]
    line = word
  lines.append(line)
  return lines if len(lines) <= MAX_LINES else [*lines[: MAX_LINES - 1], "..."]


def write(draw: ImageDraw.ImageDraw, lines: list[str], x: int, y: int, font, ink: str) -> int:
  """Draws lines of text downwards from (x, y). Returns the y below them."""
  for line in lines:
    draw.text((x, y), line, font=font, fill=ink)
    y += LINE
  return y
