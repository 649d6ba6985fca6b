"""Scenes by index, and the prompts for evaluation."""

import random

from t2i_jax.data.scenes.facts import Scene
from t2i_jax.data.scenes.long_recipe import long
from t2i_jax.data.scenes.recipes import RECIPES, Draw
from t2i_jax.data.scenes.vocabulary import CATEGORIES, SPLITS, Level, find_level
from t2i_jax.errors import ConfigError

_RECIPES = {**RECIPES, "long": long}
_TRIPLES = ("relation", "surrounding", "long")  # categories whose captions state a relation


def _scene(rng: random.Random, level: Level, category: str, heldout: bool) -> Scene:
  """Draws until a recipe succeeds."""
  triple = heldout and category in _TRIPLES and rng.random() < 0.5
  while True:
    draw = Draw(rng, level, category, pair=heldout and not triple, triple=triple)
    scene = _RECIPES[category](draw)
    if scene is not None:
      return scene


def make_scene(index: int, level: str, split: str, seed: int = 0) -> Scene:
  """The scene of an index, a function of the arguments alone, the same on every machine.

  index  any integer of at least 0
  level  a name in LEVELS
  split  "train", "val" (compositions as in train, other scenes) or "heldout" (each caption names
         a composition that train and val never show nor mention)
  Raises ConfigError on an unknown level or split.
  """
  found = find_level(level)
  if split not in SPLITS:
    raise ConfigError(f"{split!r} is not a split of scenes. Use one of {list(SPLITS)}.")
  # A string seeds Python's generator by SHA-512, equal in all versions.
  rng = random.Random(f"{seed}/{level}/{split}/{index}")
  return _scene(rng, found, rng.choice(found.categories), split == "heldout")


def prompts(level: str, category: str, heldout: bool, n: int, seed: int = 0) -> list[Scene]:
  """n scenes of one category for evaluation, in a fixed order.

  Captions repeat only where the category has too few (a level of 3 shapes has 21 single objects
  that are not held out). The random streams differ from those of `make_scene` at every index;
  captions may be those of training scenes unless `heldout`.
  Raises ConfigError on an unknown level, or a category that the level does not have.
  """
  found = find_level(level)
  if category not in found.categories:
    known = "no category" if category not in CATEGORIES else "a category of other levels"
    raise ConfigError(f"{category!r} is {known}; level {level!r} has {list(found.categories)}.")
  fresh: dict[str, Scene] = {}
  again: list[Scene] = []
  split = "heldout" if heldout else "seen"
  for index in range(20 * n):
    rng = random.Random(f"prompts/{seed}/{level}/{category}/{split}/{index}")
    scene = _scene(rng, found, category, heldout)
    if scene.caption in fresh:
      again.append(scene)
    else:
      fresh[scene.caption] = scene
    if len(fresh) == n:
      break
  return [*fresh.values(), *again][:n]
