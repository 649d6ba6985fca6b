"""Batches for the tests: images and captions of random numbers, and packed rows."""

import numpy as np

from t2i_jax.data.batch import Batch, Tokens, stack


def make_batch(n=16, shape=(32, 32, 3), length=8, weight=None, seed=0, encoders=("text",)):
  """n images of uint8 noise and n captions of bytes, one image a row."""
  rng = np.random.default_rng(seed)
  images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
  ids = rng.integers(3, 259, (n, length)).astype(np.int32)
  tokens = Tokens(ids, np.ones((n, length), bool))
  one = np.ones((n, 1), np.float32)
  used = one if weight is None else np.asarray(weight, np.float32)[:, None]
  return Batch(images[:, None], used, one, dict.fromkeys(encoders, tokens))


def packed(system, rows):
  """A batch of rows, each a list of documents."""
  return stack([system.layout.pack(documents, system.image_shape) for documents in rows])
