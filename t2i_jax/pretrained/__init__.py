"""Published transformers: diffusers' folders into our parameter trees and back; original files.

`load` and `save` a folder, `load_file` an original file; `open_folder` tells what a folder holds.
`load_language_model` and `save_language_model` a folder of transformers. `read` is for a part of a
system, whatever folder its weights come in.
"""

from t2i_jax.pretrained.folder import load, open_folder, save
from t2i_jax.pretrained.known import SPECS
from t2i_jax.pretrained.language_model import (
  language_model_fields,
  load_language_model,
  save_language_model,
)
from t2i_jax.pretrained.part import read
from t2i_jax.pretrained.single_file import load_file
from t2i_jax.pretrained.spec import Spec

__all__ = [
  "SPECS",
  "Spec",
  "language_model_fields",
  "load",
  "load_file",
  "load_language_model",
  "open_folder",
  "read",
  "save",
  "save_language_model",
]
