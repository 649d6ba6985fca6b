"""The networks of published folders as choices of a config.

    text.towers.text_encoder = "published(system='flux', part='text_encoder', folder='FLUX.1-dev')"
    autoencoder = "folder(path='FLUX.1-dev/vae',tiling='smooth')"
    model.perceptual = "folder(path='vgg16.tv_in1k')"

Their sizes come from the folders; their weights from the starts of their parts.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from t2i_jax.autoencoders.features import Features
from t2i_jax.autoencoders.kl import Activations, Tiling
from t2i_jax.autoencoders.vgg import BLOCKS, VGG16Config
from t2i_jax.errors import ConfigError
from t2i_jax.models.conditioning import Tower
from t2i_jax.pretrained.folder import open_folder
from t2i_jax.pretrained.pipelines import INDEX, read_json
from t2i_jax.pretrained.qwen_vision import vision_config
from t2i_jax.ranges import Whole
from t2i_jax.towers import BertConfig, ClipConfig, Own, T5Config, TextEncoder
from t2i_jax.towers.language_model import LanguageModelConfig
from t2i_jax.towers.published import PUBLISHED, PublishedText, TextPart, tokenizer_of
from t2i_jax.towers.shown import ShownImages, read_processor
from t2i_jax.towers.tokenizers import drop_prefix
from t2i_jax.towers.vision_language import VisionLanguageConfig

TooLong = Literal["error", "truncate", "chunk"]


def autoencoder(
  channels: int, path: str, activations: Activations = "float32", tiling: Tiling = ""
) -> Any:
  """The config of the autoencoder in a folder. Raises RestoreError, ConfigError.

  channels  of the backbone, which make_system compares
  activations, tiling  as in autoencoders.kl.KLConfig: of its arithmetic, and of large images
  """
  config = open_folder(path)[1]
  if not hasattr(config, "latent_shape"):
    raise ConfigError(f"{path} holds a {type(config).__name__}, which is no autoencoder.")
  return dataclasses.replace(config, activations=activations, tiling=tiling)


def features(path: str) -> Features:
  """VGG16 of a folder, by the features before each of its poolings. Raises RestoreError,
  ConfigError."""
  config = open_folder(path)[1]
  if not isinstance(config, VGG16Config):
    raise ConfigError(f"{path} holds a {type(config).__name__}: features are those of a vgg16.")
  layers = lambda network, image: network.features(image)
  return Features("vgg", config.make, config, layers, least=2 ** (len(BLOCKS) - 1))


def text_encoder(
  own: Own,
  system: str,
  folder: str,
  part: str = "",
  length: Whole = 0,
  layers: tuple[int, ...] = (),
  too_long: TooLong = "error",
  area: Whole = 0,
) -> TextEncoder:
  """The text encoder of a published pipeline, and what that pipeline does to its captions.

  system   a row of towers.published.PUBLISHED
  folder   of the whole model
  part     its subfolder, "text_encoder", "text_encoder_2", ...; "" for a sentence encoder
  length, layers  of tokens, and hidden states that are taken; by default as published
  too_long  of captions: an error, "truncate" as the pipelines do, or for CLIP "chunk": `length` is
           a multiple of the published one, and windows of that are encoded one by one
  area     of the images that a model edits, in pixels; by default as published
  Raises ConfigError, RestoreError.
  """
  if system not in PUBLISHED:
    raise ConfigError(f"system = {system!r} is not one of {', '.join(PUBLISHED)}.")
  row = PUBLISHED[system]
  parts = {one.weights: one for one in row.parts}
  if part not in parts:
    raise ConfigError(f"part = {part!r} of {system} is not one of {', '.join(parts)}.")
  rule = parts[part]
  if layers:
    rule = rule._replace(layers=layers)
  config = as_taken(open_folder(Path(folder) / part)[1], rule)
  keep, tokenizer, shown = row.pads == "kept", tokenizer_of(folder, rule, too_long), None
  if tokenizer.vocab > config.vocab:
    raise ConfigError(
      f"{Path(folder) / rule.tokenizer} has {tokenizer.vocab} ids, and {Path(folder) / part} "
      f"embeddings of {config.vocab}: it is the tokenizer of another model. Copy its own there."
    )
  if row.images is not None:
    config = VisionLanguageConfig(config, vision_config(Path(folder) / part))
    of_images = row.images._replace(area=area or row.images.area)
    shown = ShownImages(of_images, read_processor(Path(folder) / "processor"), tokenizer)
  elif area:
    raise ConfigError(f"area = {area}: {system} edits no images. Leave it out.")

  zeros = null_zeros(row, folder)

  def after(tower: Tower) -> Tower:
    tokens, mask, pooled = drop_prefix(tower, rule.rule)
    pooled = None if rule.pooled == "none" else pooled
    if zeros:
      some = jnp.any(mask, axis=1, keepdims=True)  # [B, 1]
      tokens = jnp.where(some[..., None], tokens, 0)
      pooled = None if pooled is None else jnp.where(some, pooled, 0)
    return Tower(tokens, jnp.ones_like(mask) if keep else mask, pooled)

  widths = dict(config.widths)
  if rule.pooled == "none":
    widths.pop("pooled_width", None)
  return TextEncoder(
    config.make,
    config,
    widths,
    tokenizer,
    length or rule.length,
    after,
    row.null.text,
    zeros,
    shown,
  )


def null_zeros(row: PublishedText, folder: str | Path) -> bool:
  """Whether the pipeline of a folder has zeros where no negative prompt is given."""
  path = Path(folder) / INDEX
  content = read_json(path) if row.null.zeros and path.is_file() else {}
  return row.null.zeros and bool(content.get("force_zeros_for_empty_prompt", True))


def as_taken(config: Any, rule: TextPart) -> Any:
  """The config of an encoder, read as a pipeline does."""
  if isinstance(config, ClipConfig):
    pooled = "projected" if rule.pooled == "projected" else "eos"
    (layer,) = rule.layers or (-1,)
    return dataclasses.replace(config, layer=layer, pooled=pooled, masked=rule.masked)
  if isinstance(config, BertConfig):
    (layer,) = rule.layers or (-1,)
    return dataclasses.replace(config, layer=layer, pooled="mean", masked=rule.masked)
  if isinstance(config, T5Config):
    return dataclasses.replace(config, masked=rule.masked)
  if isinstance(config, LanguageModelConfig):
    return dataclasses.replace(config, layers=rule.layers)
  raise ConfigError(f"a {type(config).__name__} is no text encoder.")
