"""Memorisation: whether a model draws images that it was trained on.

Three measures. Before an image is drawn, the norm of what the prompt changes in the prediction: a
prompt whose image was memorised changes it most, and alike from any noise [2407.21720 sec. 3]. Of a
drawn image, the nearest training image by features, beside how near training images are to each
other. Of many images of one prompt, how many are nearly the same, which needs no training image
[2301.13188 sec. 4]. And what a score separates: its area under the curve, and the share that is
found at a given share of false alarms.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from t2i_jax.data.transforms import fit
from t2i_jax.errors import ConfigError
from t2i_jax.process import Prediction, Time, convert

SIDE = 16  # pixels of the images that `pixel_features` compares
TILES = 4  # a side, of `tile_distances`
FALSE_ALARMS = 0.01
DIFFERENCES = ("x0", "velocity", "v")
Embed = Callable[[np.ndarray], np.ndarray]  # uint8 [n, H, W, 3] -> unit features [n, D] float32


def text_difference(
  with_text: Prediction, without: Prediction, x_t: jax.Array, time: Time, kind: str = "x0"
) -> jax.Array:
  """The norm of what a prompt changes in a prediction, by row [2407.21720 sec. 3].   # [B] float32

      d = |p(x_t, c) - p(x_t, "")|_2 / sqrt(dimensions)

  x_t   [B, ...];   kind: "x0", "velocity" or "v"
  The paper takes eps of models with alpha(1) > 0. Where alpha = 0, x_t is the noise itself, and so
  is its prediction with any text: eps - eps' is 0 whatever the network says, or not determined.
  In x0 the difference at t = 1 is that of the means of two sets of images, and in velocity the same
  but for the sign; in eps it is alpha / sigma of that in x0. Raises ConfigError for another kind.
  """
  if kind not in DIFFERENCES:
    raise ConfigError(
      f"a difference of {kind!r} is 0 or undefined where alpha = 0. Use {', '.join(DIFFERENCES)}."
    )
  one, other = (convert(p, kind, x_t, time).value for p in (with_text, without))
  return jnp.sqrt(jnp.mean(jnp.square(one - other), axis=tuple(range(1, x_t.ndim))))


def auc(positive: Any, negative: Any) -> float:
  """The probability that a score of `positive` is above one of `negative`; equal ones count half.

  [n], [m], both at least 1; nan where one is empty.
  """
  a, b = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
  if not len(a) or not len(b):
    return float("nan")
  below, at_most = (np.searchsorted(b, a, side) for side in ("left", "right"))
  return float(np.mean(below + at_most) / (2 * len(b)))


def found_at(positive: Any, negative: Any, false_alarms: float = FALSE_ALARMS) -> float:
  """The share of `positive` above the lowest threshold that at most a share of `negative` is above.

  With fewer than 1 / false_alarms of `negative`, none of them may be above. nan where one is empty.
  """
  a, b = np.asarray(positive, np.float64), np.sort(np.asarray(negative, np.float64))
  if not len(a) or not len(b):
    return float("nan")
  allowed = int(np.floor(false_alarms * len(b) + 1e-9))
  return float(np.mean(a > b[len(b) - 1 - allowed])) if allowed < len(b) else 1.0


def pixel_features(images: np.ndarray) -> np.ndarray:
  """Small images without their mean, of length 1.   uint8 [n, H, W, 3] -> [n, D] float32

  An image of one colour has the features 0, which are near to none.
  """
  small = [np.asarray(fit(Image.fromarray(image), (SIDE, SIDE)), np.float32) for image in images]
  flat = np.stack(small).reshape(len(images), -1) / 255
  flat -= flat.mean(axis=1, keepdims=True)
  return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


class Nearest(NamedTuple):
  """Of each query the nearest of many images, by the cosine of their features.

  at  [n] int64, index of it, -1 where there is none;   similarity: [n] float32
  """

  at: np.ndarray
  similarity: np.ndarray

  def copied(self, threshold: float) -> np.ndarray:
    """Whether the query is nearer than the threshold.   # [n] bool"""
    return self.similarity > threshold


