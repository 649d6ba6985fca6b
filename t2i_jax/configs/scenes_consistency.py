"""Consistency training on scenes, from the quickstart's weights: sampled in 1, 2 and 4 steps.

  t2i train --config=configs/scenes_dit_flow.py --workdir=runs/scenes_dit_flow
  t2i train --config=configs/scenes_consistency.py --workdir=runs/scenes_consistency \\
    --config.parts.backbone.start=run:runs/scenes_dit_flow \\
    --config.parts.text.start=run:runs/scenes_dit_flow

Result: it does not work yet. 200 steps at five times this rate gave noise, 600 at this one a
pattern that all patches share: docs/few_step.md. Tests hold the objective to its formulas.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_consistency"
  c.train.steps = 600
  # Few levels: each doubling needs steps that a short training has not.
  c.train.objective = "consistency(steps=600, first=10, last=40)"
  c.train.lr, c.train.vector_lr = 2e-3, 4e-4
  c.sampling.update(solver="consistency", steps=2, cfg=1.5)
  return c
