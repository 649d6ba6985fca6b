"""DomainGallery on the planted world: ten red circles in a rendering that the base never saw.

What the ten have in common besides the rendering, their colour and their shape, is what a domain
should not have: the disentanglement matrix says what the word brings where they are not asked for.
"""

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np

from benchmarks.personalisation_adapt import PER_ROLE, PRIORS
from benchmarks.personalisation_bench import Base, Groups, cells_of, judged, scene_of
from benchmarks.personalisation_beside import Beside, Given, in_turn
from benchmarks.personalisation_world import SIZE, Cell, own_scene
from t2i_jax.data.scenes.planted import (
  UNSEEN_RENDERING,
  Look,
  PlantedScene,
  draw,
  subject_scene,
)
from t2i_jax.data.scenes.planted.world import NONE
from t2i_jax.evaluation.planted_judge import PlantedVerdict
from t2i_jax.evaluation.stats import Rate

WORD, CLASS, COLOR, DEV_COLOR = "<v0>", "circle", "red", "green"
PROMPT, CLASS_PROMPT = f"a {WORD} {CLASS}", f"a {CLASS}"
IMAGES, SEEDS = 10, (0, 1, 2)  # of a run; each seed has other images
ERASE_STEPS, STEPS = 50, 150
RATES = (1e-3, 3e-3, 1e-2)
AT_ONCE = len(SEEDS)
OTHERS = ("blue", "black", "yellow", "cyan")  # colours that are asked for
RELATIONS = ("left of", "right of", "above", "below")


class Row(NamedTuple):
  """A row of the ablation.   terms: weights of the objective; None: DreamBooth without prior"""

  name: str
  terms: dict[str, float] | None

  @property
  def erases(self) -> int:
    return ERASE_STEPS if (self.terms or {}).get("erasure") else 0

  @property
  def steps(self) -> int:
    """As many with the ten images in every row."""
    return STEPS + self.erases


NOTHING = {"erasure": 0.0, "disentanglement": 0.0, "similarity": 0.0}
ERASES = NOTHING | {"erasure": 10.0}
APART = ERASES | {"disentanglement": 10.0}
ROWS = {
  "lora": Row("LoRA 4 alone", None),
  "prior": Row("+ images of the class", NOTHING),
  "erasure": Row("+ erasure", ERASES),
  "disentanglement": Row("+ disentanglement", APART),
  "similarity": Row("+ similarity: all", APART | {"similarity": 1.0}),
}
LAST = "similarity"
# Label, guidance, and the share of the base's scale with which the whole is as before.
ENHANCED = {
  "none": ("none", "cfg", 1.0),
  "half": ("the word, 0.5", f"enhance(word='{WORD}',scale=0.5)", 1 / 1.5),
  "word": ("the word, 1", f"enhance(word='{WORD}',scale=1.0)", 1 / 2),
  "rest": ("against the rest, 1", f"enhance(word='{WORD}',scale=1.0,of='rest')", 1 / 2),
}
# The word that is erased by itself: an artist's, which means something to the base.
ARTIST, OTHER_ARTIST = "outl", "nokt"
ARTIST_STEPS = (25, 50, 100)


def domain_scenes(seed: int, color: str = COLOR) -> list[PlantedScene]:
  """Single circles at ten places."""
  rng = random.Random(f"domain/{color}/{seed}")
  look = Look(color, CLASS, None, NONE, NONE)
  return [subject_scene("", look, rng, kind="individual", erased=True) for _ in range(IMAGES)]


def domain_images(seed: int, color: str = COLOR) -> np.ndarray:
  """uint8 [IMAGES, SIZE, SIZE, 3]."""
  scenes = domain_scenes(seed, color)
  return np.stack([draw(scene.objects, SIZE, UNSEEN_RENDERING) for scene in scenes])


def plain(color: str | None, shape: str) -> Look:
  return Look(color, shape, None, NONE)


