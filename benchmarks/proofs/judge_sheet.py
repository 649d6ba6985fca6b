"""A sheet of scenes with their captions, for people to look at."""

from PIL import Image

from t2i_jax.data.scenes import LEVELS, Scene, prompts, render
from t2i_jax.data.sheet import TILE, Band, captioned

COLUMNS = 5


def tile(scene: Scene) -> tuple[Image.Image, str]:
  return Image.fromarray(render(scene, TILE)), scene.caption


def scenes_sheet(seed: int = 3) -> Image.Image:
  """Rows of scenes: level easy, then each category of level full, long captions beside theirs."""
  bands = []
  for level, category in [
    *(("easy", c) for c in LEVELS["easy"].categories),
    *(("full", c) for c in LEVELS["full"].categories if c not in ("single", "long")),
  ]:
    scenes = [s for held in (False, True) for s in prompts(level, category, held, 3, seed)]
    heading = f"{level}, {category} (the last two: held-out compositions)"
    bands.append(Band(heading, [tile(s) for s in scenes[:COLUMNS]], COLUMNS))
  longs = [prompts("full", "long", held, 1, seed)[0] for held in (False, True)]
  heading = "full, long (the second: held-out compositions)"
  bands.append(Band(heading, [tile(s) for s in longs], COLUMNS, beside=True))
  return captioned(bands)
