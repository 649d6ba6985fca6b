"""Networks of a run of t2i train as choices of another run's config.

    autoencoder = "run(path='runs/vae')"              parts.vae.start = "run:runs/vae"
    model.perceptual = "run(path='runs/encoder')"     parts.encoder.start = "run:runs/encoder"

Their sizes come from the run's config.json; their weights from the starts of their parts, and with
them the measured scale and shift of latents.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.autoencoders.features import Features
from t2i_jax.config import build, from_json, section
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.errors import ConfigError
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier
from t2i_jax.models.image_encoder import ImageEncoder, ImageEncoderConfig
from t2i_jax.process import PROCESSES
from t2i_jax.systems import published


def config_of(path: str) -> ConfigDict:
  """The config of a work directory. Raises ConfigError."""
  file = Path(path) / "config.json"
  try:
    return from_json(file.read_text())
  except (OSError, ValueError) as error:
    raise ConfigError(
      f"{file} cannot be read ({error}). Give the --workdir of a run of t2i train."
    ) from error


def autoencoder(channels: int, path: str) -> Any:
  """The config of the autoencoder of a run. Raises ConfigError.

  channels  of the backbone, which make_system compares
  """
  c = config_of(path)
  choices = AUTOENCODERS | {"folder": published.autoencoder, "run": autoencoder}
  if c.autoencoder == "identity":
    raise ConfigError(f"{path} ({c.name}) works on pixels: it has no autoencoder.")
  return build(choices, c.autoencoder, f"autoencoder of {path}", c.model.channels)


def no_features() -> None:
  return None


def features(path: str) -> Features:
  """The network of a run that says what is in images. Raises ConfigError.

  The maps of an encoder of images, or the tokens of a noisy classifier at t = 0.
  """
  c = config_of(path)
  if c.model.kind not in KINDS:
    raise ConfigError(
      f"{path} ({c.name}) has model.kind = {c.model.kind!r}: features are those of a run of "
      "configs/emoji_contrastive.py or configs/scenes_classifier.py."
    )
  return KINDS[c.model.kind](c, f"model of {path}")


def _of_encoder(c: ConfigDict, where: str) -> Features:
  config = section(ImageEncoderConfig, _own(c), where)

  def layers(network: Any, image: jax.Array) -> list[jax.Array]:
    return network.maps(image)

  return Features("encoder", lambda rngs: ImageEncoder(config, rngs), config, layers)


def _of_classifier(c: ConfigDict, where: str) -> Features:
  config = section(ClassifierConfig, _own(c), where, {"vocab": c.text.vocab})
  clean = build(PROCESSES, c.process.kind, "process.kind").at(jnp.float32(0)).model_time

  def layers(network: Any, image: jax.Array) -> list[jax.Array]:
    return network.features(image, jnp.broadcast_to(clean, image.shape[:1]))

  return Features("classifier", lambda rngs: NoisyClassifier(config, rngs), config, layers)


class Reader(NamedTuple):
  """A classifier of clean images, which says what a text names.

  network its features are the part, its make and its config
  logits  (network, images [B, H, W, 3] in [-1, 1]) -> [B, vocab];   size: of these images
  tokens  texts -> the tokens that each has [n, vocab] float32
  """

  network: Features
  logits: Callable[[Any, jax.Array], jax.Array]
  size: tuple[int, int]
  tokens: Callable[[Sequence[str]], np.ndarray]


def reader(path: str) -> Reader:
  """Of the run of a noisy classifier, at t = 0. Raises ConfigError, DataError."""
  c = config_of(path)
  if c.model.kind != "classifier" or c.autoencoder != "identity" or c.model.channels != 3:
    raise ConfigError(
      f"{path} ({c.name}) reads no captions off pixels: give a run of configs/scenes_classifier.py."
    )
  clean = build(PROCESSES, c.process.kind, "process.kind").at(jnp.float32(0)).model_time
  tokenizer = Tokenizer.load(c.data.dir, c.text.tokenizer)

  def tokens(texts: Sequence[str]) -> np.ndarray:
    ids, mask = tokenizer.encode(list(texts), c.text.length)
    found = np.zeros((len(texts), c.text.vocab), np.float32)
    rows, _ = np.nonzero(mask)
    found[rows, ids[mask]] = 1
    return found

  return Reader(
    _of_classifier(c, f"model of {path}"),
    lambda network, image: network(image, jnp.broadcast_to(clean, image.shape[:1])),
    tuple(c.data.image_size),
    tokens,
  )


def _own(c: ConfigDict) -> dict[str, Any]:
  """The keys of config.model that are sizes of the network."""
  return {key: c.model[key] for key in c.model if key not in ("kind", "dtype")}


KINDS = {"image_encoder": _of_encoder, "classifier": _of_classifier}
# By the name in config.model.perceptual.
FEATURES: dict[str, Callable[..., Features | None]] = {
  "none": no_features,
  "run": features,
  "folder": published.features,
}
