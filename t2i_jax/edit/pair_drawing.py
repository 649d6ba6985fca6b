"""How pairs of edits as text are drawn: with the same noise, by Prompt-to-Prompt, or as renders."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import jax
import numpy as np

from t2i_jax.data.edit_texts import EditTriple
from t2i_jax.data.scenes import render
from t2i_jax.edit.pairs import Given, Pairs
from t2i_jax.edit.prompt_to_prompt import PromptToPrompt
from t2i_jax.edit.towers import places_of, read
from t2i_jax.evaluation.agreement import Thresholds
from t2i_jax.inference import Model
from t2i_jax.parallel import overridden
from t2i_jax.ranges import Count, Range, Seed, Share

SEED, P2P, EXACT = "seed", "p2p", "exact"


class How(NamedTuple):
  """How pairs are made.

  kind        "seed": both captions with the same noise; "p2p": by Prompt-to-Prompt besides, with a
              fraction of its steps drawn for each candidate; "exact": renders of scenes
  candidates  that are drawn of an edit;   keep: at most so many of them, those of the highest
              directional similarity. In the paper 100 and 4
  fractions   between which the fraction of p2p is uniform
  seed        of the first candidate of the first edit
  judge       candidates that the exact judge of scenes finds wrong are rejected
  thresholds  of the encoder's similarities, where there is one
  val_fraction  share of the edits that are validated on
  """

  kind: str = SEED
  candidates: Count = 1
  keep: Count = 1
  fractions: tuple[Share, Share] = (0.1, 0.9)
  seed: Seed = 0
  judge: bool = False
  thresholds: Thresholds = Thresholds()
  val_fraction: Annotated[float, Range("[0, 1)")] = 0.02


class Candidates(NamedTuple):
  """Of n candidates: their edits and numbers, and what each is drawn with."""

  triples: list[EditTriple]
  keys: list[str]
  seeds: list[int]
  fractions: list[float]

  @property
  def captions(self) -> list[str]:
    return [triple.caption for triple in self.triples]

  @property
  def edited(self) -> list[str]:
    return [triple.edited for triple in self.triples]


def candidates_of(triples: Sequence[EditTriple], start: int, how: How) -> Candidates:
  """start: the number of the first edit"""
  numbers = [(start + i, k) for i in range(len(triples)) for k in range(how.candidates)]
  draw = lambda i, k: np.random.default_rng([how.seed, i, k]).uniform(*how.fractions)
  return Candidates(
    [triples[i - start] for i, _ in numbers],
    [f"{i:06d}/{k:03d}" for i, k in numbers],
    [(how.seed + i * how.candidates + k) % 2**32 for i, k in numbers],
    [float(draw(i, k)) for i, k in numbers],
  )


# Candidates -> images before and after, uint8 [n, H, W, 3] each.
DrawPairs = Callable[[Candidates], tuple[np.ndarray, np.ndarray]]


def _same_seed(model: Model) -> DrawPairs:
  return lambda given: (
    model.draw(given.captions, given.seeds),
    model.draw(given.edited, given.seeds),
  )


def _exact(model: Model) -> DrawPairs:
  """Renders of the scenes before and after."""
  size = model.config.data.image_size[0]

  def draw(given: Candidates) -> tuple[np.ndarray, np.ndarray]:
    turns = [triple.turn for triple in given.triples]
    scenes = [(turn.before, turn.after) for turn in turns if turn is not None]
    before, after = ([render(scene, size) for scene in side] for side in zip(*scenes, strict=True))
    return np.stack(before), np.stack(after)

  return draw


def _p2p(model: Model) -> DrawPairs:
  """By Prompt-to-Prompt: attention to the text and the image's own in a fraction of the steps.

  In [2211.09800 sec. 3.1.2] and its code it is self-attention alone.
  """
  system, drawing = model.system, Pairs(model)
  place = places_of(system)

  def rows(triple: EditTriple, fraction: float) -> Any:
    source, target = (read(system, place, text) for text in (triple.caption, triple.edited))
    method = PromptToPrompt(inside=fraction)
    return method.rows(source, target, drawing.steps, fraction)._replace(words=None)

  def draw(given: Candidates) -> tuple[np.ndarray, np.ndarray]:
    edits = [rows(*one) for one in zip(given.triples, given.fractions, strict=True)]
    tokens = lambda texts: {name: one.encode(texts) for name, one in system.text.items()}
    null = tokens([model.config.sampling.negative] * len(edits))
    edit = jax.tree.map(lambda *leaves: np.stack(leaves), *edits)
    seeds = np.asarray(given.seeds, np.uint32)
    with overridden(model.config.mesh.rules):
      drawn = drawing.draw(Given(tokens(given.captions), tokens(given.edited), null, seeds, edit))
    return drawn.before, drawn.after

  return draw


# By How.kind, of a model.
DRAWS: dict[str, Callable[[Model], DrawPairs]] = {SEED: _same_seed, P2P: _p2p, EXACT: _exact}
