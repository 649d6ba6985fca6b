"""MeanFlow on scenes, from the quickstart's weights: sampled in 1, 2 and 4 steps of Euler.

  t2i train --config=configs/scenes_dit_flow.py --workdir=runs/scenes_dit_flow
  t2i train --config=configs/scenes_meanflow.py --workdir=runs/scenes_meanflow \\
    --config.parts.backbone.start=run:runs/scenes_dit_flow \\
    --config.parts.text.start=run:runs/scenes_dit_flow

Guidance is learned, so that a step is one call of the network.

Result: after 400 steps single objects 20, 76 and 95% right in 1, 2 and 4 calls of the network; the
teacher has 0.5, 20 and 95% in as many steps, at two calls each: docs/few_step.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent


def get_config() -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_meanflow"
  c.model.times = 2  # its own, and that at which a step ends
  c.train.steps = 400
  c.train.objective = "meanflow(ratio=0.5, guidance=2.0)"
  c.train.lr, c.train.vector_lr = 1e-2, 2e-3
  c.sampling.update(solver="euler", steps=2, cfg=1.0)
  return c
