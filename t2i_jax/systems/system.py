"""A system: parts with weights, and an objective over them, as pure functions of parameters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.autoencoders import sample
from t2i_jax.data.batch import Batch, Features, Tokens
from t2i_jax.data.features import Cached
from t2i_jax.data.latents import MOMENTS, Latents
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.transforms import Caption, Crop, Transform
from t2i_jax.errors import NotFinite
from t2i_jax.models import (
  abstract_of,
  axes_of,
  init_params,
  matmul_flops,
  matrices_of,
  with_params,
)
from t2i_jax.models.params import Params
from t2i_jax.process import Prediction, Process, Time, mix
from t2i_jax.process.losses import offset_noise, perturbed_input
from t2i_jax.process.preconditioning import preconditioned
from t2i_jax.process.schedules import flow
from t2i_jax.process.timesteps import TimestepDistribution, inside, shift, uniform
from t2i_jax.ranges import Range
from t2i_jax.systems.adapters import Adapted, bound
from t2i_jax.systems.guides import NO_GUIDES, Guides
from t2i_jax.systems.parts import Part
from t2i_jax.systems.tasks import Tasks
from t2i_jax.towers import TextEncoder

# What an image's randomness is for: these draw the same numbers on any mesh.
DRAW_T, DRAW_EPS, DRAW_DROP, DRAW_OFFSET = range(4)
DRAW_PERTURB, DRAW_POSTERIOR, DRAW_END, DRAW_ADAPTERS = range(4, 8)


def row_keys(key: jax.Array, rows: jax.Array, purpose: int) -> jax.Array:
  """One key a row, from the row's number in the global batch.   # [R]"""
  key = jax.random.fold_in(key, purpose)
  return jax.vmap(lambda row: jax.random.fold_in(key, row))(rows)


def row_noise(key: jax.Array, rows: jax.Array, purpose: int, shape: tuple[int, ...]) -> jax.Array:
  """Unit Gaussian of each row.   # [R, *shape]"""
  keys = row_keys(key, rows, purpose)
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


Extra = Annotated[float, Range("[0, 10]")]


class Noise(NamedTuple):
  """Gaussian noise, and how much is added to it: per channel, and to the input of the network."""

  offset: Extra = 0.0
  perturbation: Extra = 0.0


class Output(NamedTuple):
  """What the network predicts; sigma_data > 0 wraps it in EDM's preconditioning."""

  prediction: str
  learned_variance: bool = False
  sigma_data: float = 0.0


@dataclass(frozen=True)
class Mixing:
  """How training mixes data with noise: that part of config.process, built.

  shift       factor of timesteps.shift, by the image tokens of the images that are trained on
  t_sampling  any of T_SAMPLING
  """

  law: TimestepDistribution
  shift: Any
  t_sampling: tuple[str, ...]
  noise: Noise

  def t_of(self, u: jax.Array) -> jax.Array:
    """Quantiles of the timestep distribution, shifted, off both ends.   u in (0, 1) -> t"""
    return inside(shift(self.law(u), self.shift))


# Of a system that mixes no noise with its images; the step draws a t of each, which nothing reads.
NO_NOISE: dict[str, Any] = {"process": flow(), "mixing": Mixing(uniform(), 1.0, (), Noise())}


class Draws(NamedTuple):
  """What a step draws for the R = B N images of its batch.

  t     [R] time of each image
  rows  [R] int32, number of the image in the global batch: its noise depends on this alone
  key   of the step
  drop  encoder -> bool [B], rows whose caption becomes the null
  step  [] int32, optimiser steps done before this one
  validates  whether the loss is one of validation, in which nothing is dropped
  """

  t: jax.Array
  rows: jax.Array
  key: jax.Array
  drop: dict[str, jax.Array]
  step: jax.Array | int
  validates: bool = False


class Mixture(NamedTuple):
  """Data mixed with noise at time t: x0, eps, x_t [R, H, W, C], time of [R].

  seen  x_t as the network gets it, with the perturbation of the input
  """

  x0: jax.Array
  eps: jax.Array
  x_t: jax.Array
  seen: jax.Array
  time: Time


class Term(NamedTuple):
  """A term of the loss: the mean of its values, weighted by `counts` of the batch.

  weight  in the sum of the terms of its player
  player  whose parts learn from it
  """

  weight: float
  counts: Callable[[Batch], jax.Array]
  player: str = "model"


image_counts = lambda batch: batch.image_weight  # [B, N]
text_counts = lambda batch: batch.text_weight  # [B, L]


