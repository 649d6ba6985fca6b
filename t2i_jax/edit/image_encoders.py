"""Encoders that say how alike images, and images and texts, are: CLIP, or networks of runs."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from t2i_jax.data.user_images import needed
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.inference import Model, open_model
from t2i_jax.models.classifier import present
from t2i_jax.systems.system import unit_range
from t2i_jax.training.checksum import fingerprint

AT_ONCE = 64  # images of a call

WHAT = "the folder of a CLIP, or the work directory of a noisy classifier or an encoder of images"


class ImageEncoder(NamedTuple):
  """images: uint8 [n, H, W, 3] -> features [n, D];   texts: -> [n, D] of the same space, or None

  about  what it is, and its weights
  """

  images: Callable[[np.ndarray], np.ndarray]
  texts: Callable[[Sequence[str]], np.ndarray] | None
  about: dict[str, Any]


def open_encoder(path: str) -> ImageEncoder:
  """The encoder in a folder: WHAT. Raises ConfigError, DataError, RestoreError."""
  if (Path(path) / "checkpoints").is_dir():
    model = open_model(path)
    about = {"encoder": path, "weights": fingerprint(dict(model.params))}
    if model.tasks.classify is not None:
      return _of_classifier(model, about)
    embed = model.need("embed")
    return ImageEncoder(lambda images: np.asarray(embed(model.params, images)), None, about)
  try:
    kind = json.loads((Path(path) / "config.json").read_text()).get("model_type")
  except (OSError, ValueError, AttributeError) as error:
    raise DataError(f"--encoder={path} cannot be read ({error}): give {WHAT}.") from error
  if kind != "clip":
    raise ConfigError(f"--encoder={path}: model_type = {kind!r}: give {WHAT}.")
  return _clip(path)


def _clip(path: str) -> ImageEncoder:
  """A CLIPModel of transformers, which needs torch."""
  torch, transformers = needed("torch", "parity"), needed("transformers", "parity")
  try:
    model = transformers.CLIPModel.from_pretrained(path, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    processor = transformers.AutoImageProcessor.from_pretrained(path, local_files_only=True)
  except (OSError, ValueError, KeyError) as error:
    raise DataError(f"--encoder={path} cannot be read as a CLIP: {error}") from error

  def images(pixels: np.ndarray) -> np.ndarray:
    found = []
    for start in range(0, len(pixels), AT_ONCE):
      part = [Image.fromarray(image) for image in pixels[start : start + AT_ONCE]]
      with torch.no_grad():
        given = processor(images=part, return_tensors="pt")
        found.append(_features(model.get_image_features(**given)))
    return np.concatenate(found)

  def texts(captions: Sequence[str]) -> np.ndarray:
    with torch.no_grad():
      given = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
      return _features(model.get_text_features(**given))

  return ImageEncoder(images, texts, {"encoder": path})


def _features(found: Any) -> np.ndarray:
  """Features of transformers, which newer versions give inside of an output.   # [n, D]"""
  return np.asarray(getattr(found, "pooler_output", found))


def _of_classifier(model: Model, about: dict[str, Any]) -> ImageEncoder:
  """The tokens that a noisy classifier sees at t = 0, and those of a text: sets without an order.

  What separates texts alone counts: not the tokens of every text, where it begins and ends.
  """
  system: Any = model.system
  clean, size = system.process.at(jnp.float32(0)), system.image_shape[:2]
  special = [model.tokenizer.pad, model.tokenizer.bos, model.tokenizer.eos]

  @jax.jit
  def seen(images: jax.Array) -> jax.Array:
    logits = system.logits(model.params, unit_range(images), clean)
    return jax.nn.sigmoid(logits).at[:, np.array(special)].set(0)

  def images(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[1:3] != size:
      raise ConfigError(
        f"--encoder: the classifier reads images of {size[0]} x {size[1]}, and these are "
        f"{pixels.shape[1]} x {pixels.shape[2]}."
      )
    found = []
    for start in range(0, len(pixels), AT_ONCE):
      part = pixels[start : start + AT_ONCE]
      filled = np.concatenate([part, np.repeat(part[:1], AT_ONCE - len(part), 0)])
      found.append(np.asarray(seen(filled))[: len(part)])
    return np.concatenate(found)

  def texts(captions: Sequence[str]) -> np.ndarray:
    ids, mask = system.text["text"].encode(captions)
    vocab = system.parts["classifier"].config.vocab
    found = np.array(present(jnp.asarray(ids), jnp.asarray(mask), vocab))
    found[:, special] = 0
    return found

  return ImageEncoder(images, texts, about)
