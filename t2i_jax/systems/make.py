"""From a config to the system that it names. Every wrong choice fails here, by the key's name."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.config import build, check_section, section
from t2i_jax.data.documents import Packed, layout_of
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models import BACKBONES, axes_of
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier
from t2i_jax.models.image_encoder import ImageEncoder, ImageEncoderConfig
from t2i_jax.models.transfusion import Transfusion, TransfusionConfig
from t2i_jax.process import (
  KINDS,
  PENALTIES,
  PROCESSES,
  SHIFTS,
  TIMESTEP_DISTRIBUTIONS,
  WEIGHTINGS,
  Process,
)
from t2i_jax.process.prediction import check_prediction
from t2i_jax.ranges import Factor
from t2i_jax.systems import published, trained
from t2i_jax.systems.adapters import make_adapters, with_words
from t2i_jax.systems.autoencoding import (
  AutoencodingConfig,
  AutoencodingSystem,
  make_autoencoding,
)
from t2i_jax.systems.classifier import ClassifierSystem
from t2i_jax.systems.contrastive import Contrast, ContrastiveSystem, Views
from t2i_jax.systems.controlnet import make_nets, parts_of
from t2i_jax.systems.drawing import OBJECTIVES, DrawingSystem
from t2i_jax.systems.imagic import EMBEDDING
from t2i_jax.systems.joint import JointSystem
from t2i_jax.systems.parts import Part, configured
from t2i_jax.systems.system import NO_NOISE, Mixing, Noise, Output, System
from t2i_jax.towers import TOWERS, Own, TextEncoder
from t2i_jax.towers.join import JOINS

# Keys of config.model that are no fields of a backbone's config.
BESIDES = ("kind", "dtype")
WIDTHS = ("text_width", "pooled_width", "classes")  # fields that text encoders decide
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# The t of a batch cover their distribution evenly; t is drawn by the running loss
# [2102.09672 sec. 3.3].
T_SAMPLING = ("stratified", "importance")


def _output(kind: str) -> Callable[..., Output]:
  return lambda learned_variance=False: Output(kind, learned_variance)


def _edm(sigma_data: Factor = 0.5) -> Output:
  return Output("x0", sigma_data=sigma_data)


OUTPUTS: dict[str, Callable[..., Output]] = {kind: _output(kind) for kind in KINDS}
OUTPUTS["edm"] = _edm


def make_system(config: ConfigDict, tokenizer: Tokenizer) -> System:
  """Builds the system of a config. Allocates nothing. Raises ConfigError."""
  c = config
  models = BACKBONES | MODELS
  if c.model.kind not in models:
    raise ConfigError(f"model.kind = {c.model.kind!r} is not one of {', '.join(models)}.")
  check_section(c, "model", models[c.model.kind][1], f"model.kind = {c.model.kind!r}", BESIDES)
  if c.model.dtype not in DTYPES:
    raise ConfigError(f"model.dtype = {c.model.dtype!r} is not one of {', '.join(DTYPES)}.")
  if tokenizer.vocab > c.text.vocab:
    raise ConfigError(
      f"text.vocab = {c.text.vocab} is smaller than the {tokenizer.vocab} tokens of text.tokenizer "
      f"= {c.text.tokenizer!r}. Use text.vocab={tokenizer.vocab}, or of data built with "
      f"--vocab={c.text.vocab}."
    )
  kinds = AUTOENCODERS | {"folder": published.autoencoder, "run": trained.autoencoder}
  autoencoder = build(kinds, c.autoencoder, "autoencoder", c.model.channels)
  image_shape = autoencoder.image_shape(*c.data.image_size)
  *_, channels = autoencoder.latent_shape(image_shape)
  if channels != c.model.channels:
    raise ConfigError(
      f"model.channels = {c.model.channels}: latents of autoencoder = {c.autoencoder!r} have "
      f"{channels}. Use model.channels={channels}."
    )
  common = {
    "autoencoder": autoencoder,
    "image_shape": image_shape,
    "dtype": DTYPES[c.model.dtype],
  }
  vae = {"vae": Part(autoencoder.make, autoencoder)} if axes_of(autoencoder.make) else {}
  return SYSTEMS.get(c.model.kind, _drawing)(c, common, vae, tokenizer)


def for_inference(system: System) -> System:
  """The system without the parts that only training needs."""
  parts = {name: part for name, part in system.parts.items() if not part.training_only}
  return dataclasses.replace(system, parts=parts)


def _noising(c: ConfigDict, common: dict[str, Any]) -> dict[str, Any]:
  """The process of a model of noisy images, and how it is mixed. Raises ConfigError."""
  height, width, _ = common["autoencoder"].latent_shape(common["image_shape"])
  patch = c.model.get("patch", 1)  # convolutions have none
  if height % patch or width % patch:
    raise ConfigError(
      f"data.image_size = {c.data.image_size} gives {height} x {width}, which does not divide into "
      f"patches of model.patch = {patch}."
    )
  image_tokens = (height // patch) * (width // patch)
  return {
    "process": build(PROCESSES, c.process.kind, "process.kind"),
    "mixing": make_mixing(c.process, image_tokens),
  }


def _drawing(
  c: ConfigDict, common: dict[str, Any], vae: dict[str, Part], tokenizer: Tokenizer
) -> DrawingSystem:
  common |= _noising(c, common)
  output = _checked_output(c, common["process"])
  own = Own(tokenizer, c.text.vocab, c.text.length)
  choices = TOWERS | {"published": published.text_encoder}
  text: dict[str, TextEncoder] = {
    name: build(choices, kind, f"text.towers.{name}", own) for name, kind in c.text.towers.items()
  }
  if c.text.join not in JOINS:
    raise ConfigError(f"text.join = {c.text.join!r} is not one of {', '.join(JOINS)}.")
  join = JOINS[c.text.join]
  widths = join.widths({name: encoder.widths for name, encoder in text.items()})
  fields = inspect.signature(BACKBONES[c.model.kind][1]).parameters
  missing = [n for n in WIDTHS if n in fields and fields[n].default is inspect.Parameter.empty]
  missing = [n for n in missing if n not in widths and n not in c.model]
  if missing:
    towers = ", ".join(f"text.towers.{name} = {kind!r}" for name, kind in c.text.towers.items())
    raise ConfigError(
      f"{towers}: none has the {' and '.join(missing)} that model.kind = {c.model.kind!r} needs. "
      "Use transformer(...), or label for classes."
    )
  out = c.model.channels * (2 if output.learned_variance else 1)
  model, config = backbone(c.model, {"out": out} | widths)
  encoders = {name: Part(e.make, e.config) for name, e in text.items() if axes_of(e.make)}
  objective = build(OBJECTIVES, c.train.objective, "train.objective")
  teacher = {}
  if hasattr(objective, "teacher"):
    taught = objective.teacher(config)
    make = lambda rngs: model(taught, rngs)
    teacher = {"teacher": Part(make, taught, of="backbone", training_only=True)}
  elif getattr(objective, "frozen_copy", False) and "teacher" in c.parts:
    make = lambda rngs: model(config, rngs)
    teacher = {"teacher": Part(make, config, of="backbone", training_only=True)}
  if hasattr(objective, "learned"):
    teacher |= {EMBEDDING: objective.learned(text, join)}
  image_shape = common["image_shape"]
  nets = make_nets(c, config, image_shape, common["autoencoder"].latent_shape(image_shape))
  parts = {"backbone": Part(lambda rngs: model(config, rngs), config)} | encoders | vae | teacher
  parts |= parts_of(nets)
  adapters = make_adapters(c, parts, text)
  parts |= {name: one.part() for name, one in adapters.items()}
  return DrawingSystem(
    parts=configured(parts, c.parts) | getattr(objective, "networks", {}),
    text=with_words(text, adapters),
    join=join,
    layers=config.layers,
    inner=getattr(config, "inner_losses", {}),
    output=output,
    weighting=build(WEIGHTINGS, c.process.weighting, "process.weighting"),
    penalty=build(PENALTIES, c.process.penalty, "process.penalty"),
    objective=objective,
    controlnets={name: net.condition for name, net in nets.items()},
    adapters=adapters,
    **common,
  )


def _joint(
  c: ConfigDict, common: dict[str, Any], vae: dict[str, Part], tokenizer: Tokenizer
) -> JointSystem:
  common |= _noising(c, common)
  packed = section(Packed, c.rows, "rows")
  latent_size = common["autoencoder"].latent_shape(common["image_shape"])[:2]
  layout = layout_of(packed, latent_size, c.model.patch, tokenizer)
  output = _checked_output(c, common["process"])
  if layout.ids.eoi >= c.text.vocab:
    raise ConfigError(
      f"text.vocab = {c.text.vocab} has no ids for BOI and EOI after the tokenizer's "
      f"{tokenizer.vocab} tokens. Use text.vocab={tokenizer.vocab + 2} or more."
    )
  out = c.model.channels * (2 if output.learned_variance else 1)
  model, config = backbone(c.model, {"out": out, "vocab": c.text.vocab})
  parts = {"backbone": Part(lambda rngs: model(config, rngs), config)} | vae
  return JointSystem(
    parts=configured(parts, c.parts),
    text={},
    tokenizer=tokenizer,
    text_length=c.text.length,
    model_config=config,
    packed=packed,
    layout=layout,
    output=output,
    weighting=build(WEIGHTINGS, c.process.weighting, "process.weighting"),
    penalty=build(PENALTIES, c.process.penalty, "process.penalty"),
    balance=c.train.balance,
    **common,
  )


def _classifier(
  c: ConfigDict, common: dict[str, Any], vae: dict[str, Part], tokenizer: Tokenizer
) -> ClassifierSystem:
  model, config = backbone(c.model, {"vocab": c.text.vocab})
  # It reads captions as sets of tokens: a label encoder has the tokenizer and no weights.
  text = {"text": build(TOWERS, "label", "text", Own(tokenizer, c.text.vocab, c.text.length))}
  parts = {"classifier": Part(lambda rngs: model(config, rngs), config)} | vae
  return ClassifierSystem(
    parts=configured(parts, c.parts),
    text=text,
    **common,
    **_noising(c, common),
  )


def _contrastive(
  c: ConfigDict, common: dict[str, Any], vae: dict[str, Part], tokenizer: Tokenizer
) -> ContrastiveSystem:
  if vae or c.autoencoder != "identity" or c.model.channels != 3:
    raise ConfigError(
      f"autoencoder = {c.autoencoder!r}, model.channels = {c.model.channels}: model.kind = "
      "'image_encoder' compares views of pixels. Use autoencoder=identity and channels=3."
    )
  model, config = backbone(c.model, {})
  parts = {"encoder": Part(lambda rngs: model(config, rngs), config)}
  return ContrastiveSystem(
    parts=configured(parts, c.parts),
    text={},
    contrast=build({"nt_xent": Contrast}, c.train.objective, "train.objective"),
    how=build({"views": Views}, c.train.views, "train.views"),
    side=config.side,
    **NO_NOISE,
    **common,
  )


# By the name in config.model.kind, besides BACKBONES, which draw.
SYSTEMS: dict[str, Callable[..., System]] = {
  "transfusion": _joint,
  "classifier": _classifier,
  "image_encoder": _contrastive,
  "autoencoder": make_autoencoding,
}
MODELS: dict[str, tuple[Any, Any]] = {
  "transfusion": (Transfusion, TransfusionConfig),
  "classifier": (NoisyClassifier, ClassifierConfig),
  "image_encoder": (ImageEncoder, ImageEncoderConfig),
  "autoencoder": (AutoencodingSystem, AutoencodingConfig),
}


def backbone(c: ConfigDict, given: dict[str, Any]) -> tuple[Callable[..., Any], Any]:
  """The class of a backbone and its config, of the keys of config.model and what is given besides.

  Raises ConfigError naming a key that is missing, or that this model does not have.
  """
  model, kind = (BACKBONES | MODELS)[c.kind]
  own = {key: c[key] for key in c if key not in BESIDES}
  return model, section(kind, own, f"model (kind = {c.kind!r})", given)


def make_mixing(c: ConfigDict, image_tokens: int) -> Mixing:
  """Raises ConfigError."""
  for name in c.t_sampling:
    if name not in T_SAMPLING:
      raise ConfigError(f"process.t_sampling: {name!r} is not one of {', '.join(T_SAMPLING)}.")
  shift = build(SHIFTS, c.shift, "process.shift")
  try:
    factor = shift(image_tokens)
  except ConfigError as error:
    raise ConfigError(f"process.shift = {c.shift!r}: {error}") from error
  return Mixing(
    law=build(TIMESTEP_DISTRIBUTIONS, c.timesteps, "process.timesteps"),
    shift=factor,
    t_sampling=c.t_sampling,
    noise=build({"gaussian": Noise}, c.noise, "process.noise"),
  )


def _checked_output(c: ConfigDict, process: Process) -> Output:
  """config.process.prediction. Raises ConfigError for one that the process does not have."""
  output = build(OUTPUTS, c.process.prediction, "process.prediction")
  check_prediction(process, output.prediction)
  if output.learned_variance and process.steps is None:
    raise ConfigError(
      f"process.prediction: learned_variance needs training steps, and {process.name} has none. "
      "Use a process.kind that starts with ddpm_."
    )
  return output
