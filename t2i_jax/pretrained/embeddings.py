"""Files of new words, as textual inversion writes them: safetensors of rows of an embedding.

    {word: [D] or [n, D]}                diffusers, and t2i export; a word may have several rows
    {"clip_l": ..., "clip_g": ...}       of both encoders of SDXL; "t5" of FLUX.1
    {"emb_params": [n, D]}               AUTOMATIC1111, of one encoder

The last two do not say the word: it is given, or the file's name. Pickles (.pt, .bin) are not read.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from t2i_jax.errors import RestoreError
from t2i_jax.pretrained.single_file import check_file
from t2i_jax.pretrained.tensors import Tensors

ENCODERS = {"clip_l": "clip_l", "clip_g": "clip_g", "t5": "t5", "t5xxl": "t5"}
UNNAMED = "emb_params"


class NewWord(NamedTuple):
  """rows: [n, D] float32, of n tokens;   encoder: one of ENCODERS' values, "" where none is said"""

  word: str
  rows: np.ndarray
  encoder: str = ""


def read_embeddings(path: str | Path, word: str = "") -> list[NewWord]:
  """The words of a file.   word: what to call the one that it holds; "" = as the file does

  Raises RestoreError for a file that is damaged, a pickle, or holds something else.
  """
  file = check_file(path)
  with Tensors() as tensors:
    tensors.add(file)
    read = {
      name: tensors.read(name, (slice(None),) * len(at.shape)).astype(np.float32)
      for name, at in tensors.stored.items()
    }
  wrong = [f"{name} {list(x.shape)}" for name, x in read.items() if x.ndim not in (1, 2)]
  if wrong or not read:
    raise RestoreError(
      f"{path} has {', '.join(wrong) or 'no tensor'}: no embeddings of words, which are [width] or "
      "[tokens, width]."
    )
  rows = {name: x.reshape(-1, x.shape[-1]) for name, x in read.items()}
  if set(rows) <= set(ENCODERS):
    return [NewWord(word or file.stem, x, ENCODERS[name]) for name, x in rows.items()]
  if set(rows) == {UNNAMED}:
    return [NewWord(word or file.stem, rows[UNNAMED])]
  if word and len(rows) > 1:
    raise RestoreError(f"{path} has the words {', '.join(rows)}: leave ={word} out.")
  return [NewWord(word or name, x) for name, x in rows.items()]
