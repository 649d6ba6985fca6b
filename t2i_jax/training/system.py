"""A system: the point in design space that a config names, as pure functions of its parameters."""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from t2i_jax.autoencoders import Identity
from t2i_jax.config import build
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models import (
  BACKBONES,
  Conditioning,
  axes_of,
  init_params,
  matmul_flops,
  matrices_of,
  with_params,
)
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier, log_prob, present
from t2i_jax.models.conditioning import drop_towers
from t2i_jax.models.control import Control
from t2i_jax.models.params import Params
from t2i_jax.process import (
  KINDS,
  PENALTIES,
  PROCESSES,
  SHIFTS,
  TIMESTEP_LAWS,
  WEIGHTINGS,
  Prediction,
  Process,
  Time,
  denoising_loss,
)
from t2i_jax.process.losses import Penalty
from t2i_jax.process.preconditioning import preconditioned
from t2i_jax.process.prediction import check_prediction
from t2i_jax.process.timesteps import TimestepLaw, inside, shift
from t2i_jax.process.variational import variance_loss
from t2i_jax.process.weightings import Weighting
from t2i_jax.towers import TOWERS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


# The t of a batch cover their law evenly; t is drawn by the running loss [2102.09672 sec. 3.3].
T_SAMPLING = ("stratified", "importance")


class Noise(NamedTuple):
  """Gaussian noise, and how much is added to it: per channel, and to what the network sees."""

  offset: float = 0.0
  perturbation: float = 0.0


class Output(NamedTuple):
  """What the network predicts; sigma_data > 0 wraps it in EDM's preconditioning."""

  prediction: str
  learned_variance: bool = False
  sigma_data: float = 0.0


def _output(kind: str) -> Callable[..., Output]:
  return lambda learned_variance=False: Output(kind, learned_variance)


OUTPUTS: dict[str, Callable[..., Output]] = {kind: _output(kind) for kind in KINDS}
OUTPUTS["edm"] = lambda sigma_data=0.5: Output("x0", sigma_data=sigma_data)


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

  def losses(self, params: Params, batch: dict[str, Any], mixture: Mixture) -> jax.Array:
    """The loss of each row.   # [B]

    batch  tokens, mask [B, T]; drop: tower -> bool [B], where its caption is replaced by the null
    """
    raise NotImplementedError

  def forward(self, params: Params, x_t: jax.Array, ids: jax.Array, mask: jax.Array) -> Any:
    """What the networks answer at t = 1/2."""
    raise NotImplementedError

  @cached_property
  def flops(self) -> int:
    """Matmul and attention FLOPs of one forward pass of one image and caption."""
    params = jax.eval_shape(self.init, jax.random.key(0))
    x_t = jax.ShapeDtypeStruct((1, *self.x_shape), jnp.float32)
    words = (jax.ShapeDtypeStruct((1, self.text_length), kind) for kind in (jnp.int32, jnp.bool_))
    return matmul_flops(self.forward, params, x_t, *words)


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
      if control is None or control.record is None:
        return found
      found, aux[0] = found
      return found

    kind, learned_variance, sigma_data = self.output
    if sigma_data:
      return Prediction(preconditioned(network, x_t, time, sigma_data), kind, aux[0])
    if not learned_variance:
      return Prediction(network(x_t), kind, aux[0])
    value, variance = jnp.split(network(x_t), 2, axis=-1)
    return Prediction(value, kind, variance if aux[0] is None else aux[0])

  def forward(self, params: Params, x_t: jax.Array, ids: jax.Array, mask: jax.Array) -> Any:
    cond = self.encode_text(params, ids, mask)
    return self.denoise(params, x_t, self.process.at(jnp.float32(0.5)), cond).value

  def losses(self, params: Params, batch: dict[str, Any], mixture: Mixture) -> jax.Array:
    """The denoising loss, with the variational term where a variance is learned.   # [B]"""
    m = mixture
    cond = self.encode_text(params, batch["tokens"], batch["mask"])
    if batch.get("drop"):
      cond = drop_towers(cond, self.null(params), batch["drop"])
    prediction = self.denoise(params, m.seen, m.time, cond)
    losses = denoising_loss(prediction, m.x0, m.eps, m.time, self.weighting, self.penalty)
    if self.output.learned_variance:
      losses = losses + variance_loss(self.process, prediction, m.x0, m.x_t, m.time)
    return losses


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

  def losses(self, params: Params, batch: dict[str, Any], mixture: Mixture) -> jax.Array:
    """-log f_phi(y | x_t, t), in nats.   # [B]     Source: [2105.05233 sec. 4]"""
    caption = (batch["tokens"], batch["mask"])
    return -self.log_prob(params, mixture.seen, mixture.time, caption)

  def forward(self, params: Params, x_t: jax.Array, ids: jax.Array, mask: jax.Array) -> Any:
    return self.logits(params, x_t, self.process.at(jnp.float32(0.5)))


