"""A model at work: opened from a run or a published folder, on any mesh, without an optimiser; and
what it makes, saved."""

from t2i_jax.inference.folder import open_pipeline, starts_in_file
from t2i_jax.inference.open import Model, kept_steps, open_model
from t2i_jax.inference.refine import draw_refined
from t2i_jax.systems.folder import coder_of, folder_config, in_windows, nearest_size

__all__ = [
  "Model",
  "coder_of",
  "draw_refined",
  "folder_config",
  "in_windows",
  "kept_steps",
  "nearest_size",
  "open_model",
  "open_pipeline",
  "starts_in_file",
]