@dataclass(frozen=True)
class System:
  """What training, checkpoints and inference know of a system; each kind adds `losses`, `forward`.

  parts        by name: "backbone", "text", "vae", ...
  text         text encoders by name; one with weights is the part of that name
  autoencoder  config of the part "vae", or of one without weights
  x_shape      [h, w, C] of one x0
  latents      that the data set holds in place of images, or None
  cached       text encoders whose features the data set holds, by name
  adapters     parts that adapt other parts
  """

  parts: dict[str, Part]
  process: Process
  mixing: Mixing
  text: dict[str, TextEncoder]
  autoencoder: Any
  image_shape: tuple[int, int, int]
  dtype: Any
  latents: Latents | None = field(default=None, kw_only=True)
  cached: dict[str, Cached] = field(default_factory=dict, kw_only=True)
  adapters: dict[str, Adapted] = field(default_factory=dict, kw_only=True)

  @property
  def x_shape(self) -> tuple[int, int, int]:
    return self.autoencoder.latent_shape(self.image_shape)

  @property
  def row_shape(self) -> tuple[int, int, int]:
    """Of an image of the data set, or of the latents in its place."""
    return self.image_shape if self.latents is None else self.latents.row_shape

  def init(self, key: jax.Array) -> Params:
    """Fresh float32 parameters by part, {"backbone": ..., "text": ...}."""
    keys = dict(zip(self.parts, jax.random.split(key, len(self.parts)), strict=True))
    return {name: init_params(part.make, keys[name]) for name, part in self.parts.items()}

  @property
  def abstract(self) -> Params:
    """The parameters as ShapeDtypeStructs, in the structure of `init`."""
    return {name: abstract_of(part.make) for name, part in self.parts.items()}

  @property
  def axes(self) -> Params:
    return {name: axes_of(part.make) for name, part in self.parts.items()}

  @property
  def matrices(self) -> Params:
    return {name: matrices_of(part.make) for name, part in self.parts.items()}

  def module(self, params: Params, name: str, make: Callable[[nnx.Rngs], Any] | None = None) -> Any:
    """The network of a part with its weights and adapters;   make: of one that may have none."""
    return with_params(make or self.parts[name].make)(*bound(self.adapters, params, name))

  @property
  def terms(self) -> dict[str, Term]:
    """The terms of the loss; "image" is there always, its values [R] are logged by t."""
    return {"image": Term(1.0, image_counts)}

  @property
  def droppable(self) -> tuple[str, ...]:
    """Names of the text encoders whose captions training may drop."""
    return ()

  @property
  def players(self) -> dict[str, tuple[str, ...]]:
    """Who minimises which terms with which parts: {"model": (all parts)}."""
    return {"model": tuple(self.parts)}

  def losses(self, params: Params, batch: Batch, draws: Draws) -> dict[str, jax.Array]:
    """Values by term: of each image [R], of each token [B, L]: as many as its counts.

    What has the name of no term is a sum over the batch, for `moved` and `measured`.
    """
    raise NotImplementedError

  timed = True  # whether the loss depends on t: it is logged by t then
  reads: ClassVar[dict[str, Any]] = {}  # what data.transforms.Transform is given besides
  roles = ()  # what rows are for, in the order of the splits in data.train_split

  @property
  def kept(self) -> dict[str, Any]:
    """What is kept from step to step besides weights, as ShapeDtypeStructs; it begins at 0."""
    return {}

  def moved(
    self, trainable: Params, kept: dict[str, jax.Array], sums: dict[str, jax.Array], step: jax.Array
  ) -> tuple[Params, dict[str, jax.Array]]:
    """The weights that a step moves without a gradient, and `kept` after it.

    sums  over the whole batch, by the names that `losses` gives them
    step  [] int32, optimiser steps done before this one
    """
    return {}, kept

  def measured(self, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What is logged of the sums of a batch, or of many; in training `kept` replaces its own."""
    return {}

  def forward(self, params: Params, batch: Batch) -> Any:
    """The output of the networks at t = 1/2, for a batch whose images are x_t."""
    raise NotImplementedError

  def tasks(self, c: ConfigDict, mesh: Mesh, guides: Guides = NO_GUIDES) -> Tasks:
    """What it can do with config.sampling. Raises ConfigError for one that cannot run.

    guides  other models that guide it
    """
    raise NotImplementedError

  def encode(
    self,
    params: Params,
    images: jax.Array,
    key: jax.Array | None = None,
    rows: jax.Array | None = None,
  ) -> jax.Array:
    """Images of the data set, or latents in their place, to x0.   [R, *row_shape] -> [R, h, w, C]

    key   of a step, for an autoencoder that samples its latents; without one it gives their mean
    rows  [R] int32, as Draws has them: what is sampled for an image depends on these and the key
    """
    numbers = jnp.arange(len(images)) if rows is None else rows
    keys = None if key is None else row_keys(key, numbers, DRAW_POSTERIOR)
    if self.latents is None:
      return self.module(params, "vae", self.autoencoder.make).encode(unit_range(images), keys)
    if self.latents.stored == MOMENTS:
      mean, std = jnp.split(images, 2, axis=-1)
      return sample(mean, std, keys)
    return images

  def decode(self, params: Params, x0: jax.Array) -> jax.Array:
    """[R, h, w, C] -> images in [-1, 1], or latents where no autoencoder decodes them"""
    return self.module(params, "vae", self.autoencoder.make).decode(x0)

  def mix(self, x0: jax.Array, draws: Draws) -> Mixture:
    """x0 mixed with noise at draws.t: x_t = alpha x0 + sigma eps."""
    c, time = self.mixing.noise, self.process.at(draws.t)
    eps = row_noise(draws.key, draws.rows, DRAW_EPS, x0.shape[1:])
    if c.offset:
      per_channel = row_noise(draws.key, draws.rows, DRAW_OFFSET, (1, 1, x0.shape[-1]))
      eps = offset_noise(eps, per_channel, c.offset)
    x_t = mix(x0, eps, time)
    seen = x_t
    if c.perturbation:
      extra = row_noise(draws.key, draws.rows, DRAW_PERTURB, x0.shape[1:])
      seen = perturbed_input(x_t, time, extra, c.perturbation)
    return Mixture(x0, eps, x_t, seen, time)

  def check_captions(self, texts: Sequence[str]) -> None:
    """Raises PromptError for the first text that is too long for one of the encoders."""
    for encoder in self.text.values():
      encoder.encode(texts)

  def check_training(self, rows: int) -> None:
    """Raises ConfigError where the objective cannot be trained.   rows: of a micro-batch"""

  def row_maker(self, too_long: str = "error", crop: Crop = "centre") -> RowMaker:
    """Makes rows of records.   too_long: config.text.too_long;   crop: config.data.crop"""
    return self.transform(too_long, crop)

  def transform(self, too_long: str, crop: Crop) -> Transform:
    """Makes the row of an image and its caption."""
    captions = {name: Caption(text.tokenizer, text.length) for name, text in self.text.items()}
    stored = {name: cached.stored for name, cached in self.cached.items()}
    return Transform(self.row_shape[:2], captions, too_long, stored, crop, **self.reads)

  def rows(self, n: int) -> Batch:
    """n rows as the row maker gives them, of ShapeDtypeStructs."""
    of = jax.ShapeDtypeStruct
    pixels = jnp.uint8 if self.latents is None and self.image_shape[2] == 3 else jnp.float32
    one = of((n, 1), jnp.float32)
    text: dict[str, Tokens | Features] = {
      name: Tokens(of((n, t.length), jnp.int32), of((n, t.length), jnp.bool_))
      for name, t in self.text.items()
    }
    for name, (stored, null) in self.cached.items():
      shape = lambda x, dtype: None if x is None else of((n, *x.shape[1:]), dtype)
      tokens, pooled = shape(null.tokens, stored.dtype), shape(null.pooled, stored.dtype)
      text[name] = Features(tokens, shape(null.mask, jnp.bool_), pooled)
    return Batch(of((n, 1, *self.row_shape), pixels), one, one, text)

  @property
  def row(self) -> str:
    """What a row is, in plain text."""
    return "an image of {} x {} and its text".format(*self.x_shape[:2])

  def counted(self, batch: Batch) -> dict[str, jax.Array]:
    """What is logged of a batch besides its loss, by name."""
    return {}

  @cached_property
  def flops(self) -> int:
    """Matmul, convolution and attention FLOPs of one forward pass of one row."""
    return matmul_flops(self.forward, self.abstract, self.rows(1))


def predicted(
  output: Output, network: Callable[[jax.Array], jax.Array], x_t: jax.Array, time: Time
) -> Prediction:
  """A network's output as a Prediction; aux: the raw learned variance, shaped like x_t, or None."""
  kind, learned_variance, sigma_data = output
  if sigma_data:
    return Prediction(preconditioned(network, x_t, time, sigma_data), kind, None)
  if not learned_variance:
    return Prediction(network(x_t), kind, None)
  value, variance = jnp.split(network(x_t), 2, axis=-1)
  return Prediction(value, kind, variance)


def flat_images(batch: Batch) -> jax.Array:
  return batch.images.reshape(-1, *batch.images.shape[2:])  # [R, H, W, C]


def unit_range(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; latents, already float32, pass through."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def clipped(image: jax.Array) -> jax.Array:
  """Within [-1, 1]; what is not finite is NaN. Latents [..., C != 3] pass through."""
  if image.shape[-1] != 3:
    return image
  return jnp.where(jnp.isfinite(image), jnp.clip(image, -1, 1), jnp.nan)


def levels(image: jax.Array) -> jax.Array:
  """[-1, 1], clipped, to 0, 1 .. 255 in float32, which `checked` makes pixels of; latents pass."""
  return jnp.round((clipped(image) + 1) * 127.5) if image.shape[-1] == 3 else image


def checked(levels: jax.Array) -> np.ndarray:
  """Of `levels` uint8 [n, H, W, 3], or latents, on this host. Raises NotFinite: what is not finite
  would become a black or a white pixel."""
  found = np.asarray(levels)
  wrong = int(np.sum(~np.isfinite(found).all(axis=tuple(range(1, found.ndim)))))
  if wrong:
    raise NotFinite(
      f"{wrong} of {len(found)} images of a batch are not finite. The sampler leaves the range of "
      "numbers: use other sampling.solver, sampling.grid or sampling.steps, or a smaller "
      "sampling.cfg."
    )
  return found.astype(np.uint8) if found.shape[-1] == 3 else found


def pixels(image: jax.Array) -> np.ndarray:
  """[-1, 1], clipped, to uint8: the inverse of unit_range; latents pass. Raises NotFinite."""
  return checked(levels(image))
