"""Retrieval: how often the real image nearest to a drawn one has the concept of its caption.

For images without an exact judge. Near is the cosine of an encoder's features, trained without
labels (configs/emoji_contrastive.py), beside the distance of pixels and chance. An encoder is no
better than its own recall, which is measured on images that it was not trained on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from rich.table import Table

from t2i_jax.data.record import Record
from t2i_jax.data.transforms import fit
from t2i_jax.errors import DataError
from t2i_jax.evaluation.stats import CONFIDENCE, Rate

TOP = (1, 5)  # nearest images among which one has to be right
ITSELF = "key"  # in place of a key of meta: each record is a concept of its own
SHOWN = 24  # drawn images in a report
Embed = Callable[[np.ndarray], np.ndarray]


class Figure(NamedTuple):
  """Rates by k: of how many queries one of the k nearest images has the concept.

  query   what is looked for;   by: "encoder" or "pixels"
  chance  the same for k images at random
  """

  query: str
  by: str
  top: Mapping[int, Rate]
  chance: Mapping[int, float]

  def to_json(self) -> dict[str, Any]:
    top = {f"top{k}": rate.to_json() | {"chance": self.chance[k]} for k, rate in self.top.items()}
    return {"query": self.query, "by": self.by} | top


class Neighbour(NamedTuple):
  """An image, the real one nearest to it, and whether that has the concept looked for."""

  caption: str
  image: np.ndarray
  nearest: np.ndarray
  right: bool


@dataclass(frozen=True)
class Retrieval:
  """The figures of one split, of `images` real images with `concepts` different concepts."""

  split: str
  images: int
  concepts: int
  figures: tuple[Figure, ...]
  samples: tuple[Neighbour, ...] = ()

  def to_json(self) -> dict[str, Any]:
    """Everything but the images."""
    about = {"split": self.split, "images": self.images, "concepts": self.concepts}
    figures = [figure.to_json() for figure in self.figures]
    return about | {"confidence": CONFIDENCE, "figures": figures}


def concepts_of(records: Sequence[Record], key: str = "concept") -> list[str]:
  """The concept of each record: of its metadata, or its own key. Raises DataError without one."""
  if key == ITSELF:
    return [record.key for record in records]
  for record in records:
    if not isinstance(record.meta.get(key), str):
      has = ", ".join(sorted(record.meta)) or "nothing"
      raise DataError(
        f"record {record.key!r} has no {key!r} in its metadata (it has {has}): retrieval needs the "
        f"concept of each image, as --from emoji stores it. Use --concept={ITSELF} to count each "
        "image as a concept of its own, or another name of the metadata."
      )
  return [record.meta[key] for record in records]


def by_cosine(queries: np.ndarray, real: np.ndarray) -> np.ndarray:
  """Scores of unit features [n, D], [m, D].   # [n, m] float32"""
  return queries @ real.T


def by_pixels(queries: np.ndarray, real: np.ndarray) -> np.ndarray:
  """Minus the squared distance of images [n, H, W, 3], [m, H, W, 3].   # [n, m] float32"""
  a, b = (x.reshape(len(x), -1).astype(np.float32) / 255 for x in (queries, real))
  return 2 * a @ b.T - np.sum(np.square(a), axis=1)[:, None] - np.sum(np.square(b), axis=1)[None]


def figure(
  query: str,
  by: str,
  scores: np.ndarray,
  wanted: Sequence[str],
  concepts: Sequence[str],
  allowed: np.ndarray | None = None,
) -> Figure:
  """The rates of scores [n, m] of n queries for their `wanted` concept among m images.

  allowed  bool [n, m], images that a query is compared with; None: all
  Where several images have the concept, the nearest of them counts; images that are equally near
  share a place. Queries whose concept no image has are left out.
  """
  right = np.asarray(wanted)[:, None] == np.asarray(concepts)[None, :]
  allowed = np.ones_like(right) if allowed is None else allowed
  right = right & allowed
  kept = right.any(axis=1)
  right, allowed, scores = right[kept], allowed[kept], scores[kept]
  best = np.max(np.where(right, scores, -np.inf), axis=1, initial=-np.inf)
  place = 1 + np.sum((scores > best[:, None]) & allowed, axis=1)
  among, hits = allowed.sum(axis=1), right.sum(axis=1)
  top = {k: Rate.of(place <= k) for k in TOP}
  chance = {k: float(np.mean(1 - _misses(among, hits, k))) if len(hits) else 0.0 for k in TOP}
  return Figure(query, by, top, chance)


