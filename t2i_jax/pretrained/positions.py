"""Fixed sine-cosine positions as diffusers computes them, bit for bit."""

from functools import partial

import numpy as np

from t2i_jax.models.positions import sincos_positions
from t2i_jax.pretrained.spec import Buffer


def sincos_rows(
  width: int, side: int, base: int, interpolation: float, index: np.ndarray
) -> np.ndarray:
  """Rows of the table of side x side positions, float32.   # [len(index), width]

  index  of the rows, in raster order; patches lie base / side / interpolation apart
  Coordinates are float32, frequencies and angles float64, as in diffusers.
  """
  line = np.arange(side, dtype=np.float32) / np.float32(side / base) / np.float32(interpolation)
  cols_first = np.stack([line[index % side], line[index // side]], axis=-1)
  quarter = width // 4
  frequency = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float64) / (width / 4.0))
  angle = cols_first.astype(np.float64)[:, :, None] * frequency  # [len(index), 2, width / 4]
  both = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
  return both.reshape(len(index), width).astype(np.float32)


def scaled_rows(width: int, side: int, step: float, start: float, index: np.ndarray) -> np.ndarray:
  """As sincos_rows, for patches that lie `step` apart, the first one at `start`."""
  line = start + step * np.arange(side)
  col_row = np.stack([line[index % side], line[index // side]], axis=-1)
  return sincos_positions(col_row, width)


def coordinates(table: np.ndarray) -> np.ndarray:
  """The coordinate that the first half of each row of positions encodes.   [n, width] -> [n]

  Each frequency determines it up to its period. It is found from the lowest frequency upwards,
  each one refining the value of the one before.
  """
  quarter = table.shape[1] // 4
  frequency = 1e4 ** (-np.arange(quarter) / quarter)
  sin, cos = table[:, :quarter].astype(np.float64), table[:, quarter : 2 * quarter]
  found = np.zeros(len(table))
  for k in reversed(range(quarter)):
    phase, period = np.arctan2(sin[:, k], cos[:, k]) / frequency[k], 2 * np.pi / frequency[k]
    found = phase + period * np.round((found - phase) / period)
  return found


def sincos_buffer(
  width: int, side: int, patch: int, interpolation: float = 1.0, max_side: int = 0
) -> Buffer:
  """side: of the latent, in latents.   max_side: of a stored table, in patches (0: not stored)"""
  base = side // patch
  rows = max_side or base
  make = partial(sincos_rows, width, rows, base, interpolation)
  return Buffer((1, rows * rows, width), make, bool(max_side))