def unit_range(image: jax.Array) -> jax.Array:
  """uint8 pixels to float32 in [-1, 1]; latents, already float32, pass through."""
  return image.astype(jnp.float32) / 127.5 - 1 if image.dtype == jnp.uint8 else image


def make_system(config: ConfigDict, tokenizer: Tokenizer) -> System | NoisyClassifierSystem:
  """Builds the system of a config. Allocates nothing. Raises ConfigError."""
  c = config
  process = build(PROCESSES, c.process.kind, "process.kind")
  kinds = (*BACKBONES, "classifier")
  if c.model.kind not in kinds:
    raise ConfigError(f"model.kind = {c.model.kind!r} is not one of {', '.join(kinds)}.")
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
  image_tokens = (height // c.model.patch) * (width // c.model.patch)
  ids, mask = tokenizer.encode([""], c.text.length)
  parts = {
    "process": process,
    "mixing": make_mixing(c.process, image_tokens),
    "autoencoder": Identity(c.model.channels),
    "dtype": DTYPES[c.model.dtype],
    "x_shape": (height, width, c.model.channels),
    "text_length": c.text.length,
    "null_tokens": (ids[0], mask[0]),
  }
  return _classifier(c, parts) if c.model.kind == "classifier" else _drawing(c, parts)


def _drawing(c: ConfigDict, parts: dict[str, Any]) -> System:
  output = build(OUTPUTS, c.process.prediction, "process.prediction")
  check_output(output, parts["process"])
  tower = build(TOWERS, c.text.tower, "text.tower", c.text.vocab, c.text.length)
  out = c.model.channels * (2 if output.learned_variance else 1)
  model, config = backbone(c.model, {"out": out} | tower.widths)
  makers = {"backbone": lambda rngs: model(config, rngs)}
  if axes_of(tower.make):  # it has weights
    makers["text"] = tower.make
  return System(
    makers=makers,
    tower=tower.make,
    towers=(tower.name,),
    layers=config.layers,
    output=output,
    weighting=build(WEIGHTINGS, c.process.weighting, "process.weighting"),
    penalty=build(PENALTIES, c.process.penalty, "process.penalty"),
    **parts,
  )


def backbone(c: ConfigDict, given: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
  """The class of a backbone and its config, of the keys of config.model and what is given besides.

  Raises ConfigError naming a key that is missing, or that this model does not have.
  """
  model, kind = BACKBONES[c.kind]
  fields = {f.name: f.default is MISSING for f in dataclasses.fields(kind)}
  own = {key: getattr(c, key) for key in c if key not in ("kind", "dtype")}
  wrong = sorted(set(own) - set(fields))
  missing = sorted(name for name, needed in fields.items() if needed and name not in own | given)
  if wrong or missing:
    raise ConfigError(
      f"model.kind = {c.kind!r} "
      + " and ".join(
        [f"has no model.{name}" for name in wrong] + [f"needs model.{name}" for name in missing]
      )
      + f". Its keys: {', '.join(name for name in fields if name not in given)}."
    )
  taken = {name: value for name, value in given.items() if name in fields}
  return model, kind(**own, **taken)


def _classifier(c: ConfigDict, parts: dict[str, Any]) -> NoisyClassifierSystem:
  sizes = (c.model.width, c.model.depth, c.model.heads, c.model.patch, c.model.channels)
  classifier = ClassifierConfig(*sizes, c.text.vocab)
  maker = lambda rngs: NoisyClassifier(classifier, rngs)
  return NoisyClassifierSystem(makers={"classifier": maker}, towers=(), **parts)


def make_mixing(c: ConfigDict, image_tokens: int) -> Mixing:
  """Raises ConfigError."""
  for name in c.t_sampling:
    if name not in T_SAMPLING:
      raise ConfigError(f"process.t_sampling: {name!r} is not one of {', '.join(T_SAMPLING)}.")
  return Mixing(
    law=build(TIMESTEP_LAWS, c.timesteps, "process.timesteps"),
    shift=build(SHIFTS, c.shift, "process.shift")(image_tokens),
    t_sampling=c.t_sampling,
    noise=build({"gaussian": Noise}, c.noise, "process.noise"),
  )


def check_output(output: Output, process: Process) -> None:
  """Refuses what cannot be predicted on a process. Raises ConfigError."""
  check_prediction(process, output.prediction)
  if output.learned_variance and process.steps is None:
    raise ConfigError(
      f"process.prediction: learned_variance needs training steps, and {process.name} has none. "
      "Use a process.kind that starts with ddpm_."
    )
