"""A system: the point in design space that a config names, as pure functions of its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from t2i_jax.autoencoders import Identity
from t2i_jax.data.loader import RowMaker
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.data.transforms import Transform
from t2i_jax.models import (
  Conditioning,
  axes_of,
  init_params,
  matmul_flops,
  matrices_of,
  with_params,
)
from t2i_jax.models.classifier import log_prob, present
from t2i_jax.models.conditioning import drop_towers
from t2i_jax.models.control import Control
from t2i_jax.models.params import Params
from t2i_jax.process import (
  Prediction,
  Process,
  Time,
  denoising_loss,
)
from t2i_jax.process.losses import Penalty
from t2i_jax.process.preconditioning import preconditioned
from t2i_jax.process.timesteps import TimestepLaw, inside, shift
from t2i_jax.process.variational import variance_loss
from t2i_jax.process.weightings import Weighting

Batch = dict[str, Any]


class Noise(NamedTuple):
  """Gaussian noise, and how much is added to it: per channel, and to what the network sees."""

  offset: float = 0.0
  perturbation: float = 0.0


class Output(NamedTuple):
  """What the network predicts; sigma_data > 0 wraps it in EDM's preconditioning."""

  prediction: str
  learned_variance: bool = False
  sigma_data: float = 0.0


@dataclass(frozen=True)
class Mixing:
  """How training mixes data with noise: that part of config.process, built.

  shift       factor of timesteps.shift, by the image tokens of the pictures that are trained on
  t_sampling  any of T_SAMPLING
  """

  law: TimestepLaw
  shift: Any
  t_sampling: tuple[str, ...]
  noise: Noise

  def t_of(self, u: jax.Array) -> jax.Array:
    """Quantiles of the law, shifted, off both ends.   u in (0, 1) -> t"""
    return inside(shift(self.law(u), self.shift))


class Mixture(NamedTuple):
  """What a loss is made of: rows of data, mixed with noise at their t.

  x0, eps, x_t [B, H, W, C], time of [B]; seen is x_t as the network is given it
  """

  x0: jax.Array
  eps: jax.Array
  x_t: jax.Array
  seen: jax.Array
  time: Time


@dataclass(frozen=True)
class Trainable:
  """What the train step needs of a model; `System` and `NoisyClassifierSystem` add a loss.

  axes, matrices  trees like the parameters (models.params.weight)
  x_shape         [H, W, C] of one x0
  towers          names of the text towers, whose captions training may drop
  text_length     tokens a caption may have
  null_tokens     (ids [T], mask [T]) of "", the null of classifier-free guidance
  """

  process: Process
  mixing: Mixing
  autoencoder: Identity
  makers: dict[str, Callable[[nnx.Rngs], nnx.Module]]
  dtype: Any
  x_shape: tuple[int, int, int]
  towers: tuple[str, ...]
  text_length: int
  null_tokens: tuple[np.ndarray, np.ndarray]

  def init(self, key: jax.Array) -> Params:
    """Fresh float32 parameters by part, {"backbone": ..., "text": ...}."""
    keys = dict(zip(self.makers, jax.random.split(key, len(self.makers)), strict=True))
    return {name: init_params(make, keys[name]) for name, make in self.makers.items()}

  @property
  def axes(self) -> Params:
    return {name: axes_of(make) for name, make in self.makers.items()}

  @property
  def matrices(self) -> Params:
    return {name: matrices_of(make) for name, make in self.makers.items()}

  @property
  def terms(self) -> dict[str, float]:
    """Weights of the terms of the loss: "image" is a mean over pictures, "text" over tokens."""
    return {"image": 1.0}

  def losses(self, params: Params, batch: Batch, mixture: Mixture) -> dict[str, jax.Array]:
    """The loss of each picture [R], and of each token where tokens are learned, by term.

    batch  as rows gives it, and drop: tower -> bool [B], where its caption becomes the null
    """
    raise NotImplementedError

  def forward(self, params: Params, batch: Batch) -> Any:
    """What the networks answer at t = 1/2, of a batch whose pictures are x_t."""
    raise NotImplementedError

  def transform(self, tokenizer: Tokenizer) -> RowMaker:
    """Makes rows of records."""
    return Transform(self.x_shape[:2], tokenizer, self.text_length)

  def rows(self, n: int) -> dict[str, jax.ShapeDtypeStruct]:
    """n rows as the transform makes them: uint8 pixels, or float32 latents."""
    pixels = jnp.uint8 if self.x_shape[2] == 3 else jnp.float32
    shapes = {
      "image": ((n, *self.x_shape), pixels),
      "tokens": ((n, self.text_length), jnp.int32),
      "mask": ((n, self.text_length), jnp.bool_),
      "weight": ((n,), jnp.float32),
    }
    return {name: jax.ShapeDtypeStruct(*pair) for name, pair in shapes.items()}

  @property
  def row(self) -> str:
    """What a row is, in words."""
    return "an image of {} x {} and its text".format(*self.x_shape[:2])

  def counted(self, batch: Batch) -> dict[str, jax.Array]:
    """What the log says of a batch besides its loss, by name."""
    return {}

  @cached_property
  def flops(self) -> int:
    """Matmul and attention FLOPs of one forward pass of one row."""
    params = jax.eval_shape(self.init, jax.random.key(0))
    return matmul_flops(self.forward, params, self.rows(1))


