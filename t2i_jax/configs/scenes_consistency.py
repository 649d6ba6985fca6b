"""Consistency models of scenes, from the quickstart's weights: sampled in 1, 2 and 4 steps.

  t2i train --config=configs/scenes_dit_flow.py --workdir=runs/scenes_dit_flow
  t2i train --config=configs/scenes_consistency.py --workdir=runs/scenes_consistency \\
    --config.parts.backbone.start=run:runs/scenes_dit_flow \\
    --config.parts.text.start=run:runs/scenes_dit_flow

Variants: training (the default), from data alone; distillation, of the paths of a guided teacher,
--config.parts.teacher.start=run:runs/scenes_dit_flow, which draws at one call a step.

Result: after 400 steps single objects right in 1, 2 and 4 steps: 29, 60 and 66% by training (two
calls a step), 52, 81 and 89% by distillation (one call a step): docs/few_step.md.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent

VARIANTS = ("training", "distillation")


def get_config(variant: str = "training") -> ConfigDict:
  c = parent.get_config()
  c.name = "scenes_consistency_training"
  # The lowest of the levels alone have the data; the quickstart's law never draws them.
  c.process.timesteps = "logit_normal(mean=0.0, std=2.0)"
  c.train.steps = 400
  # Few levels: each doubling needs steps that a short training has not.
  c.train.objective = "consistency(steps=400, first=10, last=40)"
  c.train.lr, c.train.vector_lr = 2e-3, 4e-4
  c.sampling.update(solver="consistency", steps=2, cfg=1.5)
  if variant == "distillation":
    c.name = "scenes_consistency_distillation"
    c.parts.text.train = "none"
    c.parts.teacher = {"train": "none"}
    # The teacher draws as well in ten such steps: more levels would be a longer chain to learn.
    c.train.objective = "consistency_distillation(steps=400, first=10, last=10, guidance=2.0)"
    c.train.caption_dropout.text = 0.0
    c.sampling.cfg = 1.0
  return c
