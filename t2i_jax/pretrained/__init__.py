"""Published transformers: diffusers' folders into our parameter trees and back; original files.

`load` and `save` a folder, `load_file` an original file; `open_folder` tells what a folder holds.
"""

from t2i_jax.pretrained.folder import load, open_folder, save
from t2i_jax.pretrained.known import SPECS
from t2i_jax.pretrained.single_file import load_file
from t2i_jax.pretrained.spec import Spec

__all__ = ["SPECS", "Spec", "load", "load_file", "open_folder", "save"]