def _misses(among: np.ndarray, hits: np.ndarray, k: int) -> np.ndarray:
  """The probability that none of k different images at random is one of the hits."""
  drawn = np.arange(k)
  left = (among - hits)[:, None] - drawn
  return np.prod(np.maximum(left, 0) / np.maximum(among[:, None] - drawn, 1), axis=1)


def score_drawn(
  split: str,
  captions: Sequence[str],
  wanted: Sequence[str],
  drawn: np.ndarray,
  real: np.ndarray,
  concepts: Sequence[str],
  embed: Embed,
) -> Retrieval:
  """Images [n, H, W, 3] drawn for captions of these concepts, among all real ones of a split.

  real [m, H, W, 3] uint8 and their concepts;   embed: uint8 images -> unit features
  """
  scores = by_cosine(embed(drawn), embed(real))
  figures = (
    figure("drawn images", "encoder", scores, wanted, concepts),
    figure("drawn images", "pixels", by_pixels(drawn, real), wanted, concepts),
  )
  samples = _neighbours(scores, captions, wanted, drawn, real, concepts)
  return Retrieval(split, len(real), len(set(concepts)), figures, samples)


def _neighbours(
  scores: np.ndarray,
  captions: Sequence[str],
  wanted: Sequence[str],
  images: np.ndarray,
  real: np.ndarray,
  concepts: Sequence[str],
) -> tuple[Neighbour, ...]:
  """Of the first SHOWN queries."""
  found = []
  for i in range(min(SHOWN, len(images))):
    nearest = int(np.argmax(scores[i]))
    right = concepts[nearest] == wanted[i]
    found.append(Neighbour(captions[i], images[i], real[nearest], right))
  return tuple(found)


def score_encoder(
  split: str,
  captions: Sequence[str],
  images: np.ndarray,
  concepts: Sequence[str],
  styles: Sequence[str],
  embed: Embed,
  views: np.ndarray,
) -> Retrieval:
  """What an encoder retrieves itself, of a split that it was not trained on.

  styles  of the images: each is looked for among those of other styles
  views   one random view of each image, uint8 [m, h, w, 3], looked for among all images
  """
  features = embed(images)
  small = resized(images, views.shape[1:3])
  others = np.asarray(styles)[:, None] != np.asarray(styles)[None, :]
  figures = []
  for by, of_views, of_images in (
    ("encoder", by_cosine(embed(views), features), by_cosine(features, features)),
    ("pixels", by_pixels(views, small), by_pixels(images, images)),
  ):
    figures.append(figure("views of an image", by, of_views, concepts, concepts))
    figures.append(
      figure("the concept in another style", by, of_images, concepts, concepts, others)
    )
  scores = np.where(others, by_cosine(features, features), -np.inf)
  samples = _neighbours(scores, captions, concepts, images, images, concepts)
  return Retrieval(split, len(images), len(set(concepts)), tuple(figures), samples)


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """uint8 [m, H, W, 3] at another size."""
  return np.stack([np.asarray(fit(Image.fromarray(image), size)) for image in images])


def sentence(found: Retrieval) -> str:
  """The figures as text, for a report."""
  parts = [
    f"{one.query} by {one.by}: "
    + ", ".join(
      f"top {k} {rate.percent()} {rate.interval()} (chance {100 * one.chance[k]:.1f}%)"
      for k, rate in one.top.items()
    )
    for one in found.figures
  ]
  return f"Among {found.images} real images of {found.concepts} concepts. {'; '.join(parts)}."


def table(found: Sequence[Retrieval]) -> Table:
  """For a console."""
  made = Table(
    title="Retrieval",
    caption=f"how often one of the nearest real images has the concept; {CONFIDENCE:.0%} intervals",
    min_width=72,
  )
  for name in ("split", "query", "nearest by"):
    made.add_column(name)
  for k in TOP:
    made.add_column(f"top {k}", justify="right")
    made.add_column("chance", justify="right")
  for one in found:
    for row in one.figures:
      cells = [
        cell
        for k, rate in row.top.items()
        for cell in (f"{rate.percent()} {rate.interval()}", f"{100 * row.chance[k]:.1f}%")
      ]
      made.add_row(f"{one.split}, {one.images} images", row.query, row.by, *cells)
  return made
