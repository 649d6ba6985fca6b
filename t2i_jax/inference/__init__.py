"""A trained model at work: opened on any mesh, without an optimiser, and what it makes saved."""

from t2i_jax.inference.open import Model, kept_steps, open_model

__all__ = ["Model", "kept_steps", "open_model"]
