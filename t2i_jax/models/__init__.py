"""Backbones of stacked, scanned blocks, their layers, the one attention, and Conditioning."""

from t2i_jax.models.attention import Mask, attend
from t2i_jax.models.conditioning import Conditioning, Tower
from t2i_jax.models.dit import DiT
from t2i_jax.models.params import axes_of, init_params, matrices_of, with_params

__all__ = [
  "Conditioning",
  "DiT",
  "Mask",
  "Tower",
  "attend",
  "axes_of",
  "init_params",
  "matrices_of",
  "with_params",
]
