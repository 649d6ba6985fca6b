"""What a published model needs to draw, from its folder, before its weights are read."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from t2i_jax.inference.folder import Prepared, prepare
from t2i_jax.parallel import overridden
from t2i_jax.plan.pod import total_bytes
from t2i_jax.plan.program import memory_of
from t2i_jax.systems.draw import Drawing


class Stage(NamedTuple):
  """One program: bytes of the weights it uses, and of what else is in use at its peak; a device."""

  weights: int
  working: int


class Needs(NamedTuple):
  """parameters, weights (bytes a device): by part;   stages: by program

  resident, in_turn  bytes a device at the peak of a sample, with all parts in memory and with
                     --offload
  """

  config: ConfigDict
  parameters: dict[str, int]
  weights: dict[str, int]
  stages: dict[str, Stage]

  @property
  def resident(self) -> int:
    return sum(self.weights.values()) + max(stage.working for stage in self.stages.values())

  @property
  def in_turn(self) -> int:
    return max(sum(stage) for stage in self.stages.values())


def needs_of(folder: str | Path, *how: Any) -> Needs:
  """The needs of a sample; the programs are compiled for this machine's devices.

  how  overrides, size, dtype, too_long, controlnets: as for `prepare`. Raises as it does
  """
  return needs(prepare(folder, *how))


def needs(made: Prepared) -> Needs:
  count = lambda tree: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
  weights = {name: total_bytes(tree, a_device=True) for name, tree in made.abstract.items()}
  with overridden(made.config.mesh.rules):
    drawing = Drawing(made.system, made.config.sampling, made.mesh)
    lowered = drawing.lower(made.abstract)
    of = {
      "encoders": set(made.system.text),
      "sampler": set(drawing.system.sampled),
      "decoder": {"vae"},
    }
    stages = {}
    for name, program in lowered.items():
      own = sum(weights[part] for part in of[name] if part in weights)
      stages[name] = Stage(own, max(0, memory_of(program.compile()).peak - own))
  parameters = {name: count(tree) for name, tree in made.abstract.items()}
  return Needs(made.config, parameters, weights, stages)
