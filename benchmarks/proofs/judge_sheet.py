"""A sheet of scenes with their captions, for people to look at."""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from t2i_jax.data.scenes import LEVELS, Scene, prompts, render

PICTURE, GAP = 168, 12  # pixels
COLUMNS = 5
_LINE = 14
_TEXT = 4 * _LINE
_INK, _DIM = (20, 20, 20), (120, 120, 120)


def _block(draw: ImageDraw.ImageDraw, text: str, x: int, y: int, letters: int) -> None:
  font = ImageFont.load_default(size=11)
  for i, line in enumerate(textwrap.wrap(text, letters)):
    draw.text((x, y + i * _LINE), line, fill=_INK, font=font)


def _picture(scene: Scene) -> Image.Image:
  return Image.fromarray(np.asarray(render(scene, PICTURE)))


def contact_sheet(seed: int = 3) -> Image.Image:
  """Rows of scenes: level easy, then each category of level full, long captions beside theirs."""
  rows: list[tuple[str, list[Scene]]] = []
  for level, category in [
    *(("easy", c) for c in LEVELS["easy"].categories),
    *(("full", c) for c in LEVELS["full"].categories if c not in ("single", "long")),
  ]:
    scenes = [s for held in (False, True) for s in prompts(level, category, held, 3, seed)]
    rows.append((f"{level}, {category} (the last two: held-out compositions)", scenes[:COLUMNS]))
  longs = [prompts("full", "long", held, 1, seed)[0] for held in (False, True)]
  step = PICTURE + GAP
  height = _LINE + PICTURE + _TEXT + GAP
  sheet = Image.new(
    "RGB", (GAP + COLUMNS * step, GAP + height * len(rows) + 2 * step + _LINE), "white"
  )
  draw = ImageDraw.Draw(sheet)
  font = ImageFont.load_default(size=11)
  y = GAP
  for title, scenes in rows:
    draw.text((GAP, y), title, fill=_DIM, font=font)
    for k, scene in enumerate(scenes):
      x = GAP + k * step
      sheet.paste(_picture(scene), (x, y + _LINE))
      _block(draw, scene.caption, x, y + _LINE + PICTURE + 3, 29)
    y += height
  draw.text((GAP, y), "full, long (the second: held-out compositions)", fill=_DIM, font=font)
  for k, scene in enumerate(longs):
    top = y + _LINE + k * step
    sheet.paste(_picture(scene), (GAP, top))
    _block(draw, scene.caption, GAP + step, top, 118)
  return sheet
