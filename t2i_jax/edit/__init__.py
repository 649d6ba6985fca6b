"""Editors of images by text: Prompt-to-Prompt, SDEdit, inversions, attention."""

from t2i_jax.edit.methods import METHODS
from t2i_jax.edit.request import Edited, Method, Request

__all__ = ["METHODS", "Edited", "Method", "Request"]