@dataclass(frozen=True)
class System(Trainable):
  """A model that draws.

  tower               makes the encoder of captions
  layers              blocks of the backbone, by which a control names them
  weighting, penalty  of the loss, whatever the network predicts
  """

  tower: Callable[[nnx.Rngs], nnx.Module]
  layers: int
  output: Output
  weighting: Weighting
  penalty: Penalty

  def encode_text(self, params: Params, ids: jax.Array, mask: jax.Array) -> Conditioning:
    """ids [B, T] int32, mask [B, T] bool."""
    tower = with_params(self.tower)(params.get("text", {}))(ids, mask, self.dtype)
    return Conditioning({self.towers[0]: tower}, {})

  def null(self, params: Params) -> Conditioning:
    """The conditioning of "", one row."""
    ids, mask = self.null_tokens
    return self.encode_text(params, jnp.asarray(ids)[None], jnp.asarray(mask)[None])

  def denoise(
    self,
    params: Params,
    x_t: jax.Array,
    time: Time,
    cond: Conditioning,
    control: Control | None = None,
  ) -> Prediction:
    """The network as a denoiser: x_t [B, H, W, C] float32, time of scalars or [B].

    aux is what a control recorded, else the raw learned variance, shaped like x_t, or None.
    """
    model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
    model = with_params(self.makers["backbone"])(params["backbone"])
    aux: list[Any] = [None]

    def network(x: jax.Array) -> jax.Array:
      found = model(x.astype(self.dtype), model_time, cond, control)
      if control is not None and control.record is not None:
        aux[0] = found.notes
      return found.value

    prediction = predicted(self.output, network, x_t, time)
    return prediction if aux[0] is None else prediction._replace(aux=aux[0])

  def forward(self, params: Params, batch: Batch) -> Any:
    cond = self.encode_text(params, batch["tokens"], batch["mask"])
    x_t, half = unit_range(batch["image"]), self.process.at(jnp.float32(0.5))
    return self.denoise(params, x_t, half, cond).value

  def losses(self, params: Params, batch: Batch, mixture: Mixture) -> dict[str, jax.Array]:
    """The denoising loss, with the variational term where a variance is learned."""
    m = mixture
    cond = self.encode_text(params, batch["tokens"], batch["mask"])
    if batch.get("drop"):
      cond = drop_towers(cond, self.null(params), batch["drop"])
    prediction = self.denoise(params, m.seen, m.time, cond)
    losses = denoising_loss(prediction, m.x0, m.eps, m.time, self.weighting, self.penalty)
    if self.output.learned_variance:
      losses = losses + variance_loss(self.process, prediction, m.x0, m.x_t, m.time)
    return {"image": losses}


@dataclass(frozen=True)
class NoisyClassifierSystem(Trainable):
  """A model that reads captions off noisy pictures, for classifier guidance."""

  def logits(self, params: Params, x_t: jax.Array, time: Time) -> jax.Array:
    """x_t [B, H, W, C], time of scalars or [B] -> [B, vocab]."""
    model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
    model = with_params(self.makers["classifier"])(params["classifier"])
    return model(x_t.astype(self.dtype), model_time)

  def log_prob(self, params: Params, x_t: jax.Array, time: Time, caption: Any) -> jax.Array:
    """log f_phi(y | x_t, t) of captions (ids [B, T], mask [B, T]), in nats.   # [B]"""
    logits = self.logits(params, x_t, time)
    ids, mask = caption
    return log_prob(logits, present(ids, mask, logits.shape[-1]))

  def losses(self, params: Params, batch: Batch, mixture: Mixture) -> dict[str, jax.Array]:
    """-log f_phi(y | x_t, t), in nats.     Source: [2105.05233 sec. 4]"""
    caption = (batch["tokens"], batch["mask"])
    return {"image": -self.log_prob(params, mixture.seen, mixture.time, caption)}

  def forward(self, params: Params, batch: Batch) -> Any:
    half = self.process.at(jnp.float32(0.5))
    return self.logits(params, unit_range(batch["image"]), half)


def predicted(
  output: Output, network: Callable[[jax.Array], jax.Array], x_t: jax.Array, time: Time
) -> Prediction:
  """What a network's answer says; aux is the raw learned variance, shaped like x_t, or None."""
  kind, learned_variance, sigma_data = output
  if sigma_data:
    return Prediction(preconditioned(network, x_t, time, sigma_data), kind, None)
  if not learned_variance:
    return Prediction(network(x_t), kind, None)
  value, variance = jnp.split(network(x_t), 2, axis=-1)
  return Prediction(value, kind, variance)


def unit_range(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; latents, already float32, pass through."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def pixels(x0: jax.Array) -> jax.Array:
  """[-1, 1], clipped, to uint8: the inverse of unit_range."""
  return jnp.round((jnp.clip(x0, -1, 1) + 1) * 127.5).astype(jnp.uint8)
