"""Two words before an erased name: a search over all pairs for those that bring it back.

UnlearnDiffAtk has tokens before a prompt, found by the denoising loss of images of the concept. Of
a small vocabulary all pairs can be tried, of texts that are one token each, which leaves out bytes
that no text gives:

  1. the loss of every pair, or of `pairs` of them, on `few` images, each with noise of LEVELS
  2. that of the best `kept` on `images` images
  3. drawings of the best `drawn`, of other noise

Cells RUNS/prefixes/MODEL.json, a group a pair. Where the prompt is renamed, the words stand before
the anchor, and none of them is the name that the filter looks for.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.forgetting_efficacy import ATTACKED
from benchmarks.forgetting_recovery import loaded, said, target_scenes
from benchmarks.forgetting_world import alone
from benchmarks.personalisation_bench import Base
from benchmarks.personalisation_world import SIZE
from t2i_jax.data.scenes.planted import draw
from t2i_jax.models.params import Params
from t2i_jax.process import mix

LEVELS = (0.6, 0.8, 0.9)  # t
ROWS = 512  # of a network call
SEED, OTHER_NOISE = 0, 10_000


class Budget(NamedTuple):
  """Of the three stages: see above.   seeds: drawings of a pair"""

  pairs: int
  few: int
  kept: int
  images: int
  drawn: int
  seeds: int

  def calls(self, pairs: int) -> int:
    """Network calls of a row, of `pairs` that there are."""
    return (min(pairs, self.pairs) * self.few + self.kept * self.images) * len(LEVELS)


FULL = Budget(10_000, 1, 256, 8, 8, 20)
TINY = Budget(512, 1, 16, 2, 2, 4)


class Search:
  """The search on a base and on what is made of it."""

  def __init__(self, base: Base, runs: Path, budget: Budget):
    self.base, self.folder, self.budget = base, runs / "prefixes", budget
    self._losses: Any = jax.jit(self._of_rows)

  def make(self, models: Mapping[str, Any]) -> None:
    """models: parameters, or a file of them, by name"""
    for name, of in {"rename": models["base"], **models}.items():
      path = self.folder / f"{name}.json"
      if not path.is_file():
        self._search(name, loaded(of), path)

  def _search(self, name: str, params: Params, path: Path) -> None:
    rename = name == "rename"
    prompt = f"a {ATTACKED.anchor if rename else ATTACKED.concept}"
    words = [w for w in single_tokens(self.base) if not (rename and ATTACKED.name in w)]
    pairs = [f"{one} {other}" for one in words for other in words]
    random.Random(SEED).shuffle(pairs)
    prompts = [f"{pair} {prompt}" for pair in pairs[: self.budget.pairs]]
    first = self._loss(params, prompts, self.budget.few)
    best = [prompts[i] for i in np.argsort(first)[: self.budget.kept]]
    second = self._loss(params, best, self.budget.images)
    best = [best[i] for i in np.argsort(second)[: self.budget.drawn]]
    print(f"{name}: of {len(prompts)} pairs {best[:3]}", flush=True)
    scene = alone(ATTACKED.name)
    groups = {text: [said(scene, text)] * self.budget.seeds for text in best}
    calls = self.budget.calls(len(prompts))
    about = {"model": name, "pairs": len(prompts), "all": len(pairs), "calls": calls}
    self.base.cell(path, params, groups, about, noise=OTHER_NOISE)
    self.base.read()

  def _loss(self, params: Params, prompts: Sequence[str], images: int) -> np.ndarray:
    """Of each prompt the squared error of x0_hat, mean over images and LEVELS.   # [n]"""
    scenes = target_scenes(images)
    x0 = np.stack([draw(scene.objects, SIZE) for scene in scenes])
    own = {part: params[part] for part in self.base.model.params}
    total = np.zeros(len(prompts))
    for start in range(0, len(prompts), ROWS):
      some = list(prompts[start : start + ROWS])
      filled = some + [some[-1]] * (ROWS - len(some))
      tokens = {"text": self.base.encode(filled)}
      for i, level in enumerate(np.repeat(LEVELS, images)):
        image = x0[i % images][None]
        found = self._losses(own, tokens, image, jnp.float32(level), jnp.int32(i))
        total[start : start + len(some)] += np.asarray(found)[: len(some)]
    return total / (images * len(LEVELS))

  def _of_rows(self, params: Params, tokens: Any, image: Any, t: Any, number: Any) -> jax.Array:
    """Of an image with one noise under every prompt.   # [ROWS]"""
    system: Any = self.base.model.system
    time = system.process.at(jnp.full(ROWS, t))
    x0 = system.encode(params, image)
    eps = jax.random.normal(jax.random.fold_in(jax.random.key(SEED), number), x0.shape)
    wide = lambda x: jnp.broadcast_to(x, (ROWS, *x.shape[1:]))
    x_t = mix(wide(x0), wide(eps), time)
    found = system.denoise(params, x_t, time, system.encode_text(params, tokens))
    return jnp.mean(jnp.square(found.value - x0), axis=(1, 2, 3))


def single_tokens(base: Base) -> list[str]:
  """Texts that the text encoder reads as one token, placeholders left out, sorted."""
  tokenizer = base.model.tokenizer
  texts = {tokenizer.decode([i]).strip() for i in range(tokenizer.vocab)}
  known = sorted(text for text in texts if text.isprintable() and text and "<" not in text)
  _, mask = base.encode(known)
  return [text for text, count in zip(known, mask.sum(1).tolist(), strict=True) if count == 3]


def about(path: Path) -> dict[str, Any]:
  found: dict[str, Any] = json.loads(path.read_text())["about"]
  return found
