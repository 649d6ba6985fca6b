"""Training on latents in place of images: which system reads them, and that they are not stale."""

import dataclasses
from typing import TypeVar

from ml_collections import ConfigDict

from t2i_jax.data.latents import (
  Latents,
  check_images,
  check_split,
  encode_again,
  latents_of,
  network_text,
)
from t2i_jax.data.roles import BETWEEN
from t2i_jax.errors import ConfigError, DataError
from t2i_jax.systems import System

Kind = TypeVar("Kind", bound=System)


def latents_in(c: ConfigDict) -> Latents | None:
  """What the latents in config.data.dir are of; None where it holds images.

  Raises DataError where it has not the splits of the config, or where the images have changed.
  """
  latents = latents_of(c.data.dir)
  if latents is not None:
    for split in (*c.data.train_split.split(BETWEEN), c.data.val_split):
      check_split(c.data.dir, latents, split)
    check_images(c.data.dir, latents)
  return latents


def reading(system: Kind, latents: Latents | None, c: ConfigDict) -> Kind:
  """The system as it reads the data: latents, where these are in place of images.

  Raises ConfigError, DataError where they are not those that the config's autoencoder would give.
  """
  if latents is None:
    return system
  size = tuple(system.image_shape[:2])
  if "vae" in system.parts and size != latents.image_size:
    height, width = latents.image_size
    raise ConfigError(
      f"data.image_size = {size}: {c.data.dir} holds latents of images of {height} x {width}. Use "
      f"data.image_size=({height}, {width}), or encode them again with --size={size[0]}x{size[1]}."
    )
  if system.x_shape != latents.shape:
    raise ConfigError(
      f"{c.data.dir} holds latents {list(latents.shape)}, and autoencoder = {c.autoencoder!r} of "
      f"data.image_size = {size} has {list(system.x_shape)}: it is another autoencoder. "
      f"{encode_again(c.data.dir, latents)}"
    )
  if c.data.crop != "centre":
    raise ConfigError(
      f"data.crop = {c.data.crop!r}: {c.data.dir} holds latents of the centre of each image. Use "
      f"data.crop='centre', or data.dir={latents.images}."
    )
  own = network_text(system.autoencoder)
  if "vae" in system.parts and own != latents.config:
    raise DataError(
      f"{c.data.dir} holds latents of a {latents.config}, and autoencoder = {c.autoencoder!r} is a "
      f"{own}. {encode_again(c.data.dir, latents)}"
    )
  if "vae" in system.parts and c.parts.vae.train != "none":
    raise ConfigError(
      f"parts.vae.train = {c.parts.vae.train!r}: {c.data.dir} holds latents of fixed weights, so "
      "that the autoencoder is not trained. Use parts.vae.train='none', or the images themselves."
    )
  check_not_adapted(system, "vae", c.data.dir)
  return dataclasses.replace(system, latents=latents)


def check_not_adapted(system: System, part: str, folder: str) -> None:
  """Raises ConfigError where adapters change what a folder holds the output of."""
  for name, one in system.adapters.items():
    if one.of == part:
      raise ConfigError(
        f"adapters.{name} adapts {part}, whose output is read from {folder}: they would not be "
        "trained. Use the folder that was encoded, or leave the adapters out."
      )


def check_weights(c: ConfigDict, latents: Latents | None, frozen: dict[str, str]) -> None:
  """Raises DataError where the latents are of other weights than the run decodes with.

  frozen  training.checksum.fingerprint by part
  """
  if latents is None or "vae" not in frozen or frozen["vae"] == latents.weights:
    return
  start = c.parts.vae.start or "random weights"
  raise DataError(
    f"{c.data.dir} holds latents of an autoencoder with the weights {latents.weights} "
    f"({latents.autoencoder}), and parts.vae.start = {start!r} has {frozen['vae']}: the model "
    "would learn what its decoder cannot read. Let parts.vae.start be the former (folder:PATH or "
    "run:PATH), or encode the images with the latter."
  )
