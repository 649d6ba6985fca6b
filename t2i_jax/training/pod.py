"""What a pod will hold, without the pod: the real train step through the real TPU compiler.

  python -m t2i_jax.training.pod --config=configs/X.py --topology=v5p:8x8x4

Needs the package libtpu (pip install t2i_jax[tpu]) and no TPU. Nothing is executed or allocated;
a step that does not fit the chip fails in the compiler.
"""

import argparse
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from t2i_jax.config import load_config
from t2i_jax.data.tokenize import Tokenizer
from t2i_jax.parallel import batch_sharding, make_mesh
from t2i_jax.training.optimizer import make_optimizer
from t2i_jax.training.state import TrainState, abstract_state
from t2i_jax.training.step import make_train_step
from t2i_jax.training.system import System, make_system


def abstract_batch(config: ConfigDict, system: System, mesh: Mesh) -> dict[str, Any]:
  """A global batch as the loader gives it: uint8 pixels, or float32 latents."""
  rows, length = config.train.batch, system.text_length
  pixels = jnp.uint8 if system.x_shape[-1] == 3 else jnp.float32
  shapes = {
    "image": ((rows, *system.x_shape), pixels),
    "tokens": ((rows, length), jnp.int32),
    "mask": ((rows, length), jnp.bool_),
    "weight": ((rows,), jnp.float32),
  }
  sharding = batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
    for name, (shape, dtype) in shapes.items()
  }


def lower_train_step(config: ConfigDict, mesh: Mesh):
  system = make_system(config, Tokenizer.bytes())
  optimizer = make_optimizer(config.train, system.matrices)
  abstract = abstract_state(system, optimizer, mesh, config.train.freeze)
  shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)
  step = jax.jit(
    make_train_step(system, optimizer, config),
    donate_argnums=0,
    in_shardings=(shardings, batch_sharding(mesh)),
    out_shardings=(shardings, None),
  )
  with jax.set_mesh(mesh):
    return step.lower(abstract, abstract_batch(config, system, mesh)), abstract
