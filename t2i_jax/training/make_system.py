"""From a config to the system that it names. Every wrong choice fails here, by the key's name."""

import dataclasses
from collections.abc import Callable
from dataclasses import MISSING
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from t2i_jax.autoencoders import Identity
from t2i_jax.config import build
from t2i_jax.data.documents import Packed, layout_of
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models import BACKBONES, axes_of
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier
from t2i_jax.models.transfusion import Transfusion, TransfusionConfig
from t2i_jax.process import (
  KINDS,
  PENALTIES,
  PROCESSES,
  SHIFTS,
  TIMESTEP_LAWS,
  WEIGHTINGS,
  Process,
)
from t2i_jax.process.prediction import check_prediction
from t2i_jax.towers import TOWERS
from t2i_jax.training.system import Mixing, Noise, NoisyClassifierSystem, Output, System
from t2i_jax.training.transfusion import TransfusionSystem

MODELS = BACKBONES | {"transfusion": (Transfusion, TransfusionConfig)}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# The t of a batch cover their law evenly; t is drawn by the running loss [2102.09672 sec. 3.3].
T_SAMPLING = ("stratified", "importance")


def _output(kind: str) -> Callable[..., Output]:
  return lambda learned_variance=False: Output(kind, learned_variance)


OUTPUTS: dict[str, Callable[..., Output]] = {kind: _output(kind) for kind in KINDS}
OUTPUTS["edm"] = lambda sigma_data=0.5: Output("x0", sigma_data=sigma_data)


def make_system(config: ConfigDict, tokenizer: Tokenizer) -> Any:
  """Builds the system of a config. Allocates nothing. Raises ConfigError."""
  c = config
  process = build(PROCESSES, c.process.kind, "process.kind")
  kinds = (*MODELS, "classifier")
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
  if c.model.kind == "transfusion":
    return _transfusion(c, parts, tokenizer)
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


def _transfusion(c: ConfigDict, parts: dict[str, Any], tokenizer: Tokenizer) -> TransfusionSystem:
  packed = build({"packed": Packed}, c.data.rows, "data.rows")
  layout = layout_of(packed, parts["x_shape"][:2], c.model.patch, tokenizer)
  output = build(OUTPUTS, c.process.prediction, "process.prediction")
  check_output(output, parts["process"])
  if layout.ids.eoi >= c.text.vocab:
    raise ConfigError(
      f"text.vocab = {c.text.vocab} leaves no room for BOI and EOI after the tokenizer's "
      f"{tokenizer.vocab} tokens. Use text.vocab={tokenizer.vocab + 2} or more."
    )
  out = c.model.channels * (2 if output.learned_variance else 1)
  given = {"out": out, "vocab": c.text.vocab, "absolute": packed.absolute}
  model, config = backbone(c.model, given)
  return TransfusionSystem(
    makers={"backbone": lambda rngs: model(config, rngs)},
    towers=(),
    model_config=config,
    packed=packed,
    layout=layout,
    output=output,
    weighting=build(WEIGHTINGS, c.process.weighting, "process.weighting"),
    penalty=build(PENALTIES, c.process.penalty, "process.penalty"),
    balance=c.train.balance,
    **parts,
  )


def backbone(c: ConfigDict, given: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
  """The class of a backbone and its config, of the keys of config.model and what is given besides.

  Raises ConfigError naming a key that is missing, or that this model does not have.
  """
  model, kind = MODELS[c.kind]
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
