"""A system: the point in design space that a config names, as pure functions of its parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from t2i_jax.autoencoders import Identity
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models import Conditioning, DiT, axes_of, init_params, matrices_of, with_params
from t2i_jax.models.dit import DiTConfig, forward_flops
from t2i_jax.models.params import Params
from t2i_jax.process import (
  KINDS,
  Prediction,
  Process,
  Time,
  make_process,
  make_timestep_law,
)
from t2i_jax.process.prediction import check_prediction
from t2i_jax.process.timesteps import TimestepLaw
from t2i_jax.towers import TextTower, TextTowerConfig, tower_flops

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class System:
  """What the train step, the sampler and the evaluation need of a model.

  axes, matrices  trees like the parameters (models.params.weight)
  x_shape         [H, W, C] of one x0
  text_length     tokens a caption may have
  null_tokens     (ids [T], mask [T]) of "", the null of classifier-free guidance
  flops           matmul and attention FLOPs of one forward pass of one image and caption
  """

  process: Process
  prediction: str
  loss_space: str
  law: TimestepLaw
  autoencoder: Identity
  makers: dict[str, Callable[[nnx.Rngs], nnx.Module]]
  dtype: Any
  x_shape: tuple[int, int, int]
  text_length: int
  null_tokens: tuple[np.ndarray, np.ndarray]
  flops: int

  def init(self, key: jax.Array) -> Params:
    """Fresh float32 parameters, {"dit": ..., "text": ...}."""
    keys = dict(zip(self.makers, jax.random.split(key, len(self.makers)), strict=True))
    return {name: init_params(make, keys[name]) for name, make in self.makers.items()}

  @property
  def axes(self) -> Params:
    return {name: axes_of(make) for name, make in self.makers.items()}

  @property
  def matrices(self) -> Params:
    return {name: matrices_of(make) for name, make in self.makers.items()}

  def encode_text(self, params: Params, ids: jax.Array, mask: jax.Array) -> Conditioning:
    """ids [B, T] int32, mask [B, T] bool."""
    tower = with_params(self.makers["text"])(params["text"])(ids, mask, self.dtype)
    return Conditioning({"text": tower}, {})

  def denoise(self, params: Params, x_t: jax.Array, time: Time, cond: Conditioning) -> Prediction:
    """The network as a denoiser: x_t [B, H, W, C] float32, time of scalars or [B]."""
    model_time = jnp.broadcast_to(time.model_time, x_t.shape[:1])
    model = with_params(self.makers["dit"])(params["dit"])
    return Prediction(model(x_t.astype(self.dtype), model_time, cond), self.prediction)


def unit_range(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; latents, already float32, pass through."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def make_system(config: ConfigDict, tokenizer: Tokenizer) -> System:
  """Builds the system of a config. Allocates nothing. Raises ConfigError."""
  c = config
  process = make_process(c.process.kind)
  check_prediction(process, c.process.prediction)
  if c.process.loss_space not in KINDS:
    raise ConfigError(
      f"process.loss_space = {c.process.loss_space!r} is not one of {', '.join(KINDS)}."
    )
  if c.model.dtype not in DTYPES:
    raise ConfigError(f"model.dtype = {c.model.dtype!r} is not one of {', '.join(DTYPES)}.")
  if tokenizer.vocab > c.text.vocab:
    raise ConfigError(
      f"text.vocab = {c.text.vocab} is smaller than the tokenizer's {tokenizer.vocab} tokens. "
      f"Use text.vocab={tokenizer.vocab} or rebuild the data with --vocab={c.text.vocab}."
    )
  if [type(side) for side in c.data.image_size] != [int, int]:
    raise ConfigError(
      f"data.image_size = {c.data.image_size} is no height and width. "
      "Write --config.data.image_size=(32,32)."
    )
  height, width = c.data.image_size
  if height % c.model.patch or width % c.model.patch:
    raise ConfigError(
      f"data.image_size = {height} x {width} does not divide into patches of {c.model.patch}."
    )
  text = TextTowerConfig(c.text.vocab, c.text.length, c.text.width, c.text.depth, c.text.heads)
  dit = DiTConfig(
    width=c.model.width,
    depth=c.model.depth,
    heads=c.model.heads,
    patch=c.model.patch,
    channels=c.model.channels,
    text=c.model.text,
    text_width=c.text.width,
    remat=c.model.remat,
  )
  image_tokens = (height // dit.patch) * (width // dit.patch)
  ids, mask = tokenizer.encode([""], c.text.length)
  return System(
    process=process,
    prediction=c.process.prediction,
    loss_space=c.process.loss_space,
    law=make_timestep_law(c.process.timesteps, c.process.timestep_mean, c.process.timestep_std),
    autoencoder=Identity(c.model.channels),
    makers={"dit": lambda rngs: DiT(dit, rngs), "text": lambda rngs: TextTower(text, rngs)},
    dtype=DTYPES[c.model.dtype],
    x_shape=(height, width, c.model.channels),
    text_length=c.text.length,
    null_tokens=(ids[0], mask[0]),
    flops=forward_flops(dit, image_tokens, c.text.length) + tower_flops(text, c.text.length),
  )
