"""Published networks: folders to our parameter trees and back; original files.

`load` and `save` are for diffusers' folders and for text encoders of transformers,
`load_language_model` and `save_language_model` for its language models, `load_file` for single
files in the original layout. `open_folder` returns the model of a folder; `read` loads the weights
of a part of a system from either kind of folder, `read_file` from a single file.
"""

from t2i_jax.pretrained.folder import load, open_folder, save
from t2i_jax.pretrained.known import SPECS
from t2i_jax.pretrained.language_model import (
  language_model_fields,
  load_language_model,
  save_language_model,
)
from t2i_jax.pretrained.latent_diffusion import read_file
from t2i_jax.pretrained.part import read
from t2i_jax.pretrained.qwen_vision import load_qwen_vision
from t2i_jax.pretrained.single_file import load_file
from t2i_jax.pretrained.spec import Spec

__all__ = [
  "SPECS",
  "Spec",
  "language_model_fields",
  "load",
  "load_file",
  "load_language_model",
  "load_qwen_vision",
  "open_folder",
  "read",
  "read_file",
  "save",
  "save_language_model",
]