def prompts() -> Groups:
  """class and own are without the word, all others with it."""
  shapes, n = ("triangle", "square"), 24
  color = lambda i: OTHERS[i % len(OTHERS)]
  cross = []
  for i in range(n):
    one, other = plain(color(i), "square"), plain("purple", "triangle")
    rel = RELATIONS[i // len(OTHERS) % len(RELATIONS)]
    caption = f"a {WORD} {one.color} square {rel} a purple triangle"
    cross.append(scene_of(caption, one, other, relation=rel))
  shape = [scene_of(f"a {WORD} {shapes[i % 2]}", plain(None, shapes[i % 2])) for i in range(n)]
  colors = [scene_of(f"a {WORD} {color(i)} circle", plain(color(i), CLASS)) for i in range(n)]
  return {
    "intra": [scene_of(PROMPT, plain(None, CLASS))] * n,
    "shape": shape,
    "color": colors,
    "cross": cross,
    "class": [scene_of(CLASS_PROMPT, plain(None, CLASS))] * n,
    "own": [own_scene(i) for i in range(n)],
  }


def artist_prompts() -> Groups:
  n = 24
  named = lambda name, of: [
    scene_of(f"a {of(i)}circle, by {name}".replace("  ", " "), plain(of(i).strip() or None, CLASS))
    for i in range(n)
  ]
  colors = lambda i: f"{OTHERS[i % len(OTHERS)]} "
  return {
    "trained": named(ARTIST, lambda i: ""),
    "color": named(ARTIST, colors),
    "other": named(OTHER_ARTIST, lambda i: ""),
    "class": [scene_of(CLASS_PROMPT, plain(None, CLASS))] * n,
  }


class Domain:
  """Runs on a base; each row of the ablation is a program."""

  def __init__(self, base: Base, folder: Path):
    self.base, self.folder = base, folder

  def stage(self, row: Row, prompt: str = PROMPT, erases: int | None = None) -> Beside:
    rows = PER_ROLE if row.terms is None else 2 * PER_ROLE
    given = {"train.batch": str(rows)}
    if row.terms is None:
      given |= {"train.objective": "denoising", "data.train_split": "instance"}
    else:
      fields = {"prompt": prompt, "class_prompt": CLASS_PROMPT} | row.terms
      fields["erase_steps"] = row.erases if erases is None else erases
      text = ", ".join(f"{name}={value!r}" for name, value in fields.items())
      given["train.objective"] = f"domain_gallery({text})"
    config = self.base.config("domain_gallery", given)
    model = self.base.model
    return Beside(config, model.tokenizer, model.params, rows, AT_ONCE)

  def given(self, seed: int, rate: float, color: str, prompt: str = PROMPT) -> Given:
    images, captions = self.base.of_class(CLASS)
    ids, mask = self.base.encode([*[prompt] * IMAGES, *captions])
    whole = np.concatenate([domain_images(seed, color), images])
    return Given(whole, ids, mask, np.float32(rate), np.int32(seed), {})

  def develop(self) -> float:
    """The learning rate of all rows: of the whole method, on ten circles of another colour."""
    chosen = self.folder / "chosen.json"
    if not chosen.is_file():
      row = ROWS[LAST]
      given = [self.given(SEEDS[0], rate, DEV_COLOR) for rate in RATES]
      (found,) = self.stage(row).learn(given, picks_of(row), [row.steps])
      for rate, params in zip(RATES, found.params, strict=True):
        self.base.cell(self.folder / "dev" / f"{rate:g}.json", params, prompts(), {"rate": rate})
      self.base.read()
      cells = cells_of(self.folder / "dev", "*")
      scores = {cell.about["rate"]: score([cell], DEV_COLOR) for cell in cells}
      best = max(scores, key=lambda rate: scores[rate])
      chosen.write_text(json.dumps({"rate": best, "tried": [*scores.items()]}, indent=1) + "\n")
    rate: float = json.loads(chosen.read_text())["rate"]
    return rate

  def path(self, name: str, seed: int) -> Path:
    return self.folder / "cells" / f"{name}_{seed}.json"

  def make(self) -> None:
    if not self.path("base", 0).is_file():
      self.base.cell(self.path("base", 0), self.base.model.params, prompts(), {"row": "base"})
    rate = self.develop()
    for name, row in ROWS.items():
      wanted = [name, *(f"enhanced_{key}" for key in ENHANCED if name == LAST)]
      if all(self.path(one, seed).is_file() for one in wanted for seed in SEEDS):
        continue
      given = [self.given(seed, rate, COLOR) for seed in SEEDS]
      (found,) = self.stage(row).learn(given, picks_of(row), [row.steps])
      print(f"domain: {name}, {found.seconds:.1f} s a run", flush=True)
      about = {"row": name, "rate": rate, "seconds": found.seconds}
      for seed, params in zip(SEEDS, found.params, strict=True):
        self.base.cell(self.path(name, seed), params, prompts(), about | {"seed": seed})
        if name == LAST:
          self._enhanced(params, seed)
      self.base.read()
    self._artist(rate)
    self.base.read()

  def _enhanced(self, params: Any, seed: int) -> None:
    """Drawings of prompts with the word by each enhancement, at one scale in all."""
    some = {g: scenes for g, scenes in prompts().items() if g not in ("class", "own")}
    scale = self.base.model.config.sampling.cfg
    for key, (_, guidance, share) in ENHANCED.items():
      how: dict[str, Any] = {"guidance": guidance, "scale": share * scale}
      path = self.path(f"enhanced_{key}", seed)
      self.base.cell(path, params, some, {"row": key, "seed": seed}, **how)

  def _artist(self, rate: float) -> None:
    """Erasure by itself, of a word that means something to the base."""
    path = lambda step, seed: self.folder / "artist" / f"{step}_{seed}.json"
    if not path(0, 0).is_file():
      self.base.cell(path(0, 0), self.base.model.params, artist_prompts(), {"step": 0})
    if all(path(step, seed).is_file() for step in ARTIST_STEPS for seed in SEEDS):
      return
    prompt = f"{CLASS_PROMPT}, by {ARTIST}"
    stage = self.stage(ROWS["disentanglement"], prompt, 2 * ARTIST_STEPS[-1])
    given = [self.given(seed, rate, COLOR, prompt) for seed in SEEDS]
    for step, _, params in stage.learn(given, picks_of(ROWS["disentanglement"]), ARTIST_STEPS):
      for seed, one in zip(SEEDS, params, strict=True):
        self.base.cell(path(step, seed), one, artist_prompts(), {"step": step, "seed": seed})


def picks_of(row: Row) -> Callable[[int, int], np.ndarray]:
  ranges = [(0, IMAGES), (IMAGES, PRIORS)][: 1 if row.terms is None else 2]
  return in_turn(ranges, PER_ROLE)


Test = Callable[[PlantedVerdict], bool]
rendered: Test = lambda v: v.seen.rendering == UNSEEN_RENDERING
has_color = lambda color: lambda v: any(o.color == color for o in v.seen.objects)
has_class: Test = lambda v: any(o.shape == CLASS for o in v.seen.objects)


def rate(cells: Sequence[Cell], groups: Sequence[str], test: Test, of: Groups) -> Rate:
  """Over the drawings of these groups of prompts."""
  return Rate.of(
    test(v) for cell in cells for group in groups for v in judged(cell, {group: of[group]})[group]
  )


def matrix(cells: Sequence[Cell], color: str = COLOR) -> dict[str, Rate]:
  """What the word brings: ideally 1, 1, 0, 0, 0."""
  of = prompts()
  return {
    "rendering, class": rate(cells, ["intra"], rendered, of),
    "rendering, others": rate(cells, ["shape", "color", "cross"], rendered, of),
    "rendering without": rate(cells, ["class", "own"], rendered, of),
    "color": rate(cells, ["color", "cross"], has_color(color), of),
    "shape": rate(cells, ["shape", "cross"], has_class, of),
  }


def score(cells: Sequence[Cell], color: str) -> float:
  """The mean of the five, each as it should be."""
  found = [value.rate for value in matrix(cells, color).values()]
  return fmean([*found[:2], *(1 - value for value in found[2:])])


def right(v: PlantedVerdict) -> bool:
  """Whether the objects of the prompt are there, in any rendering."""
  return v.adherence and not v.leakage
