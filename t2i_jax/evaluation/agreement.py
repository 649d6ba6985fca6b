"""How well a pair of images agrees with a pair of captions, by features of an encoder.

The filter of InstructPix2Pix's data [2211.09800 sec. 3.1.2], and of its authors' code:

    image-image  cos(f(before), f(after))                        what is left of the image
    directional  cos(f(after) - f(before), g(edited) - g(caption))   [2108.00946 eq. 2]
    text-image   the lesser of cos(f(before), g(caption)) and cos(f(after), g(edited))
"""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import numpy as np

from t2i_jax.ranges import Range

Cosine = Annotated[float, Range("[-1, 1]")]
NOT_BEST = "not among the best of its edit"


class Thresholds(NamedTuple):
  """The least similarities; the defaults are the authors', for CLIP ViT-L/14."""

  image_image: Cosine = 0.7
  directional: Cosine = 0.2
  text_image: Cosine = 0.2


class Agreement(NamedTuple):
  """Similarities of n pairs, float64 [n]; without features of texts the latter two are None."""

  image_image: np.ndarray
  directional: np.ndarray | None = None
  text_image: np.ndarray | None = None

  def of(self, i: int) -> dict[str, float]:
    """Those of one pair, by name."""
    found = self._asdict().items()
    return {name: float(values[i]) for name, values in found if values is not None}


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Of rows [n, D]; 0 where one of them is zero.   # [n]"""
  a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
  size = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return np.sum(a * b, axis=-1) / np.where(size > 0, size, 1)


def agreement(
  before: np.ndarray,
  after: np.ndarray,
  captions: np.ndarray | None = None,
  edited: np.ndarray | None = None,
) -> Agreement:
  """Of features [n, D] of images and of their captions."""
  near = cosine(before, after)
  if captions is None or edited is None:
    return Agreement(near)
  directional = cosine(after - before, edited - captions)
  return Agreement(near, directional, np.minimum(cosine(before, captions), cosine(after, edited)))


def reason_against(found: dict[str, float], least: Thresholds) -> str | None:
  """Why a pair is rejected by its similarities, or None."""
  for name, bound in least._asdict().items():
    if name in found and found[name] < bound:
      return f"{name.replace('_', '-')} similarity below {bound:g}"
  return None


def best(scores: Sequence[float], keep: int) -> list[int]:
  """The indices of the highest scores, at most `keep`, the first of equal ones; in order."""
  ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
  return sorted(ranked[:keep])
