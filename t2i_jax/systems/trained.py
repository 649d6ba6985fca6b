"""Networks of a run of t2i train as choices of another run's config.

    autoencoder = "run(path='runs/vae')"            parts.vae.start = "run:runs/vae"
    model.perceptual = "run(path='runs/judge')"     parts.classifier.start = "run:runs/judge"

Their sizes come from the run's config.json; their weights from the starts of their parts, and with
them the measured scale and shift of latents.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from t2i_jax.autoencoders import AUTOENCODERS
from t2i_jax.config import build, from_json, section
from t2i_jax.errors import ConfigError
from t2i_jax.models.classifier import ClassifierConfig, NoisyClassifier
from t2i_jax.process import PROCESSES
from t2i_jax.systems import published


class Features(NamedTuple):
  """A network whose hidden states compare images.

  part    its name in the run that trained it, and here
  layers  (network, images [B, H, W, 3] in [-1, 1]) -> features [B, L, D] of its layers
  """

  part: str
  make: Callable[[nnx.Rngs], nnx.Module]
  config: Any
  layers: Callable[[Any, jax.Array], list[jax.Array]]


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
  """The noisy classifier of a run, at t = 0. Raises ConfigError."""
  c = config_of(path)
  if c.model.kind != "classifier":
    raise ConfigError(
      f"{path} ({c.name}) has model.kind = {c.model.kind!r}: train configs/scenes_classifier.py."
    )
  own = {key: c.model[key] for key in c.model if key not in ("kind", "dtype")}
  config = section(ClassifierConfig, own, f"model of {path}", {"vocab": c.text.vocab})
  clean = build(PROCESSES, c.process.kind, f"process.kind of {path}").at(jnp.float32(0)).model_time

  def layers(network: Any, image: jax.Array) -> list[jax.Array]:
    return network.features(image, jnp.broadcast_to(clean, image.shape[:1]))

  return Features("classifier", lambda rngs: NoisyClassifier(config, rngs), config, layers)


FEATURES: dict[str, Callable[..., Features | None]] = {"none": no_features, "run": features}
