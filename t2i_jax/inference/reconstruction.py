"""How well an autoencoder that was trained here gives images of its data back."""

from typing import Any

import jax
import numpy as np

from t2i_jax.data.source import ShardSource, read_manifest
from t2i_jax.data.transforms import fit_image
from t2i_jax.inference.open import Model

SHEET = 12  # images a split


def score_reconstructions(
  trained: Model, count: int
) -> tuple[dict[str, dict[str, Any]], list[list[np.ndarray]]]:
  """Of at most `count` images of each split, spread over it, from the mean of the posterior.

  Returns by split what System.measured has and the number of images; and rows of a sheet: of each
  split some images, and below them their reconstructions.   Raises ConfigError, DataError.
  """
  reconstruct = trained.need("reconstruct")
  system: Any = trained.system
  config, mesh = trained.config, trained.mesh
  sums_of = jax.jit(system.scores, out_shardings=jax.NamedSharding(mesh, jax.P()))
  params = {"vae": trained.params["vae"]}
  scores: dict[str, dict[str, Any]] = {}
  rows: list[list[np.ndarray]] = []
  for split in read_manifest(config.data.dir)["splits"]:
    records = ShardSource(config.data.dir, split).spread(count)
    images = np.stack([fit_image(record.image, config.data.image_size) for record in records])
    total: dict[str, Any] = {}
    for start in range(0, len(images), config.train.batch):
      index = np.arange(start, start + config.train.batch)
      weight = (index < len(images)).astype(np.float32)
      found = sums_of(params, images[np.minimum(index, len(images) - 1)], weight)
      total = {name: total.get(name, 0) + np.asarray(part) for name, part in found.items()}
    measured = {name: float(value) for name, value in system.measured(total).items()}
    scores[split] = {"images": len(images)} | measured
    shown = images[:: -(-len(images) // SHEET)]
    rows += [list(shown), list(reconstruct(trained.params, shown))]
  return scores, rows
