"""Unified concept editing [2308.14761]: keys and values of cross-attention, without training.

    W = argmin sum_i |c_i W - a_i W0|^2 + sum_j |p_j W - p_j W0|^2 + ridge |W - W0|^2

for encodings c of concepts, a of their anchors, p of what is preserved. The solution is M W0 with
one M for the keys and values of all layers, since these read the same encodings.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from t2i_jax.errors import ConfigError
from t2i_jax.models.lora import projections
from t2i_jax.models.params import Params
from t2i_jax.systems.roles import tokens_of
from t2i_jax.towers import TextEncoder

READING = "*/cross/kv"  # keys and values that read the encodings themselves
RIDGE = 0.5  # of the published code


def edit_matrix(
  concepts: np.ndarray, anchors: np.ndarray, preserved: np.ndarray, ridge: float = RIDGE
) -> np.ndarray:
  """M of W = M W0.   # [D, D] float64

      M = (ridge I + C^T C + P^T P)^-1 (ridge I + C^T A + P^T P)      [2308.14761 sec. 4]

  concepts, anchors  [n, D] rows c, a;   preserved: [m, D] rows p, m may be 0
  """
  c, a, p = (np.asarray(x, np.float64) for x in (concepts, anchors, preserved))
  stays = ridge * np.eye(c.shape[1]) + p.T @ p
  return np.linalg.solve(stays + c.T @ c, stays + c.T @ a)


def edited(kernel: Any, matrix: np.ndarray, stacked: bool) -> np.ndarray:
  """M W0, of a kernel [D, ...] or, stacked, [layers, D, ...], in its shape and dtype."""
  w0 = np.asarray(kernel, np.float64)
  found = np.tensordot(matrix, w0, (1, 1 if stacked else 0))  # [D, ...] or [D, layers, ...]
  return (np.moveaxis(found, 0, 1) if stacked else found).astype(kernel.dtype)


def last_token(encoder: TextEncoder, text: str) -> int:
  """The place of the last token of a text among those that are encoded; of "", of its end token."""
  own, empty = (_tokens(encoder, one) for one in (text, ""))
  after = 0
  while after < min(len(own), len(empty)) and own[-1 - after] == empty[-1 - after]:
    after += 1
  return len(own) - 1 - (after if own != empty else 0)


def _tokens(encoder: TextEncoder, text: str) -> list[int]:
  """Ids, those that pad left out."""
  ids, mask = encoder.tokenizer.encode([text], encoder.length)
  found = ids[0][mask[0]].tolist()
  while len(found) > 1 and found[-1] == found[-2]:
    found.pop()
  return found


def read_encodings(system: Any, params: Params, texts: Sequence[str]) -> np.ndarray:
  """What keys and values read of the last token of each text, as the published code takes it.

  system  systems.drawing.DrawingSystem, whose backbone has a cross-attention
  Returns [n, D] float32. Raises ConfigError, PromptError.
  """
  check_reading(system)
  if not texts:
    return np.zeros((0, 1), np.float32)
  first = next(iter(system.text.values()))
  places = np.array([last_token(first, text) for text in texts])

  def read(params: Params, tokens: Any) -> jax.Array:
    tower = system.encode_text(params, tokens).towers["text"]
    return system.module(params, "backbone").text_tokens(tower, jnp.float32)  # [n, T, D]

  found = jax.jit(read)(params, jax.tree.map(jnp.asarray, tokens_of(system, texts)))
  return np.asarray(found)[np.arange(len(texts)), places]


def check_reading(system: Any) -> None:
  """Raises ConfigError for a backbone in which the text has no cross-attention."""
  if not any(fnmatchcase(path, READING) for path in projections(system.parts["backbone"].make)):
    raise ConfigError(
      "--method=uce changes the keys and values of cross-attention, which read the encodings; this "
      "backbone has none. Use --method=ablation."
    )


def edit_backbone(
  system: Any,
  params: Params,
  concepts: Sequence[str],
  anchors: Sequence[str],
  keep: Sequence[str],
  ridge: float = RIDGE,
) -> Params:
  """The backbone with changed keys and values, whose other leaves are the same arrays.

  concepts, anchors  texts in pairs;   keep: texts whose keys and values stay
  Raises ConfigError where a concept is read as its anchor is, PromptError.
  """
  c, a = (read_encodings(system, params, texts) for texts in (concepts, anchors))
  for concept, anchor, one, other in zip(concepts, anchors, c, a, strict=True):
    if np.array_equal(one, other):
      raise ConfigError(
        f"--method=uce replaces the last token of {concept!r} by that of {anchor!r}, and this "
        "text encoder gives the same for both. Use --method=ablation."
      )
  p = read_encodings(system, params, keep) if keep else np.zeros((0, c.shape[1]), np.float32)
  matrix = edit_matrix(c, a, p, ridge)
  flat = traverse_util.flatten_dict(params["backbone"], sep="/")
  for path, one in projections(system.parts["backbone"].make).items():
    if fnmatchcase(path, READING):
      leaf = flat[f"{path}/kernel"]
      flat[f"{path}/kernel"] = jax.device_put(edited(leaf, matrix, one.stacked), leaf.sharding)
  return traverse_util.unflatten_dict(flat, sep="/")
