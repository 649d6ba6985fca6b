"""Colours, shapes, sizes and relations of scenes, and the levels of difficulty.

Lengths are fractions of the image's side; lengths in pixels are at the level's smallest resolution.
`r` is an object's radius: a circle's radius, and about half the width of the others.
"""

import dataclasses
import difflib

from t2i_jax.errors import ConfigError

BACKGROUND = (240, 240, 240)

# Any two differ by at least 90 in RGB, and by more than 19 degrees as directions from the
# background, so that a blend with the background at an anti-aliased edge is still identified.
COLORS: dict[str, tuple[int, int, int]] = {
  "red": (215, 25, 35),
  "orange": (250, 125, 0),
  "yellow": (245, 215, 0),
  "green": (40, 170, 60),
  "cyan": (0, 195, 225),
  "blue": (35, 65, 215),
  "purple": (140, 35, 170),
  "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES: dict[str, tuple[float, float]] = {  # name -> lowest and highest radius drawn
  "small": (0.088, 0.100),
  "medium": (0.124, 0.138),
  "large": (0.172, 0.200),
}
SIZE_EDGES = (0.112, 0.155)  # radii where small ends and large begins, for the judge
OUTER_RADII = (0.26, 0.33)  # of an object that surrounds another
OUTER_SHAPES = ("circle", "square", "triangle", "diamond", "star")  # a cross is too narrow
RELATIONS = ("left of", "right of", "above", "below", "inside", "surrounding")
INVERSE = {
  "left of": "right of",
  "right of": "left of",
  "above": "below",
  "below": "above",
  "inside": "surrounding",
  "surrounding": "inside",
}
CATEGORIES = ("single", "binding", "count", "relation", "surrounding", "negation", "long")
SPLITS = ("train", "val", "heldout")


@dataclasses.dataclass(frozen=True)
class Level:
  """One level of difficulty.

  floor        smallest resolution, pixels
  categories   subset of CATEGORIES, with equal probabilities
  shapes       shapes of the level; every level has all of COLORS
  max_objects  maximum number of objects in an image
  radii        ranges of radii without named sizes: of one or two objects, of three or more
  sizes        whether objects have named sizes (then `radii` is not used)
  gap_px       minimum distance between the bounding boxes of two objects, pixels at the floor
  border_px    minimum distance from the image's border, pixels at the floor
  margin_px    lead of a stated relation, pixels at the floor: for "left of", dx - |dy| of centres
  """

  name: str
  floor: int
  categories: tuple[str, ...]
  shapes: tuple[str, ...]
  max_objects: int
  radii: tuple[tuple[float, float], tuple[float, float]]
  sizes: bool = False
  gap_px: float = 2.5
  border_px: float = 1.0
  margin_px: float = 4.0


LEVELS: dict[str, Level] = {
  "easy": Level(
    name="easy",
    floor=32,
    categories=("single", "binding", "relation"),
    shapes=SHAPES[:3],
    max_objects=2,
    radii=((0.160, 0.190), (0.160, 0.190)),
  ),
  "counts": Level(
    name="counts",
    floor=32,
    categories=("single", "binding", "count", "relation"),
    shapes=SHAPES[:3],
    max_objects=4,
    radii=((0.130, 0.170), (0.120, 0.140)),
  ),
  "full": Level(
    name="full",
    floor=48,
    categories=CATEGORIES,
    shapes=SHAPES,
    max_objects=6,
    radii=((0.124, 0.138), (0.124, 0.138)),
    sizes=True,
    gap_px=2.25,
    border_px=0.75,
    margin_px=3.0,
  ),
}


def find_level(name: str) -> Level:
  """LEVELS[name]. Raises ConfigError, with the nearest name, for an unknown level."""
  if name not in LEVELS:
    near = difflib.get_close_matches(name, LEVELS, n=1, cutoff=0.0)[0]
    raise ConfigError(f"{name!r} is not a level of scenes. Nearest: {near!r}; all: {list(LEVELS)}.")
  return LEVELS[name]


def size_name(r: float) -> str:
  """The name in SIZES of a radius r (a fraction of the side)."""
  return "small" if r < SIZE_EDGES[0] else "medium" if r < SIZE_EDGES[1] else "large"
