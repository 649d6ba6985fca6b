"""A sheet of the planted world, for people to look at."""

import dataclasses
import random

from PIL import Image

from t2i_jax.data.scenes import make_scene
from t2i_jax.data.scenes.planted import (
  ARTISTS,
  UNSEEN_MARK,
  UNSEEN_RENDERING,
  Look,
  PlantedScene,
  artist_scene,
  copies,
  draw,
  planted_prompts,
  subject_scene,
)
from t2i_jax.data.sheet import Band, captioned


def _tile(p: PlantedScene, caption: str | None = None) -> tuple[Image.Image, str]:
  return Image.fromarray(draw(p.objects, 160, p.rendering)), caption or p.caption


def world_sheet() -> Image.Image:
  """Individuals, artists, copied images and what no record has, with their captions."""
  named = [p for k in ("individual", "related") for p in planted_prompts(k, 8, 1)]
  scene = next(s for i in range(99) if (s := make_scene(i, "easy", "val")).category == "relation")
  drawn = [artist_scene(scene, name) for name in ARTISTS]
  copied = [c for c in copies() if c.number % 4 < 2]
  tiles = [
    (Image.fromarray(draw(c.objects, 160)), f"{c.caption} ({c.exposures:,} times)") for c in copied
  ]
  look = Look("cyan", "circle", None, UNSEEN_MARK, "black")
  unseen = subject_scene("<v0>", look, random.Random(0), kind="related")
  hatched = dataclasses.replace(drawn[0], rendering=UNSEEN_RENDERING)
  return captioned(
    [
      Band("individuals", [_tile(p) for p in named], 4),
      Band("artists", [_tile(p) for p in drawn], 4),
      Band("copied images", tiles, 4),
      Band(
        "in no record: a mark, a rendering",
        [_tile(unseen), _tile(hatched, f"{scene.caption}, by <v1>")],
        4,
      ),
    ]
  )
