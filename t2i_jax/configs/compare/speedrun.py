"""The quickstart's recipes, to be compared at equal time: docs/speedrun.md.

  t2i train --config=configs/compare/speedrun.py:candidate --workdir=runs/speedrun/candidate_0

`first` is the recipe of docs/quickstart.md. `candidate` makes smaller steps, and more of them: it
spends half the time on Muon's iteration, and its patches have absolute positions.

Result: docs/speedrun.md; `candidate` has not been run to its end.
"""

from ml_collections import ConfigDict

from t2i_jax.configs import scenes_dit_flow as parent

VARIANTS = ("first", "candidate", "noisier")


def get_config(variant: str = "candidate") -> ConfigDict:
  c = parent.get_config()
  c.name = f"speedrun_{variant}"
  if variant == "first":
    c.model.absolute = False
    c.process.t_sampling = ()
    c.train.update(steps=1400, batch=96, optimizer="muon(b2=0.99)")
  else:
    c.model.absolute = True
    c.process.t_sampling = ("stratified",)  # [2107.00630 app. I]
    c.train.update(steps=2200, batch=64, optimizer="muon(b2=0.99, iteration='polar')")
  if variant == "noisier":
    c.process.timesteps = "logit_normal(mean=1.5, std=1.2)"
  c.sampling.every = 0
  return c