def nearest(queries: np.ndarray, features: Iterable[np.ndarray], without: Any = None) -> Nearest:
  """queries [n, D] float32; features: parts [m, D] of those of all images, in order.

  without  (index of the first of a part, similarities [n, m]) -> bool [n, m] of pairs that do not
           count, or None
  """
  index = np.full(len(queries), -1, np.int64)
  best = np.full(len(queries), -np.inf, np.float32)
  start = 0
  for part in features:
    scores = queries @ part.T
    if without is not None:
      scores = np.where(without(start, scores), -np.inf, scores)
    at = np.argmax(scores, axis=1)
    value = scores[np.arange(len(queries)), at]
    nearer = value > best
    index, best = np.where(nearer, start + at, index), np.where(nearer, value, best)
    start += len(part)
  return Nearest(index, best)


def calibrated(similarity: np.ndarray, false_alarms: float = FALSE_ALARMS) -> float:
  """The threshold that a share of training images exceeds with another training image.

  similarity  [n] of each to the nearest other one, exact duplicates left out: how near images come
              that are not copies of each other, as the training images beside which drawn ones are
              judged
  """
  found = similarity[np.isfinite(similarity)]
  return float(np.quantile(found, 1 - false_alarms, method="higher")) if len(found) else 1.0


def duplicates(hashes: Sequence[str]) -> dict[str, list[int]]:
  """Content hashes that occur more than once, with the places, the most frequent first."""
  found: dict[str, list[int]] = {}
  for i, one in enumerate(hashes):
    found.setdefault(one, []).append(i)
  several = [(one, places) for one, places in found.items() if len(places) > 1]
  return dict(sorted(several, key=lambda pair: -len(pair[1])))


def tile_distances(images: np.ndarray, tiles: int = TILES) -> np.ndarray:
  """The largest distance of any tile between images of one prompt [2301.13188 sec. 4].   # [n, n]

      max over tiles of |a - b|_2 / sqrt(dimensions of a tile),   of values in [0, 1]

  images  uint8 [n, H, W, C];   tiles: a side, at most H and W; what is left over is cropped
  The distance of whole images is small for any two on one plain ground, that of their most
  different tiles is not.
  """
  n, height, width, channels = images.shape
  h, w = height // tiles, width // tiles
  values = images[:, : h * tiles, : w * tiles].astype(np.float32) / 255
  parts = values.reshape(n, tiles, h, tiles, w, channels).transpose(1, 3, 0, 2, 4, 5)
  parts = parts.reshape(tiles * tiles, n, -1)
  found = np.zeros((n, n), np.float32)
  for part in parts:  # [n, D]
    square = np.sum(np.square(part), axis=1)
    between = np.maximum(square[:, None] + square[None] - 2 * part @ part.T, 0) / part.shape[1]
    np.fill_diagonal(between, 0)
    found = np.maximum(found, np.sqrt(between))
  return found


def largest_clique(near: np.ndarray, enough: int | None = None) -> list[int]:
  """The largest set whose members are all near to each other, or one of `enough` members.

  near  bool [n, n], symmetric
  Bron and Kerbosch's search with pivots, ended where no larger set can follow. Of images of one
  prompt ten that are nearly the same show that it is memorised [2301.13188 sec. 4].
  """
  n = len(near)
  neighbours = [{j for j in np.flatnonzero(row).tolist() if j != i} for i, row in enumerate(near)]
  best: list[int] = []

  def search(chosen: list[int], open_: set[int], done: set[int]) -> bool:
    """Whether `enough` is reached."""
    nonlocal best
    if len(chosen) > len(best):
      best = chosen
      if enough is not None and len(best) >= enough:
        return True
    if len(chosen) + len(open_) <= len(best):
      return False
    pivot = max(open_ | done, key=lambda v: len(neighbours[v] & open_))
    for vertex in sorted(open_ - neighbours[pivot]):
      own = neighbours[vertex]
      if search([*chosen, vertex], open_ & own, done & own):
        return True
      open_.remove(vertex)
      done.add(vertex)
    return False

  search([], set(range(n)), set())
  return sorted(best)
