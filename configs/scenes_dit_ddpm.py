"""The quickstart's model as a DDPM: noise prediction on Stable Diffusion's schedule, and DDIM.

  t2i data build --from scenes --level easy --size 32 --to runs/data/scenes_easy
  t2i train --config=configs/scenes_dit_ddpm.py --workdir=runs/scenes_dit_ddpm

Result: 5 to 7% of single objects right after 800 steps, where v on the same schedule has 72% and x0
on the flow 100%: colours come, shapes do not. docs/objectives.md.
"""

from ml_collections import ConfigDict

from configs import scenes_dit_flow


def get_config() -> ConfigDict:
  c = scenes_dit_flow.get_config()
  c.name = "scenes_dit_ddpm"
  # Schedule: [2112.10752, its code]; eps with its plain squared error: [2006.11239 eq. 14].
  c.process.update(
    kind="ddpm_scaled_linear", prediction="eps", weighting="eps", timesteps="uniform"
  )
  # A patch of 8 is as many numbers as a token here, and noise needs room: docs/objectives.md.
  c.model.patch = 4
  c.train.steps = 800
  c.sampling.solver = "ddim"
  return c
