"""Scenes by index, and the prompts that models are scored with."""

import random

from t2i_jax.data.scenes.facts import Scene
from t2i_jax.data.scenes.long_recipe import long
from t2i_jax.data.scenes.recipes import RECIPES, Draw
from t2i_jax.data.scenes.vocabulary import CATEGORIES, SPLITS, Level, find_level
from t2i_jax.errors import ConfigError

_RECIPES = {**RECIPES, "long": long}
_TRIPLES = ("relation", "surrounding", "long")  # categories whose captions state a relation


def _scene(rng: random.Random, level: Level, category: str, heldout: bool) -> Scene:
  """Draws until a recipe works out."""
  triple = heldout and category in _TRIPLES and rng.random() < 0.5
  while True:
    draw = Draw(rng, level, category, pair=heldout and not triple, triple=triple)
    scene = _RECIPES[category](draw)
    if scene is not None:
      return scene


def make_scene(index: int, level: str, split: str, seed: int = 0) -> Scene:
  """The scene of an index: the same on every machine, whatever was drawn before.

  index  any integer of at least 0; there is no last one
  level  a name in LEVELS
  split  "train", "val" (compositions as in train, other scenes) or "heldout" (each caption names
         a composition that train and val never show nor mention)
  Raises ConfigError on an unknown level or split.
  """
  found = find_level(level)
  if split not in SPLITS:
    raise ConfigError(f"{split!r} is not a split of scenes. Use one of {list(SPLITS)}.")
  # A string seeds Python's generator by SHA-512, alike in all versions.
  rng = random.Random(f"{seed}/{level}/{split}/{index}")
  return _scene(rng, found, rng.choice(found.categories), split == "heldout")


def prompts(level: str, category: str, heldout: bool, n: int, seed: int = 0) -> list[Scene]:
  """n scenes of one category to score a model with, in a fixed order.

  No caption comes twice before the level's captions of the category run short (a level of 3 shapes
  has 21 single objects that are not held out). The random streams are none of `make_scene`'s, for
  any index; captions may be those of training scenes unless `heldout`.
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
