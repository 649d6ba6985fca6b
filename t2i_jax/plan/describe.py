"""What a config is, before it is run: parameters, FLOPs, and what the backward pass keeps."""

import math
from typing import Any

import jax
from ml_collections import ConfigDict

from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.models.params import REMAT
from t2i_jax.systems import System, make_system

GIB = 2**30


def system_of(config: ConfigDict) -> System:
  """The system of a config without its data. Raises ConfigError.

  The byte tokenizer stands for a BPE of the data, which has as many tokens as the config says.
  """
  labels = config.text.tokenizer.startswith("labels")
  tokenizer = Tokenizer.load("", config.text.tokenizer) if labels else Tokenizer.bytes()
  return make_system(config, tokenizer)


def parameters(system: System) -> dict[str, int]:
  """Numbers of weights by part."""
  size = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  return {part: size(tree) for part, tree in system.abstract.items()}


def activation_bytes(system: System) -> int:
  """What the backward pass keeps of one row, in bytes.

  What one row more adds to the residuals of the whole forward pass: of the scans all layers, of a
  kernel what it names. The memory that the backward pass of one block needs comes on top.
  """
  return _residuals(system, 2) - _residuals(system, 1)


def _residuals(system: System, rows: int) -> int:
  params = system.abstract
  kept = lambda params, batch: jax.vjp(lambda p: system.forward(p, batch), params)[1]
  leaves = jax.tree.leaves(jax.eval_shape(kept, params, system.rows(rows)))
  return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def describe(config: ConfigDict) -> dict[str, Any]:
  """All of it by name. Raises ConfigError.

  parameters        by part
  row               what it is, in words
  forward           FLOPs of one row: matmuls and attention, 2 a multiply-add
  step              FLOPs of one step, three times the forward of its batch; recomputing not counted
  activations       bytes of one row by remat policy, the config's own too; what is offloaded
                    lies on the host
  """
  system = system_of(config)
  found: dict[str, int] = {}
  for policy in dict.fromkeys((*REMAT, config.model.remat)) if "remat" in config.model else ():
    with_policy = config.copy_and_resolve_references()
    with with_policy.unlocked():
      with_policy.model.remat = policy
    found[policy] = activation_bytes(system_of(with_policy))
  return {
    "name": config.name,
    "row": system.row,
    "parameters": parameters(system),
    "forward": system.flops,
    "step": 3 * config.train.batch * system.flops,
    "activations": found,
  }
