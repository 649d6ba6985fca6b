"""MeanFlow on scenes, from the quickstart's weights: drawn in 1, 2 and 4 steps of Euler.

  t2i train --config=configs/scenes_dit_flow.py --workdir=runs/scenes_dit_flow
  t2i train --config=configs/scenes_meanflow.py --workdir=runs/scenes_meanflow

Guidance is learned, so that a step is one call of the network. Result: docs/few_step.md.
"""

from ml_collections import ConfigDict

from configs import scenes_consistency, scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "scenes_meanflow"
  for part in c.parts.values():
    part.start = scenes_consistency.TEACHER
  c.model.times = 2  # its own, and that at which a step ends
  c.train.steps = 250
  c.train.objective = "meanflow(ratio=0.5, guidance=2.0)"
  c.train.lr, c.train.vector_lr = 1e-2, 2e-3
  c.sampling.update(solver="euler", steps=2, cfg=1.0)
  return c
