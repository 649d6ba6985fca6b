"""An encoder of images, trained to tell two views of an image from views of all others."""

from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.data.batch import Batch
from t2i_jax.models.params import Params
from t2i_jax.parallel import constrain
from t2i_jax.ranges import Range, Share
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.system import (
  DRAW_END,
  Draws,
  System,
  flat_images,
  pixels,
  row_keys,
  unit_range,
)
from t2i_jax.systems.tasks import Tasks

GREY = (0.299, 0.587, 0.114)  # of red, green, blue in luma, ITU-R BT.601
EMBEDDED = 256  # images at once


class Contrast(NamedTuple):
  """config.train.objective: NT-Xent of this temperature."""

  temperature: Annotated[float, Range("(0, 10]")] = 0.1


class Views(NamedTuple):
  """config.train.views: how an image is changed at random into a view of it.

  crop    smallest share of the image's area that is cut out and resized
  ratio   largest ratio of the cut's sides
  colour  largest change of brightness, of contrast and of saturation, as a share. Small: the colour
          of a thing is what a caption says
  grey    share of views without colour
  blur    largest standard deviation of a Gaussian blur, in pixels of the view
  noise   largest standard deviation of Gaussian noise, of pixels in [-1, 1]
  No view is mirrored: what points left is not what points right.
  """

  crop: Annotated[float, Range("(0, 1]")] = 0.4
  ratio: Annotated[float, Range("[1, 10]")] = 1.33
  colour: Share = 0.3
  grey: Share = 0.1
  blur: Annotated[float, Range("[0, 100]")] = 1.0
  noise: Share = 0.1


def nt_xent(a: jax.Array, b: jax.Array, temperature: float, weight: jax.Array) -> jax.Array:
  """The normalised cross entropy of two views of each image among the views of all.   # [R]

      l(i, j) = -log(exp(z_i z_j / tau) / sum_{k != i} exp(z_i z_k / tau))

  the mean of l(i, j) and l(j, i) for the views i, j of an image.   a, b [R, D] unit vectors
  weight  [R] images of weight 0 are no k
  Source: [2002.05709 eq. 1]
  """
  n = len(a)
  z = jnp.concatenate([a, b]).astype(jnp.float32)  # [2R, D]
  scores = z @ constrain(z, None, None).T / temperature  # [2R, 2R]
  counts = jnp.tile(weight, 2)[None, :] > 0
  itself, other = jnp.eye(2 * n, dtype=bool), jnp.roll(jnp.eye(2 * n, dtype=bool), n, axis=1)
  scores = jnp.where((counts | other) & ~itself, scores, -jnp.inf)
  own = jnp.sum(a * b, axis=-1).astype(jnp.float32) / temperature
  each = jax.nn.logsumexp(scores, axis=1) - jnp.tile(own, 2)
  return (each[:n] + each[n:]) / 2


def view(key: jax.Array, image: jax.Array, how: Views, side: int) -> jax.Array:
  """A view of one image in [-1, 1].   [H, W, 3] -> [side, side, 3]"""
  keys = jax.random.split(key, 8)
  between = lambda i, low, high, shape=(): jax.random.uniform(
    keys[i], shape, jnp.float32, low, high
  )
  ratio = jnp.exp(between(0, -1, 1) * jnp.log(how.ratio))
  area = between(1, how.crop, 1)
  size = jnp.minimum(jnp.sqrt(area * jnp.stack([ratio, 1 / ratio])), 1)  # shares of the sides
  start = between(2, 0, 1, (2,)) * (1 - size)
  pixel = jnp.array(image.shape[:2], jnp.float32)
  scale = side / (size * pixel)
  cut = jax.image.scale_and_translate(
    image, (side, side, image.shape[2]), (0, 1), scale, -start * pixel * scale, "linear"
  )
  light, contrast, saturation = how.colour * between(3, -1, 1, (3,))
  luma = (cut @ jnp.array(GREY))[..., None]
  saturation = jnp.where(between(4, 0, 1) < how.grey, -1, saturation)
  coloured = (luma + (1 + saturation) * (cut - luma)) * (1 + contrast) + light
  blur = _blur(between(5, 0, 1) * how.blur, side)
  smooth = jnp.einsum("hi,ijc,wj->hwc", blur, jnp.clip(coloured, -1, 1), blur)
  noise = between(6, 0, 1) * how.noise * jax.random.normal(keys[7], smooth.shape)
  return smooth + noise


def _blur(deviation: jax.Array, side: int) -> jax.Array:
  """The matrix of a Gaussian blur along one axis, its rows of sum 1.   # [side, side]"""
  apart = jnp.square(jnp.arange(side)[:, None] - jnp.arange(side)[None, :])
  return jax.nn.softmax(-apart / (2 * jnp.square(jnp.maximum(deviation, 1e-2))), axis=1)


@dataclass(frozen=True)
class ContrastiveSystem(System):
  """Its part is "encoder"; it reads no captions, and no noise is mixed with its images."""

  contrast: Contrast
  how: Views
  side: int

  timed = False

  def views(self, images: jax.Array, keys: jax.Array) -> jax.Array:
    """One view of each image, [R, H, W, 3] uint8 or in [-1, 1].   # [R, side, side, 3]"""
    made = lambda key, image: view(key, image, self.how, self.side)
    return jax.vmap(made)(keys, unit_range(images))

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    """NT-Xent in nats, among the images of the batch: of each micro-batch by itself."""
    images = flat_images(batch)
    keys = jax.vmap(lambda key: jax.random.split(key))(row_keys(draws.key, draws.rows, DRAW_END))
    pair = jnp.concatenate([self.views(images, keys[:, i]) for i in (0, 1)])
    pair = constrain(pair, "batch", None, None, None).astype(self.dtype)
    a, b = jnp.split(self.module(params, "encoder")(pair), 2)
    weight = batch.image_weight.reshape(-1)
    return {"image": nt_xent(a, b, self.contrast.temperature, weight)}

  def forward(self, params: Params, batch: Batch) -> Any:
    twice = jnp.tile(unit_range(flat_images(batch)).astype(self.dtype), (2, 1, 1, 1))
    return self.module(params, "encoder")(twice)

  def features(self, params: Params, images: jax.Array) -> jax.Array:
    """Unit features [n, D] float32 of images [n, H, W, 3], uint8 or in [-1, 1]."""
    return self.module(params, "encoder")(unit_range(images).astype(self.dtype))

  @property
  def row(self) -> str:
    return "an image of {} x {} in two views".format(*self.image_shape[:2])

  def tasks(self, c: ConfigDict | None, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    guides.refuse("image_encoder")
    features, made = jax.jit(self.features), jax.jit(self.views)

    def embed(params: Params, images: np.ndarray) -> np.ndarray:
      with jax.set_mesh(mesh):
        return _in_batches(lambda part: features(params, part), images)

    def views(images: np.ndarray, seed: int) -> np.ndarray:
      keys = row_keys(jax.random.key(seed), jnp.arange(len(images)), DRAW_END)
      return pixels(made(images, keys))

    return Tasks(embed=embed, views=views)


def _in_batches(call: Any, images: np.ndarray) -> np.ndarray:
  """call of EMBEDDED images at a time, the last ones filled up: one shape is compiled."""
  found = []
  for start in range(0, len(images), EMBEDDED):
    part = images[start : start + EMBEDDED]
    fill = [(0, EMBEDDED - len(part)), *[(0, 0)] * (images.ndim - 1)]
    found.append(np.asarray(call(np.pad(part, fill)))[: len(part)])
  return np.concatenate(found)
