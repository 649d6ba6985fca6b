"""A model taught a subject from a few images, by a run of the one trainer."""

from t2i_jax.adapt.personalise import METHODS, How, personalise

__all__ = ["METHODS", "How", "personalise"]
